"""What suites of attention maps share: whole images, and the map of each image at the image's own size."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from experiments.data.images import as_images, read_image
from experiments.evaluation.measures.maps import attention_map
from experiments.evaluation.suites.suite import Options, Suite, SuitePart
from vars_dyn.attention import upsampled

__all__ = ["MapOptions", "MapSuite", "Maps", "whole_image"]


@dataclass
class Maps:
    """Which attention map.

    Attributes:
        layer: the layer whose map it is, by its name in the network; None: the first attention layer.
    """

    layer: str | None = None


class MapOptions(Options, Protocol):
    """The options of suites that measure attention maps."""

    maps: Maps


def whole_image(image: Image.Image, size: int) -> Image.Image:
    """The whole image as the model takes it: resized to a square (bicubic), with nothing cropped."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


class MapSuite(Suite):
    """Measures attention maps. The model sees whole images, and the maps are resized bilinearly to the images' size."""

    how: MapOptions

    def options(self) -> Any:
        return asdict(self.how.maps)

    def maps(self, part: SuitePart) -> Iterator[tuple[Path, Float[Tensor, "h w"]]]:
        """The file of each image, and its map, in float64."""
        paths = [entry[0] if isinstance(entry, tuple) else entry for entry in part.images.entries]
        for start in range(0, len(paths), self.how.batch_size):
            chosen = paths[start : start + self.how.batch_size]
            sizes, pixels = zip(*self._read(chosen), strict=True)
            images = as_images(np.stack(pixels)).to(self.subject.device)
            for path, size, grid in zip(chosen, sizes, self._grids(images), strict=True):
                yield path, upsampled(grid, size)

    def _read(self, paths: list[Path]) -> list[tuple[tuple[int, int], np.ndarray]]:
        """Height and width of each image, and the pixels that the model takes."""

        def read(path: Path) -> tuple[tuple[int, int], np.ndarray]:
            image = read_image(path)
            return (image.height, image.width), np.asarray(whole_image(image, self.subject.data.image_size))

        if not self.how.workers:
            return [read(path) for path in paths]
        with ThreadPoolExecutor(self.how.workers) as pool:
            return list(pool.map(read, paths))

    @torch.no_grad()
    def _grids(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b rows columns"]:
        return attention_map(self.subject.model, images, self.how.maps.layer).cpu().double()
