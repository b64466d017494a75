"""Images as signals: how they are read, cut into patches, and assembled from patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vars_dyn._reading import one_line, regular_file
from vars_dyn._resources import need_memory

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "Picture",
    "Signals",
    "assemble",
    "centre",
    "crop",
    "image_files",
    "normalise",
    "patch_count",
    "patches",
    "read_image",
    "read_picture",
    "read_rgb",
]

#: The formats that are read, by Pillow's names, and the suffixes of their files.
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp", ".tif", ".tiff")
#: For an image of more pixels, the memory is checked before it is decoded.
_LARGE = 10**7


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


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name. Raises ValueError where there is none."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"the folder {folder} holds no image; files ending in {', '.join(IMAGE_SUFFIXES)} are wanted")
    return files


@dataclass(frozen=True)
class Picture:
    """A decoded image file: the stored numbers, and what is needed to interpret them.

    Attributes:
        stored: the numbers as stored, (colour, row, column), with one grey or three colours, float64.
        depth: the stored number that stands for white: 255 for 8 bits, 65535 for 16, 1 for one bit and for floats.
        alpha: opacity from 0 to 1, (row, column); None where every pixel is opaque.
    """

    stored: NDArray[np.float64]
    depth: float
    alpha: NDArray[np.float64] | None

    def over(self, background: float, full_scale: float | None = None) -> NDArray[np.float64]:
        """The image over a grey ground (0 black, 1 white), divided by `full_scale` (by default its own depth)."""
        shown = self.stored
        if self.alpha is not None:
            shown = self.alpha * shown + (1 - self.alpha) * (background * self.depth)
        divisor = self.depth if full_scale is None else full_scale
        return shown if divisor == 1 else shown / divisor


def read_image(path: Path, *, colour: bool = False, background: float = 1.0) -> NDArray[np.float64]:
    """An image as an array (colour, row, column), in which 1 is the white of its depth; one channel unless `colour`.

    The image is turned upright by its EXIF orientation. Transparent pixels show `background`, a grey from 0 (black) to
    1 (white). Images of floats keep their numbers. Raises ValueError as `read_picture` does.
    """
    return read_picture(path, colour=colour).over(background)


def read_rgb(path: Path, *, background: float = 1.0) -> Image.Image:
    """An image in the form that networks take: `read_image` in colour, rounded to 8 bits of red, green and blue.

    Images with 16 bits per colour keep their upper 8 bits. Raises ValueError as `read_picture` does, and for numbers
    outside [0, 1], which 8 bits cannot hold.
    """
    image = _opened(path)
    if not _is_deep(image) and not image.has_transparency_data:
        return _converted(path, image, "RGB")
    values = _picture(path, image, colour=True).over(background)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"{path} holds numbers from {values.min():g} to {values.max():g}; numbers from 0 to 1, whole numbers of a "
            "stated depth, or 8 bits a colour are wanted"
        )
    return Image.fromarray(np.moveaxis(np.round(255 * values), 0, -1).astype(np.uint8))


def read_picture(path: Path, *, colour: bool = False) -> Picture:
    """The numbers that an image file stores, turned upright, in grey or in `colour`.

    Raises ValueError for what cannot be read as an image: a file that is not regular, in none of `FORMATS` or damaged,
    several frames, 16 bits for each of several colours (of which Pillow reads 8), and numbers that are not finite.
    """
    image = _opened(path)
    if image.info["vars_dyn_narrowed"]:
        raise ValueError(
            f"{path} holds more than 8 bits for each colour, of which 8 would be lost; "
            "8 bits a colour, 16 bits of grey, or a .npy array is wanted"
        )
    return _picture(path, image, colour=colour)


def _opened(path: Path) -> Image.Image:
    """The image, decoded and turned upright; ValueError in one sentence where the file is no image."""
    regular_file(path, "an image")
    try:
        with Image.open(path, formats=FORMATS) as file:
            frames = getattr(file, "n_frames", 1)
            if frames > 1 and file.format != "MPO":  # a telephone's JPEG has previews as further frames
                raise ValueError(f"it holds {frames} frames; one is wanted")
            if file.width * file.height > _LARGE:
                # Six arrays of float64 at most: the decoded pixels, their conversions, and the result.
                need = 8 * 6 * file.width * file.height * len(file.getbands())
                need_memory(need, f"an image of {file.width} x {file.height} pixels", "a smaller one is wanted")
            narrowed = _is_narrowed(file)
            tags = getattr(file, "tag_v2", {})
            bits, signed = tags.get(258, (0,))[0], tags.get(339, (1,))[0] == 2
            inverted = tags.get(262) == 0
            file.load()
            key = file.info.get("transparency")
            ImageOps.exif_transpose(file, in_place=True)
            image: Image.Image = file
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no image; {', '.join(FORMATS[:-1])} or {FORMATS[-1]} is wanted") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from None
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # for a damaged file Pillow raises errors of many types
        raise ValueError(f"{path} cannot be read as an image: {one_line(error) or type(error).__name__}") from None
    image.info.update(vars_dyn_narrowed=narrowed, vars_dyn_tags=(bits, signed, inverted), transparency=key)
    if key is None:
        del image.info["transparency"]
    return image


def _is_narrowed(file: Image.Image) -> bool:
    """Whether Pillow drops all but 8 bits of a colour, having no mode for more. Only the decoder's plan shows it."""
    plan = [part for tile in getattr(file, "tile", []) for part in np.atleast_1d(np.array(tile[3], dtype=object))]
    deep = any(isinstance(part, str) and ";16" in part for part in plan)
    if file.format == "PPM":
        deep = any(isinstance(part, int) and part > 255 for part in plan)
    return deep and not _is_deep(file)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _picture(path: Path, image: Image.Image, *, colour: bool) -> Picture:
    key = image.info.get("transparency")
    if _is_deep(image):
        stored, depth = _deep(path, image)
        alpha = None if key is None else (np.asarray(image) != key).astype(np.float64)
        stored = np.repeat(stored[None], 3 if colour else 1, axis=0)
    else:
        alpha = None
        if image.has_transparency_data:
            image = _converted(path, image, "RGBA")
            alpha = np.asarray(image.getchannel("A"), dtype=np.float64) / 255
            image = image.convert("RGB")
        depth = 1.0 if image.mode == "1" else 255.0
        pixels = _converted(path, image, "RGB" if colour else "L")
        stored = np.asarray(pixels, dtype=np.float64) / (255.0 / depth)
        stored = np.moveaxis(stored, -1, 0).copy() if colour else stored[None]
    return Picture(stored, depth, None if alpha is None or bool((alpha == 1).all()) else alpha)


def _deep(path: Path, image: Image.Image) -> tuple[NDArray[np.float64], float]:
    """One channel of more than 8 bits as it is stored, and the number that stands for white."""
    bits, signed, inverted = image.info["vars_dyn_tags"]
    stored = np.asarray(image)
    if image.mode == "F":
        values, depth = stored.astype(np.float64), 1.0
        if not np.isfinite(values).all():
            raise ValueError(f"{path} holds NaN or infinity; finite numbers are wanted")
    else:
        if not bits:  # Pillow reads PNG's and PPM's 16 bits as integers of 32 or of 16
            bits = 16
        if bits == 32 and not signed:
            stored = stored.astype(np.int32).view(np.uint32)
        values, depth = stored.astype(np.float64), 2.0 ** (bits - signed) - 1
    return (depth - values if inverted else values), depth


def _converted(path: Path, image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ValueError(f"{path} has colours of the kind {image.mode}: {one_line(error)}") from None


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
