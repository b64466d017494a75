"""The token grid that a patch embedding makes, read from what it takes and gives."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from vars_dyn.attention.dictionaries.tokens import Grid

__all__ = ["embedded_grid", "sides"]


def sides(image: Tensor, channels_last: bool = False) -> Grid:
    """(H, W) of images (B, C, H, W), or (B, H, W, C)."""
    shape = image.shape[1:3] if channels_last else image.shape[-2:]
    return shape[0], shape[1]


def embedded_grid(module: Any, args: Any, output: Any) -> Grid | None:
    """The grid of a patch embedding's output, which is a map or tokens, with or without the grid beside it."""
    if isinstance(output, (tuple, list)):
        if len(output) < 2:
            return embedded_grid(module, args, output[0]) if output else None
        size = output[1]
        return None if size is None or len(size) != 2 else (int(size[0]), int(size[1]))
    if output.ndim == 4:
        return sides(output, str(getattr(module, "output_fmt", "NCHW")).endswith("NHWC"))
    image = args[0] if args else None
    grid = getattr(module, "grid_size", None)
    if isinstance(image, Tensor) and image.ndim == 4 and hasattr(module, "dynamic_feat_size"):
        grid = module.dynamic_feat_size((image.shape[-2], image.shape[-1]))
    if grid is None or len(grid) != 2 or output.ndim != 3 or math.prod(grid) != output.shape[1]:
        return None
    return grid[0], grid[1]
