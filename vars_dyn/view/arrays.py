"""Arrays made ready for a page: fewer points, fewer pixels, an axis of time, and numbers that a user typed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["extent", "picture", "places_of", "shrunk", "stretched", "thinned", "ticks"]


def thinned(values: NDArray[Any], most: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """At most `most` entries of a vector, with their places: the largest in magnitude of each run of neighbours."""
    size = -(-len(values) // most)
    if size <= 1:
        return np.arange(len(values)), values
    padded = np.full(size * (-(-len(values) // size)), -1.0)
    padded[: len(values)] = np.nan_to_num(np.abs(values.astype(np.float64)), nan=0.0, posinf=np.inf)
    places = padded.reshape(-1, size).argmax(axis=1) + size * np.arange(len(padded) // size)
    return places, values[places]


def shrunk(image: NDArray[Any], most: int) -> NDArray[Any]:
    """An image of at most `most` rows and columns, by means over squares of pixels."""
    size = max(1, -(-max(image.shape) // most))
    if size == 1:
        return image
    height, width = (-(-n // size) for n in image.shape)
    padded = np.full((height * size, width * size), np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    squares = padded.reshape(height, size, width, size)
    known = np.isfinite(squares)
    count = known.sum(axis=(1, 3))
    return np.where(count > 0, np.where(known, squares, 0.0).sum(axis=(1, 3)) / np.maximum(count, 1), np.nan)


def stretched(times: NDArray[Any], unit: str) -> NDArray[Any]:
    """Where times lie on an axis that is close to logarithmic from 1 on for long runs in time constants: arsinh t."""
    return np.arcsinh(times) if _is_long(times, unit) else times


def _is_long(times: NDArray[Any], unit: str) -> bool:
    return bool(len(times) and unit.startswith("time (membrane"))


def ticks(times: NDArray[Any], unit: str) -> dict[float, str]:
    """The places of round times on that axis, with their names; empty for an axis that is linear."""
    if not _is_long(times, unit):
        return {}
    last = float(times[-1])
    steps = [0.0, 0.5, 1, 2, 5] if last < 10 else [0.0, 1, *(10.0**k for k in range(1, int(math.log10(last)) + 1))]
    if 10 <= last < 100:
        steps = [0.0, 1, 2, 5, 10, 20, 50]
    return {float(np.arcsinh(t)): f"{t:g}" for t in steps if t <= last}


def places_of(text: str, numbers: NDArray[np.int64], name: str) -> tuple[int, ...]:
    """The places, among those recorded, of the neurons that a text such as `3, 10-14` names; empty for no text.

    Raises ValueError for a text that is no list of numbers, and for a number that is not recorded.
    """
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        if not part:
            continue
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ValueError(f"{name} holds {part!r}; numbers and ranges such as 3, 10-14 are wanted")
        first, last = int(low), int(high or low)
        if last < first or last - first >= 100:
            raise ValueError(f"{name} holds {part!r}; a range of at most 100 numbers, from low to high, is wanted")
        for number in range(first, last + 1):
            place = int(np.searchsorted(numbers, number)) if _sorted(numbers) else -1
            if place < 0:
                match = np.flatnonzero(numbers == number)
                place = int(match[0]) if len(match) else len(numbers)
            if place >= len(numbers) or numbers[place] != number:
                raise ValueError(f"{name} holds {number}, which is not recorded; numbers up to {numbers.max()} are")
            found.append(place)
    return tuple(dict.fromkeys(found))[:32]


def _sorted(numbers: Sequence[int] | NDArray[np.int64]) -> bool:
    return bool(np.all(np.diff(numbers) > 0))


def picture(image: NDArray[Any]) -> dict[str, Any]:
    """An image as a plot takes it: from the lowest row up, in single precision."""
    return {"image": [np.ascontiguousarray(image[::-1], np.float32)], "dw": [image.shape[1]], "dh": [image.shape[0]]}


def extent(images: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The least and the largest finite number of images; 0 and 1 if there is none."""
    known = np.concatenate([image[np.isfinite(image)] for image in images])
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
