"""Operations that several corruptions share, on images (H, W, 3) or planes (H, W) in [0, 1]."""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Float
from scipy import ndimage

Array = Float[np.ndarray, "h w *colour"]


def scale_of(image: Array) -> float:
    """How many times larger the image is than the 32 pixels that the tables of severities are for."""
    return min(image.shape[:2]) / 32


def truncated(image: Array) -> Array:
    """The image with the 256 values of bytes. Each value is cut down to the next lower one, as NumPy converts it."""
    return np.floor(np.clip(image, 0, 1) * 255) / 255


def gaussian_blur(image: Array, sigma: float, mode: str = "nearest", truncate: float = 4) -> Array:
    """Gaussian blur of each colour. By default it is that of scikit-image's `gaussian`."""
    sigmas = (sigma, sigma, *[0] * (image.ndim - 2))
    return ndimage.gaussian_filter(image, sigmas, mode=mode, truncate=truncate)


def motion_blurred(image: Array, radius: float, sigma: float, angle: float) -> Array:
    """ImageMagick's motion blur of an image (see `smeared`), with the 256 values of bytes.

    ImageMagick 6 rounds to 16 bits and cuts these down to eight bits.
    """
    return truncated(smeared(image, radius, sigma, angle) + 0.5 / (257 * 255))


def smeared(image: Array, radius: float, sigma: float, angle: float) -> Array:
    """The image blurred by half a Gaussian of 2 ceil(radius) + 1 samples along `angle` (degrees)."""
    count = 2 * math.ceil(radius) + 1
    steps = np.arange(count)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = weights[weights > 1e-6 * weights[0]]
    weights /= weights.sum()
    radians = math.radians(angle)
    rows = np.ceil(steps * math.sin(radians) - 0.5).astype(int)
    columns = np.ceil(steps * math.cos(radians) - 0.5).astype(int)
    height, width = image.shape[:2]
    result = np.zeros_like(image)
    for weight, dy, dx in zip(weights, rows, columns, strict=False):
        shifted = image[np.clip(np.arange(height) + dy, 0, height - 1)]
        result += weight * shifted[:, np.clip(np.arange(width) + dx, 0, width - 1)]
    return result


@functools.lru_cache(maxsize=256)
def _zoom_matrix(size: int, factor: float) -> Float[np.ndarray, "size size"]:
    """Linear interpolation that enlarges the central ceil(size / factor) of `size` samples, then crops the result.

    As in `scipy.ndimage.zoom`, the first and the last sample are mapped onto the first and the last sample.
    """
    kept = math.ceil(size / factor)
    enlarged = round(kept * factor)
    at = np.arange(enlarged) * (kept - 1) / max(enlarged - 1, 1)
    trim = (enlarged - size) // 2
    at = at[trim : trim + size] + (size - kept) // 2
    low = np.minimum(at.astype(int), max(size - 2, 0))
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(size), np.minimum(low + 1, size - 1)), at - low)
    return matrix


def zoomed(image: Array, factor: float) -> Array:
    """The centre of the image enlarged by `factor` to the image's size, bilinearly.

    The crop has whole pixels, so it may lie off the centre by up to one pixel, as CIFAR-10-C's does.
    """
    rows, columns = (_zoom_matrix(size, factor) for size in image.shape[:2])
    planes = image[..., None] if image.ndim == 2 else image
    result = np.moveaxis(rows @ np.moveaxis(planes, -1, 0) @ columns.T, 0, -1)
    return result[..., 0] if image.ndim == 2 else result


def plasma(size: int, decay: float, generator: np.random.Generator) -> Float[np.ndarray, "size size"]:
    """A plasma fractal on a torus of `size`, a power of two, by the diamond-square algorithm; values in [0, 1].

    As in CIFAR-10-C, an offset is uniform in (-w, w) times w, and w is divided by `decay` from scale to scale.
    """
    field = np.zeros((size, size))
    step, wibble = size, 100.0

    def offsets() -> Float[np.ndarray, "n n"]:
        return wibble * generator.uniform(-wibble, wibble, (size // step, size // step))

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        total = corners + np.roll(corners, -1, 0)
        total = total + np.roll(total, -1, 1)
        field[half::step, half::step] = total / 4 + offsets()
        centres = field[half::step, half::step]
        beside = centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1)
        above = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0)
        field[::step, half::step] = beside / 4 + offsets()
        field[half::step, ::step] = above / 4 + offsets()
        step, wibble = half, wibble / decay
    field -= field.min()
    return field / max(field.max(), 1e-12)


def plasma_for(image: Array, decay: float, generator: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """A plasma fractal of the image's height and width."""
    height, width = image.shape[:2]
    size = 2 ** math.ceil(math.log2(max(height, width, 2)))
    return plasma(size, decay, generator)[:height, :width]
