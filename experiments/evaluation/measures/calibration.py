"""How far the probabilities of a classifier can be trusted."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["BINS", "calibration_error"]

#: How many bins the calibration error has by default.
BINS = 15


def calibration_error(confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = BINS) -> float:
    """The expected calibration error (ECE): the mean distance of confidence and accuracy over bins of equal width.

    `confidence` is the probability of the answer. A bin has the confidences above its lower border, up to its upper
    one, and weighs as much as it has images. Naeini et al., AAAI 2015; Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017, Eq. 3.
    """
    number = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    surplus = np.bincount(number, right.astype(np.float64) - confidence, bins)
    return float(np.abs(surplus).sum() / len(confidence))
