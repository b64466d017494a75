"""Noise on every value of an image in [0, 1]."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Image = Float[np.ndarray, "h w 3"]


def gaussian_noise(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Add normal noise."""
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return image + sigma * generator.standard_normal(image.shape)


def shot_noise(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Replace each value by a Poisson count of photons. The severity sets how many photons white has."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return generator.poisson(image * photons) / photons


def impulse_noise(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Put salt and pepper on a share of the values."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit = generator.random(image.shape) < amount
    salt = generator.random(image.shape) < 0.5
    return np.where(hit, salt.astype(float), image)
