"""Blurs of an image in [0, 1]. Lengths are in pixels of a 32 x 32 image."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from experiments.evaluation.corruptions._images import gaussian_blur, motion_blurred, scale_of, truncated, zoomed

Image = Float[np.ndarray, "h w 3"]


def defocus_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Blur with a disk, which a Gaussian that reaches one pixel far smooths against aliasing."""
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    scale = scale_of(image)
    radius, alias, margin = radius * scale, alias * scale, max(1, round(scale))
    reach = math.floor(radius) + margin
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    disk = ndimage.gaussian_filter(disk / disk.sum(), alias, radius=margin, mode="constant")
    return np.stack([ndimage.correlate(image[..., c], disk, mode="mirror") for c in range(3)], -1)


def glass_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Replace pixels by random neighbours, between two Gaussian blurs.

    The original means to swap two pixels, but its assignment of NumPy views copies one over the other.
    """
    sigma, delta, iterations = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    sigma, reach = sigma * scale_of(image), max(1, round(delta * scale_of(image)))
    height, width = image.shape[:2]
    blurred = truncated(gaussian_blur(image, sigma))
    source = list(range(height * width))
    for _ in range(iterations):
        # Offsets are -reach to reach - 1, from the last pixel to the first, so that a copy may be copied again.
        rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
        here = (rows[:, None] * width + columns).ravel()
        offsets = generator.integers(-reach, reach, (2, len(here)))
        there = here + offsets[1] * width + offsets[0]
        for i, j in zip(here.tolist(), there.tolist(), strict=True):
            source[i] = source[j]
    return gaussian_blur(blurred.reshape(-1, 3)[source].reshape(image.shape), sigma)


def motion_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Blur with half a Gaussian along a direction between -45 and 45 degrees."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    scale = scale_of(image)
    return motion_blurred(image, radius * scale, sigma * scale, generator.uniform(-45, 45))


def zoom_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Average the image with ever larger enlargements of its centre."""
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    factors = np.arange(1, largest, 0.01)
    # In single precision, as in the original: it decides which of two neighbouring bytes a flat region gets.
    total = image.astype(np.float32)
    for factor in factors:
        total += zoomed(image, float(factor)).astype(np.float32)
    return total / (len(factors) + 1)
