"""Blurs of an image in [0, 1]. Lengths are in pixels of a 32 x 32 image."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from experiments.corruptions._images import gaussian_blur, motion_blurred, scale_of, zoomed

Image = Float[np.ndarray, "h w 3"]


def defocus_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """A disk, itself slightly blurred against aliasing, as kernel."""
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    radius, alias = radius * scale_of(image), alias * scale_of(image)
    reach = math.ceil(radius + 3 * alias)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = gaussian_blur((x**2 + y**2 <= radius**2).astype(float), alias)
    disk /= disk.sum()
    return np.stack([ndimage.convolve(image[..., c], disk, mode="mirror") for c in range(3)], -1)


def glass_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Neighbouring pixels swapped at random, between two Gaussian blurs."""
    sigma, delta, iterations = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    sigma, reach = sigma * scale_of(image), max(1, round(delta * scale_of(image)))
    height, width = image.shape[:2]
    blurred = gaussian_blur(image, sigma)
    order = list(range(height * width))
    for _ in range(iterations):
        # As the original: offsets -reach to reach - 1, from the last pixel to the first, swap building on swap.
        rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
        here = (rows[:, None] * width + columns).ravel()
        offsets = generator.integers(-reach, reach, (2, len(here)))
        there = here + offsets[1] * width + offsets[0]
        for i, j in zip(here.tolist(), there.tolist(), strict=True):
            order[i], order[j] = order[j], order[i]
    return gaussian_blur(blurred.reshape(-1, 3)[order].reshape(image.shape), sigma)


def motion_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """A half Gaussian along a direction between -45 and 45 degrees."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    scale = scale_of(image)
    return motion_blurred(image, radius * scale, sigma * scale, generator.uniform(-45, 45))


def zoom_blur(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """The mean of the image and of its centre, more and more enlarged."""
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    factors = np.arange(1, largest, 0.01)
    return (image + sum(zoomed(image, round(float(factor), 2)) for factor in factors)) / (len(factors) + 1)
