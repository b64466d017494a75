"""What processing does to an image in [0, 1]."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float
from PIL import Image as PilImage
from scipy import ndimage

from experiments.evaluation.corruptions._images import gaussian_blur

Image = Float[np.ndarray, "h w 3"]


def contrast(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Draw each colour towards its mean."""
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * share + mean


def elastic_transform(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Apply a random affine map, then a smooth random displacement. Lengths are shares of the width.

    Each of the two interpolates the image, as in the original.
    """
    alpha, sigma, affine = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
        severity - 1
    ]
    height, width = image.shape[:2]
    matrix, offset = _affine(height, width, affine * width, generator)
    rows, columns = np.mgrid[:height, :width].astype(float)
    at = np.stack([rows, columns])
    shift = generator.uniform(-1, 1, at.shape)
    mapped = _sampled(image, np.einsum("ij,jhw->ihw", matrix, at) + offset[:, None, None], "mirror")
    if alpha == 0:
        return mapped
    smooth = np.stack([gaussian_blur(part, sigma * width, "reflect", truncate=3) for part in shift])
    return _sampled(mapped, at + alpha * width * smooth, "reflect")


def _sampled(image: Image, at: Float[np.ndarray, "2 h w"], mode: str) -> Image:
    """The image at (row, column) coordinates, bilinearly."""
    return np.stack([ndimage.map_coordinates(image[..., c], at, order=1, mode=mode) for c in range(3)], -1)


def _affine(height: int, width: int, reach: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The map from output to input coordinates (row, column): three points around the centre, each moved by < reach."""
    centre, square = np.array([height, width]) // 2, min(height, width) // 3
    points = centre + square * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + generator.uniform(-reach, reach, points.shape)
    full = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points.astype(float))
    return full[:2].T, full[2]


def pixelate(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Reduce the number of pixels, then enlarge them."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = image.shape[:2]
    small = _pil(image).resize((max(1, int(width * share)), max(1, int(height * share))), PilImage.Resampling.BOX)
    return np.asarray(small.resize((width, height), PilImage.Resampling.BOX)) / 255


def jpeg_compression(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Compress the image as a JPEG of low quality."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    buffer = io.BytesIO()
    _pil(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(PilImage.open(buffer)) / 255


def _pil(image: Image) -> PilImage.Image:
    return PilImage.fromarray(np.uint8(np.round(image * 255)))
