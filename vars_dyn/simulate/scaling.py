"""How the numbers of a file become those of a signal: the scale, its description, and another number of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vars_dyn._resources import need_memory
from vars_dyn.images import resized

__all__ = ["described", "divisor", "rescaled", "scaled_sides"]


def divisor(asked: str | float, depth: float) -> float:
    """The stored number that becomes 1, for an image, a frame or a sound whose own full scale is `depth`."""
    return depth if asked in ("auto", "dtype") else 1.0 if asked == "none" else float(asked)


def described(scales: Sequence[float], what: str, more: str = "") -> dict[str, Any]:
    """The attributes that say how the stored numbers were scaled."""
    distinct = sorted(set(scales))
    done = "as they are stored" if distinct == [1.0] else f"divided by {' or '.join(f'{s:.10g}' for s in distinct)}"
    return {"scaling": f"{what} {done}{more}", "full_scale": distinct}


def rescaled(image: NDArray[np.float64], scale: float | None) -> NDArray[np.float64]:
    """The image (colour, row, column) with its sides multiplied by --scale."""
    return image if scale is None or scale == 1 else resized(image, *scaled_sides(image.shape, scale))


def scaled_sides(shape: Sequence[int], scale: float) -> tuple[int, int]:
    """The numbers of rows and columns of an image (colour, row, column) with its sides multiplied by --scale."""
    sides = [n * scale for n in shape[-2:]]
    if max(sides) > 1e6:
        raise ValueError(f"--scale is {scale:g}, which makes sides of {max(sides):.3g} pixels; at most 1e6 are wanted")
    rows, columns = (max(1, round(n)) for n in sides)
    need_memory(16.0 * rows * columns * shape[0], f"--scale {scale:g}", "a smaller one is wanted")
    return rows, columns
