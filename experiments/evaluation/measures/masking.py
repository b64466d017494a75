"""Signs that gradients mislead attacks, from what several attacks and checks found on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["falling", "gradients", "missed", "verdict"]

#: The share of images, and the number, up to which two attacks differ by chance: a search that misses a few points.
_SHARE, _NUMBER = 0.02, 1
#: At the largest radius every image can be broken, so no more than this share of those classified right may resist.
_RESIST = 0.05
#: No more than these shares of images may have a gradient of zero, or one unlike finite differences.
_VANISHED, _DISAGREE, _ERROR = 0.01, 0.1, 0.01
#: The gradient beats a random direction on at least this share of the images.
_UPHILL = 0.75


def missed(name: str, images: Bool[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> str | None:
    """A sign if an attack without gradients breaks `images` that those with gradients miss, among those `right`."""
    count = int(images.sum())
    return f"{name} breaks {count} {_images(count)} that no attack by gradients breaks" if _many(count, right) else None


def falling(
    name: str,
    numbers: Sequence[Any],
    right: Bool[np.ndarray, "n numbers"],
    clean: Bool[np.ndarray, " n"] | None = None,
) -> Iterator[tuple[Any, float, str | None]]:
    """Each number with the accuracy, and a sign if more images resist than at a smaller number.

    `clean` says which images are classified right without an attack; given, nearly none may resist the last number.
    """
    for i, (number, each) in enumerate(zip(numbers, right.T, strict=True)):
        least = min(range(i + 1), key=lambda j: right[:, j].sum())
        more = int(each.sum() - right[:, least].sum())
        sign = None
        if _many(more, right):
            sign = f"{more} more {_images(more)} resist at {name} {number} than at {numbers[least]}"
        elif clean is not None and i == len(numbers) - 1 and each.sum() > _RESIST * clean.sum():
            sign = f"{each.sum()} of {clean.sum()} images resist at {name} {number}, where every image can be broken"
        yield number, float(each.mean()), sign


def gradients(found: Mapping[str, np.ndarray]) -> dict[str, tuple[float, str | None]]:
    """Values and signs of the checks of gradients, by metric."""
    zero, uphill, repeats = (float(found[name].mean()) for name in ("zero", "uphill", "repeats"))
    apart = float((~(found["difference_error"] <= _ERROR)).mean())
    return {
        "zero_gradients": (
            zero,
            f"the gradient vanishes on {100 * zero:.1f} % of the images" if zero > _VANISHED else None,
        ),
        "zero_cross_entropy_gradients": (float(found["zero_cross_entropy"].mean()), None),
        "zeros_in_gradients": (float(found["zeros"].mean()), None),
        "difference_error": (float(np.median(found["difference_error"])), None),
        "difference_disagreement": (
            apart,
            f"the gradient is not that of the model on {100 * apart:.1f} % of the images"
            if apart > _DISAGREE
            else None,
        ),
        "uphill": (
            uphill,
            f"the gradient beats a random direction on {100 * uphill:.1f} % of the images only"
            if uphill < _UPHILL
            else None,
        ),
        "repeatable": (
            repeats,
            f"the answers to {100 * (1 - repeats):.1f} % of the images are random" if repeats < 1 else None,
        ),
    }


def verdict(
    signs: Sequence[str], clean: float, worst: float, bounds: Mapping[str, float], images: int, attacks: str
) -> str:
    """One sentence on all that was found. `bounds` has the interval of the accuracy `worst`."""
    resist = f"{100 * worst:.1f} % [{100 * bounds['low']:.1f}, {100 * bounds['high']:.1f}]"
    if not clean:
        return f"None of {images} images is classified right, so there is nothing to attack."
    if signs:
        return (
            f"The gradients mislead attacks ({'; '.join(signs)}), so that {resist} of {images} images resist the worst "
            f"of {attacks} says little about robustness."
        )
    return (
        f"Nothing says that the gradients mislead attacks: of {images} images {100 * clean:.1f} % are classified "
        f"right, and {resist} resist the worst of {attacks}."
    )


def _many(count: int, right: Float[np.ndarray, "n ..."] | np.ndarray) -> bool:
    """Whether so many images are more than chance explains."""
    return count > max(_NUMBER, _SHARE * len(right))


def _images(count: int) -> str:
    return "image" if count == 1 else "images"
