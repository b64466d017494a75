"""Read image files: the stored numbers, what they mean, and which way is up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from vars_dyn._reading import one_line, regular_file
from vars_dyn._resources import need_memory

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "Pages",
    "Picture",
    "image_files",
    "read_image",
    "read_picture",
    "read_rgb",
]

#: The formats that are read, by Pillow's names, and the suffixes of their files.
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp", ".tif", ".tiff")
#: For an image of more pixels, the memory is checked before it is decoded.
_LARGE = 10**7


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
    return _whole_picture(path, _opened(path), colour=colour)


def _whole_picture(path: Path, image: Image.Image, *, colour: bool) -> Picture:
    if image.info["vars_dyn_narrowed"]:
        raise ValueError(
            f"{path} holds more than 8 bits for each colour, of which 8 would be lost; "
            "8 bits a colour, 16 bits of grey, or a .npy array is wanted"
        )
    return _picture(path, image, colour=colour)


class Pages:
    """The pages of a TIFF, which is kept open; a file of another format has one page.

    Attributes:
        count: the number of pages.

    Raises ValueError as `read_picture` does.
    """

    def __init__(self, path: Path) -> None:
        regular_file(path, "an image")
        self._path = path
        with _explained(path):
            self._file = Image.open(path, formats=FORMATS)
            self.count = int(getattr(self._file, "n_frames", 1)) if self._file.format == "TIFF" else 1

    def picture(self, number: int, *, colour: bool = False) -> Picture:
        """The page `number`, counted from 0, as `read_picture` gives it. Raises ValueError as that does."""
        with _explained(self._path):
            self._file.seek(number)
            image = _decoded(self._file)
        return _whole_picture(self._path, image, colour=colour)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _opened(path: Path) -> Image.Image:
    """The image, decoded and turned upright; ValueError in one sentence where the file is no image."""
    regular_file(path, "an image")
    with _explained(path), Image.open(path, formats=FORMATS) as file:
        frames = getattr(file, "n_frames", 1)
        if frames > 1 and file.format != "MPO":  # a telephone's JPEG has previews as further frames
            raise ValueError(f"it holds {frames} frames; one is wanted")
        return _decoded(file)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn Pillow's errors into a ValueError of one sentence."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no image; {', '.join(FORMATS[:-1])} or {FORMATS[-1]} is wanted") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from None
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # for a damaged file Pillow raises errors of many types
        raise ValueError(f"{path} cannot be read as an image: {one_line(error) or type(error).__name__}") from None


def _decoded(file: ImageFile) -> Image.Image:
    """The image of an open file, or its present page, turned upright, with what else is needed in `info`."""
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
    image = ImageOps.exif_transpose(file)
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
