"""Intervals for means over images, by the bootstrap."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["DRAWS", "LEVEL", "mean_interval"]

#: How many resamples an interval is made of, and what share of them it holds.
DRAWS, LEVEL = 2000, 0.95

#: With fewer different values than these, a resample is drawn as the number of times that each value occurs in it.
_FEW = 100
#: About how many numbers are drawn at a time.
_AT_ONCE = 1 << 20


def mean_interval(
    values: Float[np.ndarray, " n"], seed: int, draws: int = DRAWS, level: float = LEVEL
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of one value per image: images are drawn with replacement.

    It says how far the mean would differ for other images of the same kind, and nothing about other seeds of training.
    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, Sec. 13.3.
    """
    values = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    found, counts = np.unique(values, return_counts=True)
    if len(found) <= _FEW:
        means = generator.multinomial(len(values), counts / len(values), size=draws) @ found / len(values)
    else:
        size = max(1, _AT_ONCE // len(values))
        sizes = [min(size, draws - start) for start in range(0, draws, size)]
        means = np.concatenate([values[generator.integers(len(values), size=(m, len(values)))].mean(1) for m in sizes])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
