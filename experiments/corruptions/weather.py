"""Weather in an image in [0, 1]. Lengths are in pixels of a 32 x 32 image."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from experiments.corruptions._images import motion_blurred, plasma_for, scale_of, zoomed

Image = Float[np.ndarray, "h w 3"]

_GREY = np.array([0.299, 0.587, 0.114])


def snow(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Flakes blurred along their fall, over a whitened image."""
    loc, spread, zoom, threshold, radius, sigma, mix = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    scale = scale_of(image)
    flakes = zoomed(loc + spread * generator.standard_normal(image.shape[:2]), zoom * max(1.0, scale))
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = motion_blurred(flakes, radius * scale, sigma * scale, generator.uniform(-135, -45))[..., None]
    whitened = np.maximum(image, (image @ _GREY)[..., None] * 1.5 + 0.5)
    falling = np.rot90(flakes, 2) + flakes
    return mix * image + (1 - mix) * whitened + falling


def frost(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """A texture of ice crystals over a dimmed image."""
    own, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return own * image + ice * _ice(image, generator)


def _ice(image: Image, generator: np.random.Generator) -> Image:
    """Bright, bluish needles in several directions, denser where a plasma fractal is high; made, not photographed."""
    scale = scale_of(image)
    needles = np.zeros(image.shape[:2])
    for angle in generator.uniform(0, 180, 3):
        seeds = (generator.random(image.shape[:2]) < 0.03 / scale).astype(float)
        needles = np.maximum(needles, motion_blurred(seeds, 4 * scale, 2.5 * scale, angle) * 8)
    cover = np.clip(4 * (plasma_for(image, 1.8, generator) - 0.4), 0, 1)
    return (np.clip(needles, 0, 1) * cover)[..., None] * np.array([0.85, 0.95, 1.0])


def fog(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """A plasma fractal added, contrast lowered."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = image.max()
    return (image + amount * plasma_for(image, decay, generator)[..., None]) * brightest / (brightest + amount)


def brightness(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """The value of HSV raised, hue and saturation kept."""
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = image.max(-1, keepdims=True)
    brighter = np.minimum(value + added, 1)
    # Colours are proportional to the value at fixed hue and saturation; black has neither and turns grey.
    return np.where(value > 0, image * brighter / np.where(value > 0, value, 1), brighter)
