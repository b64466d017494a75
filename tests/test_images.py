"""Readers return the stored values of images of every mode, in units of the white of that mode."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vars_dyn.images import read_image, read_picture, read_rgb

BYTES = np.array([[0, 1, 100], [127, 200, 255]], dtype=np.uint8)
WORDS = np.array([[0, 1, 256], [40000, 65280, 65535]], dtype=np.uint16)
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60)).astype(np.uint8)
COLOURS = np.stack([BYTES, BYTES[::-1], BYTES[:, ::-1]], axis=-1)
ALPHA = np.array([[0, 255, 51], [255, 102, 204]], dtype=np.uint8)


def grey_of(colours: Any) -> Any:
    """The grey value by ITU-R 601-2, which Pillow documents for its mode L, to one level of 255."""
    return colours @ np.array([0.299, 0.587, 0.114])


def png(path: Path, pixels: Any, depth: int, kind: int, extra: bytes = b"") -> None:
    """Write a PNG file of whole numbers (row, column[, channel]) by hand, since Pillow writes no deep colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows, columns = pixels.shape[:2]
    body = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def transparent(key: int) -> bytes:
    data = struct.pack(">H", key)
    return struct.pack(">I", 2) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))


def saved(pixels: Any, mode: str | None = None, name: str = "image.png", **options: Any) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        (image if mode is None else image.convert(mode)).save(folder / name, **options)
        return folder / name

    return save


def palette(transparency: Any = None) -> Callable[[Path], Path]:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    return saved(image, **({} if transparency is None else {"transparency": transparency}))


P_COLOURS = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]])[np.array([[0, 1, 2], [2, 1, 0]])]
OVER = ALPHA[..., None] / 255 * COLOURS / 255 + (1 - ALPHA[..., None] / 255)  # the transparent picture over white
FLOATS = np.array([[0.0, 0.25, -1.5], [1e-3, 2.0, 7.0]], dtype=np.float32)
INTS = np.array([[0, 5, 1000], [2**20, 2**31 - 1, 77]], dtype=np.int32)
CMYK = np.concatenate([COLOURS, np.zeros_like(ALPHA[..., None])], axis=-1)

#: For each mode a function that makes a file, the values that it holds, and the largest error by rounding to levels.
CASES: dict[str, tuple[Callable[[Path], Path], Any, float]] = {
    "1": (saved(np.array([[True, False, True], [False, False, True]])), np.array([[1, 0, 1], [0, 0, 1]]), 0),
    "L": (saved(BYTES), BYTES / 255, 0),
    "LA": (
        saved(np.stack([BYTES, ALPHA], axis=-1), "LA"),
        ALPHA / 255 * BYTES / 255 + (1 - ALPHA / 255),
        1e-12,
    ),
    "L, one level transparent": (saved(BYTES, transparency=100), np.where(BYTES == 100, 1, BYTES / 255), 1e-12),
    "P": (palette(), P_COLOURS / 255, 0),
    "P, one entry transparent": (
        palette(1),
        np.where((P_COLOURS == [0, 255, 0]).all(-1, keepdims=True), 1, P_COLOURS / 255),
        1e-12,
    ),
    "P, alpha by entry": (
        palette(bytes([51, 255, 102])),
        np.array([[51, 255, 102], [102, 255, 51]])[..., None] / 255 * (P_COLOURS / 255 - 1) + 1,
        1e-12,
    ),
    "RGB": (saved(COLOURS), COLOURS / 255, 0),
    "RGBA": (saved(np.concatenate([COLOURS, ALPHA[..., None]], axis=-1)), OVER, 1e-12),
    "RGBA, webp": (
        saved(np.concatenate([COLOURS, ALPHA[..., None]], axis=-1), name="a.webp", lossless=True, exact=True),
        OVER,
        1e-12,
    ),
    "I;16, png": (saved(WORDS), WORDS / 65535, 0),
    "I;16, tiff": (saved(WORDS, name="a.tif"), WORDS / 65535, 0),
    "I;16, pgm": (saved(WORDS, name="a.pgm"), WORDS / 65535, 0),
    "I": (saved(INTS, name="a.tif"), INTS / (2**31 - 1), 0),
    "F": (saved(FLOATS, name="a.tif"), FLOATS, 0),
    "CMYK": (
        saved(Image.frombytes("CMYK", (3, 2), CMYK.tobytes()), name="a.tif"),
        (255 - COLOURS) / 255,
        0,
    ),
    "bmp": (saved(COLOURS, name="a.bmp"), COLOURS / 255, 0),
}


@pytest.mark.parametrize("mode", CASES)
def test_every_mode(mode: str, tmp_path: Path) -> None:
    make, wanted, error = CASES[mode]
    path = make(tmp_path)
    colours = wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, axis=-1)
    found = read_image(path, colour=True)
    assert found.dtype == np.float64
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), colours, rtol=0, atol=error)
    grey = grey_of(colours) if wanted.ndim == 3 else wanted
    np.testing.assert_allclose(read_image(path)[0], grey, rtol=0, atol=1.01 / 255 if wanted.ndim == 3 else error)
    # Networks get the same image in bytes, or an error, but never an image with clipped values.
    if colours.min() < 0 or colours.max() > 1:
        with pytest.raises(ValueError, match="numbers from 0 to 1"):
            read_rgb(path)
    else:
        np.testing.assert_allclose(np.asarray(read_rgb(path)), 255 * colours, rtol=0, atol=0.5 + 1e-6)


@given(st.integers(0, 255), st.integers(0, 255), st.floats(0, 1))
def test_the_ground_behind_transparent_pixels(value: int, alpha: int, background: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        Image.new("RGBA", (2, 2), (value, value, value, alpha)).save(path)
        found = read_image(path, background=background)
    wanted = alpha / 255 * value / 255 + (1 - alpha / 255) * background
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_sixteen_bits_with_a_transparent_level(tmp_path: Path) -> None:
    png(tmp_path / "a.png", WORDS, 16, 0, transparent(40000))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], np.where(WORDS == 40000, 1, WORDS / 65535))


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_deep_colour_is_not_narrowed_in_silence(kind: int, channels: int, tmp_path: Path) -> None:
    pixels = np.stack([WORDS, WORDS[::-1], WORDS[:, ::-1], np.full_like(WORDS, 65535)], axis=-1)
    chosen = pixels[..., [0, 3]] if channels == 2 else pixels[..., :channels]
    png(tmp_path / "deep.png", chosen, 16, kind)
    with pytest.raises(ValueError, match="more than 8 bits for each colour"):
        read_image(tmp_path / "deep.png", colour=True)
    # Networks get the upper 8 bits.
    bytes_ = (chosen >> 8).astype(np.uint8)
    wanted = np.repeat(bytes_[..., :1], 3, axis=-1) if channels == 2 else bytes_[..., :3]
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "deep.png")), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation: int, tmp_path: Path) -> None:
    # Tag 274 of EXIF 2.3 says where the first stored row and column lie in the picture that viewers show.
    upright = {
        1: BYTES,
        2: BYTES[:, ::-1],
        3: BYTES[::-1, ::-1],
        4: BYTES[::-1],
        5: BYTES.T,
        6: np.rot90(BYTES, -1),
        7: BYTES[::-1, ::-1].T,
        8: np.rot90(BYTES),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(BYTES).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], upright / 255)
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "a.png"))[..., 0], upright)


def test_the_stored_numbers_and_other_scales(tmp_path: Path) -> None:
    Image.fromarray(WORDS).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.depth == 65535
    np.testing.assert_array_equal(picture.over(1.0, 1.0)[0], WORDS)  # counts of photons, for example
    np.testing.assert_array_equal(picture.over(1.0, 4095.0)[0], WORDS / 4095)  # 12 bits in a file with 16


def frames(folder: Path) -> Path:
    Image.fromarray(BYTES).save(folder / "a.tif", save_all=True, append_images=[Image.fromarray(BYTES)])
    return folder / "a.tif"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


def written(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "a.png").write_bytes(content)
        return folder / "a.png"

    return write


def bomb(folder: Path) -> Path:
    png(folder / "a.png", np.zeros((1, 1), np.uint8), 8, 0)
    data = bytearray((folder / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (folder / "a.png").write_bytes(data)
    return folder / "a.png"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "two frames": (frames, "2 frames"),
    "a pipe": (pipe, "no regular file"),
    "a device": (lambda _: Path("/dev/zero"), "no regular file"),
    "a folder": (lambda folder: folder, "is a folder"),
    "nothing": (lambda folder: folder / "none.png", "cannot be read"),
    "an empty file": (written(b""), "is no image"),
    "text": (written(b"hello"), "is no image"),
    "half an image": (lambda f: written(saved(NOISE)(f).read_bytes()[:1500])(f), "cannot be read as an image"),
    "a bomb": (bomb, "is too large"),
    "a float image with NaN": (saved(np.full((2, 2), np.nan, np.float32), name="a.tif"), "holds NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    make, expected = REFUSED[case]
    path = make(tmp_path)
    for read in (read_image, read_rgb):
        with pytest.raises(ValueError, match=expected) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
