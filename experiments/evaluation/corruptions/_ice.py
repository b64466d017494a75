"""Frost on a window, made of noise. It replaces the photographs that CIFAR-10-C lays over its images."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from experiments.evaluation.corruptions._images import Array, gaussian_blur, plasma_for, scale_of, smeared

__all__ = ["ice"]

#: Brightness, its spread from crop to crop, contrast within a crop and colour (red, green, blue), on the 0-255 scale,
#: as measured on 32 x 32 crops of the five photographs that the original chooses from. Two of them are one photograph.
_PHOTOGRAPHS = (
    (131, 11.5, 14.4, (78, 149, 165)),
    (205, 9, 18.1, (199, 203, 212)),
    (205, 9, 18.1, (199, 203, 212)),
    (158, 10.5, 26.3, (144, 159, 171)),
    (113, 14.8, 33.7, (101, 113, 124)),
)

#: The thickness (a plasma fractal) has this share of the variance, and the needles have the rest.
_THICKNESS = 0.3


def ice(image: Array, generator: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """Ice for `image`, (H, W, 3) in [0, 1].

    Its thickness is a plasma fractal. On it lie needles, which are heavy-tailed noise smeared along three random
    directions.
    Brightness, contrast and colour are those of one of five photographs, drawn with equal chances.
    """
    brightness, spread, contrast, colour = _PHOTOGRAPHS[generator.integers(len(_PHOTOGRAPHS))]
    level = brightness + spread * generator.standard_normal()
    relief = _THICKNESS**0.5 * _standard(plasma_for(image, 1.2, generator))
    relief = relief + (1 - _THICKNESS) ** 0.5 * _standard(_needles(image, generator))
    tint = np.array(colour) / np.mean(colour)
    return np.clip((level + contrast * relief)[..., None] * tint / 255, 0, 1)


def _needles(image: Array, generator: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Bright and dark lines of two pixels of a 32 x 32 image, in three directions."""
    scale, shape = scale_of(image), image.shape[:2]
    total = np.zeros(shape)
    for angle in generator.uniform(0, 180, 3):
        seeds = generator.standard_normal(shape) * generator.standard_normal(shape)
        seeds *= generator.random(shape) < scale**-2
        total += smeared(gaussian_blur(seeds, max(0.0, 0.3 * (scale - 1))), 2 * scale, 0.7 * scale, angle)
    return total


def _standard(field: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The field shifted to mean zero and, unless it is constant, scaled to variance one."""
    centred = field - field.mean()
    return centred / max(float(centred.std()), 1e-12)
