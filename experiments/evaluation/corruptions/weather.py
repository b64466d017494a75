"""Weather in an image in [0, 1]. Lengths are in pixels of a 32 x 32 image."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

from experiments.evaluation.corruptions._ice import ice
from experiments.evaluation.corruptions._images import motion_blurred, plasma_for, scale_of, truncated, zoomed

Image = Float[np.ndarray, "h w 3"]

_GREY = np.array([0.299, 0.587, 0.114])


def snow(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Whiten the image and add flakes that are blurred along their fall."""
    loc, spread, zoom, threshold, radius, sigma, mix = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    scale = scale_of(image)
    flakes = zoomed(loc + spread * generator.standard_normal(image.shape[:2]), zoom * max(1.0, scale))
    flakes = truncated(np.where(flakes < threshold, 0, flakes))
    flakes = motion_blurred(flakes, radius * scale, sigma * scale, generator.uniform(-135, -45))[..., None]
    whitened = np.maximum(image, (image @ _GREY)[..., None] * 1.5 + 0.5)
    falling = np.rot90(flakes, 2) + flakes
    return mix * image + (1 - mix) * whitened + falling


def frost(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Dim the image and add ice. The ice is a texture made here, where the original has photographs (see `ice`)."""
    own, share = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return own * image + share * ice(image, generator)


def fog(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Add a plasma fractal and lower the contrast."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = image.max()
    return (image + amount * plasma_for(image, decay, generator)[..., None]) * brightest / (brightest + amount)


def brightness(image: Image, severity: int, generator: np.random.Generator) -> Image:
    """Raise the value of HSV, and keep hue and saturation."""
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    hsv = rgb_to_hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return hsv_to_rgb(hsv)
