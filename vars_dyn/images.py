"""Images as signals: reading them, cutting them into patches, and putting patches together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = [
    "IMAGE_SUFFIXES",
    "Signals",
    "assemble",
    "centre",
    "crop",
    "image_files",
    "normalise",
    "patches",
    "read_image",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Signals:
    """Signals and where they come from.

    Attributes:
        values: the signals, (signal, *signal_shape).
        coordinates: one value per signal, by name: the patch's place in its image, the mean taken off it, ...
        attributes: what holds for all of them, by name: files, patch size, image shape, ...
    """

    values: NDArray[np.float64]
    coordinates: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    attributes: dict[str, str | int | float | list[str] | list[int]] = field(default_factory=dict)


def image_files(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder, by name. Raises ValueError where there is none."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"the folder {folder} holds no image; files ending in {', '.join(IMAGE_SUFFIXES)} are wanted")
    return files


def read_image(path: Path, *, colour: bool = False) -> NDArray[np.float64]:
    """An image as an array (colour, row, column) with values in [0, 1]; one grey channel unless `colour`.

    Upright by its EXIF orientation; transparency is dropped. Raises ValueError for what cannot be read as an image.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no image; PNG or JPEG is wanted") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
    if image.mode.startswith("I") or image.mode == "F":
        deep = np.asarray(image, dtype=np.float64) / (65535.0 if image.mode.startswith("I") else 1.0)
        return np.repeat(deep[None], 3 if colour else 1, axis=0)
    pixels = np.asarray(image.convert("RGB" if colour else "L"), dtype=np.float64) / 255.0
    return np.moveaxis(pixels, -1, 0).copy() if colour else pixels[None]


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


def patches(images: Sequence[NDArray[np.float64]], size: int, stride: int | None = None) -> Signals:
    """Square patches of images (colour, row, column) as vectors (signal, colour * size * size).

    `stride` pixels lie between the corners of neighbouring patches (`size` unless given); rows and columns at the right
    and bottom that fill no patch are left out. The coordinates patch_image, patch_row and patch_column say where each
    patch was. Raises ValueError for an image smaller than a patch.
    """
    step = size if stride is None else stride
    values, places = [], []
    for number, image in enumerate(images):
        rows, columns = image.shape[-2:]
        if min(rows, columns) < size:
            raise ValueError(
                f"image {number} has {rows} x {columns} pixels; at least the patch of {size} x {size} is wanted"
            )
        view = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(-2, -1))[:, ::step, ::step]
        colours, down, across = view.shape[:3]
        values.append(np.moveaxis(view, 0, 2).reshape(down * across, colours * size * size))
        row, column = np.meshgrid(step * np.arange(down), step * np.arange(across), indexing="ij")
        places.append(np.stack([np.full(row.size, number), row.ravel(), column.ravel()], axis=1))
    place = np.concatenate(places)
    return Signals(
        np.concatenate(values),
        {"patch_image": place[:, 0], "patch_row": place[:, 1], "patch_column": place[:, 2]},
        {"patch_size": size, "patch_stride": step, "patch_colours": int(images[0].shape[0])},
    )


def assemble(
    values: NDArray[np.float64], row: NDArray[np.integer], column: NDArray[np.integer], size: int
) -> NDArray[np.float64]:
    """The image (colour, row, column) that patches (signal, colour * size * size) at (row, column) make up.

    Overlapping patches are averaged; pixels under no patch are NaN.
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
    """Signals less their own mean, which the coordinate signal_mean keeps."""
    axes = tuple(range(1, signals.values.ndim))
    mean = signals.values.mean(axis=axes)
    values = signals.values - mean.reshape(-1, *[1] * len(axes))
    return Signals(values, signals.coordinates | {"signal_mean": mean}, signals.attributes)


def normalise(signals: Signals) -> Signals:
    """Signals of norm 1 (a signal of zeros stays one); the coordinate signal_norm keeps the norm that each had."""
    axes = tuple(range(1, signals.values.ndim))
    norm = np.sqrt((signals.values**2).sum(axis=axes))
    scale = np.where(norm > 0, norm, 1.0).reshape(-1, *[1] * len(axes))
    return Signals(signals.values / scale, signals.coordinates | {"signal_norm": norm}, signals.attributes)
