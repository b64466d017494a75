"""Images as signals: crops, patches and their places, and what is done to a signal before it is coded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Signals", "assemble", "centre", "crop", "normalise", "patch_count", "patches", "resized"]


@dataclass(frozen=True)
class Signals:
    """Signals, and where they come from.

    Attributes:
        values: the signals, (signal, *signal_shape).
        coordinates: by name, one value per signal, such as the patch's place in its image or the subtracted mean.
        attributes: by name, what holds for all signals, such as their files or the patch size.
    """

    values: NDArray[np.float64]
    coordinates: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    attributes: dict[str, str | int | float | list[str] | list[int] | list[float]] = field(default_factory=dict)

    @property
    def patch_colours(self) -> int | None:
        """How many colours each patch has; None where the signals are no patches."""
        colours = self.attributes.get("patch_colours")
        return colours if isinstance(colours, int) else None


def crop(image: NDArray[np.float64], box: Sequence[int]) -> NDArray[np.float64]:
    """The part (top, left, height, width) of an image (colour, row, column), in pixels; ValueError if it sticks out."""
    top, left, height, width = box
    rows, columns = image.shape[-2:]
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise ValueError(
            f"crop is {top},{left},{height},{width}; TOP,LEFT,HEIGHT,WIDTH inside the image of {rows} x {columns} "
            "pixels is wanted"
        )
    return image[..., top : top + height, left : left + width]


def resized(image: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """An image (colour, row, column) with another number of pixels, resampled (Lanczos) in single precision."""
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((columns, rows), Image.Resampling.LANCZOS))
        for plane in image
    ]
    return np.stack(planes).astype(np.float64)


def patch_count(images: Sequence[NDArray[np.float64]], size: int, stride: int | None = None) -> int:
    """The number of patches that `patches` cuts. Raises ValueError for an image smaller than a patch."""
    return sum(math.prod(_grid(number, image, size, stride or size)) for number, image in enumerate(images))


def patches(
    images: Sequence[NDArray[np.float64]],
    size: int,
    stride: int | None = None,
    chosen: NDArray[np.integer] | None = None,
) -> Signals:
    """Square patches of images (colour, row, column) as vectors (signal, colour * size * size).

    `stride` pixels lie between the corners of neighbouring patches (by default `size`). Rows at the bottom and columns
    at the right that fill no patch are left out. `chosen` holds the numbers of the patches to take, in increasing order
    (by default all). The coordinates patch_image, patch_row and patch_column say where each patch was. Raises
    ValueError for an image smaller than a patch.
    """
    step = size if stride is None else stride
    values, places, before = [], [], 0
    for number, image in enumerate(images):
        down, across = _grid(number, image, size, step)
        view = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(-2, -1))[:, ::step, ::step]
        index: NDArray[np.integer] = np.arange(down * across)
        if chosen is not None:
            index = chosen[(chosen >= before) & (chosen < before + down * across)] - before
        before += down * across
        row, column = np.divmod(index, across)
        values.append(np.moveaxis(view[:, row, column], 0, 1).reshape(len(index), -1))
        places.append(np.stack([np.full(row.size, number), step * row, step * column], axis=1))
    place = np.concatenate(places)
    return Signals(
        np.concatenate(values),
        {"patch_image": place[:, 0], "patch_row": place[:, 1], "patch_column": place[:, 2]},
        {"patch_size": size, "patch_stride": step, "patch_colours": int(images[0].shape[0])},
    )


def _grid(number: int, image: NDArray[np.float64], size: int, step: int) -> tuple[int, int]:
    """How many patches fit into an image, down and across."""
    rows, columns = image.shape[-2:]
    if min(rows, columns) < size:
        raise ValueError(
            f"image {number} has {rows} x {columns} pixels; at least the patch of {size} x {size} is wanted"
        )
    return (rows - size) // step + 1, (columns - size) // step + 1


def assemble(
    values: NDArray[np.float64], row: NDArray[np.integer], column: NDArray[np.integer], size: int
) -> NDArray[np.float64]:
    """The image (colour, row, column) made of patches (signal, colour * size * size) at (row, column).

    Overlapping patches are averaged. Pixels that no patch covers are NaN.
    """
    tiles = values.reshape(len(values), -1, size, size)
    top, left = int(row.min()), int(column.min())
    shape = (tiles.shape[1], int(row.max()) - top + size, int(column.max()) - left + size)
    total, count = np.zeros(shape), np.zeros(shape[1:])
    for tile, r, c in zip(tiles, row - top, column - left, strict=True):
        total[:, r : r + size, c : c + size] += tile
        count[r : r + size, c : c + size] += 1
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


def centre(signals: Signals) -> Signals:
    """Signals without their mean, which the coordinate signal_mean keeps."""
    axes = tuple(range(1, signals.values.ndim))
    mean = signals.values.mean(axis=axes)
    values = signals.values - mean.reshape(-1, *[1] * len(axes))
    return Signals(values, signals.coordinates | {"signal_mean": mean}, signals.attributes)


def normalise(signals: Signals) -> Signals:
    """Signals divided by their norm, which the coordinate signal_norm keeps. A signal of zeros stays zero."""
    axes = tuple(range(1, signals.values.ndim))
    norm = np.sqrt((signals.values**2).sum(axis=axes))
    scale = np.where(norm > 0, norm, 1.0).reshape(-1, *[1] * len(axes))
    return Signals(signals.values / scale, signals.coordinates | {"signal_norm": norm}, signals.attributes)
