"""The 15 common corruptions, at five severities, on the fly and seeded.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019. On
32 x 32 pixels they are those of CIFAR-10-C, whose functions are in ImageNet-C/create_c/make_cifar_c.py of
https://github.com/hendrycks/robustness. Their peculiarities are kept: results are cut down to bytes, not rounded.
Lengths in pixels grow with the image's shorter side. Only frost differs: it is a texture made here, not a photograph
(see `_ice`). ImageNet-C has severities of its own, so its files are read from their folders. The random numbers depend
on the corruption and the seed, not on the severity, so a higher severity is more of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from experiments.evaluation.corruptions import blur, digital, noise, weather

__all__ = ["ALEXNET_ERRORS", "CORRUPTIONS", "SEVERITIES", "VERSION", "corrupt", "corrupt_all"]

SEVERITIES = (1, 2, 3, 4, 5)

#: Raise this number with every change of the bytes, so that images and tallies of another version are not used again.
VERSION = 2

_Corruption = Callable[[Float[np.ndarray, "h w 3"], int, np.random.Generator], Float[np.ndarray, "h w 3"]]

#: Name to function (image in [0, 1], severity 1 to 5, generator) -> image, in the order of the paper.
CORRUPTIONS: dict[str, _Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}

#: AlexNet's mean error on each corruption of ImageNet-C, by which mCE divides (google-research/augmix).
ALEXNET_ERRORS: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def corrupt(image: UInt8[np.ndarray, "h w 3"], name: str, severity: int, seed: int = 0) -> UInt8[np.ndarray, "h w 3"]:
    """Corrupt the image. The same image, corruption, severity and seed give the same bytes.

    Raises ValueError for an unknown corruption, a severity outside 1 to 5, or an image that is not (H, W, 3) of bytes.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption is {name!r}; one of {', '.join(CORRUPTIONS)} is wanted")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; an integer from 1 to 5 is wanted")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image has shape {image.shape} and dtype {image.dtype}; (H, W, 3) of uint8 is wanted")
    generator = np.random.default_rng([list(CORRUPTIONS).index(name), seed])
    result = CORRUPTIONS[name](image.astype(np.float64) / 255, severity, generator)
    return (np.clip(result, 0, 1) * 255).astype(np.uint8)  # cut down, not rounded, as in CIFAR-10-C


def corrupt_all(
    images: UInt8[np.ndarray, "n h w 3"], name: str, severity: int, seed: int = 0, numbers: Sequence[int] | None = None
) -> UInt8[np.ndarray, "n h w 3"]:
    """Corrupt every image with a seed of its own, which is made of `seed` and its number (its index by default)."""
    numbers = range(len(images)) if numbers is None else numbers
    seeds = [int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) for number in numbers]
    return np.stack([corrupt(image, name, severity, own) for image, own in zip(images, seeds, strict=True)])
