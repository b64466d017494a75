"""How well a map predicts where people look. Also finds the fixations in recorded gaze.

Bylinskii et al., "What do different evaluation metrics tell us about saliency models?", PAMI 2019. A map has one value
per pixel; fixations are pixels (n, 2), row and column. Two fixations of one pixel count once among the fixated pixels
of the two AUC, and twice everywhere else.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter

__all__ = [
    "RATE",
    "auc_judd",
    "auc_shuffled",
    "cc",
    "density",
    "gaze_fixations",
    "information_gain",
    "kl",
    "nss",
    "sim",
]

#: Gaze samples per second of MIT1003.
RATE = 240

#: Keeps logarithms and quotients of densities finite, as in the MIT/Tuebingen saliency benchmark.
_TINY = 2.2204e-16

Map = Float[np.ndarray, "h w"]
Fixations = Int[np.ndarray, "n 2"]


def nss(saliency: Map, fixations: Fixations) -> float:
    """Normalised scanpath saliency: the map is standardised over all its pixels (ddof 0) and averaged at the fixations.

    It is 0 for a constant map. Peters et al., Vision Research 2005.
    """
    if _constant(saliency):
        return 0.0
    return float((saliency[fixations[:, 0], fixations[:, 1]].mean() - saliency.mean()) / saliency.std())


def auc_judd(saliency: Map, fixations: Fixations) -> float:
    """The area under the curve of the share of fixated pixels found against the share of other pixels found.

    The curve runs over all thresholds of the map. The area is the probability that a fixated pixel has a larger value
    than another, where equal values count half; it is .5 for a constant map. Judd's script joins only the thresholds of
    fixated pixels by straight lines, so its area is larger by up to one half over their number. Judd et al., ICCV 2009.
    """
    fixated = np.zeros(saliency.shape, dtype=bool)
    fixated[fixations[:, 0], fixations[:, 1]] = True
    if fixated.all():
        raise ValueError("all pixels are fixated; at least one that is not is wanted")
    return _area(saliency, saliency[fixated], saliency[~fixated])


def auc_shuffled(saliency: Map, fixations: Fixations, others: Fixations) -> float:
    """AUC of the fixated pixels against `others`, pixels where people look in other images.

    A map that prefers the centre of every image has .5, because other images' fixations are there, too. All of `others`
    count, as often as they occur, so nothing is drawn at random. Zhang et al., "SUN", Journal of Vision 2008. Raises
    ValueError if there are no others.
    """
    if not len(others):
        raise ValueError("others is empty; fixations of at least one other image are wanted")
    own = np.unique(fixations, axis=0)
    return _area(saliency, saliency[own[:, 0], own[:, 1]], saliency[others[:, 0], others[:, 1]])


def _area(saliency: Map, found: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> float:
    """The probability that a value of `found` exceeds one of `others`, where equal values count half."""
    if _constant(saliency):
        return 0.5
    ordered = np.sort(others)
    below = np.searchsorted(ordered, found, "left") + np.searchsorted(ordered, found, "right")
    return float(below.mean() / 2 / len(ordered))


def density(fixations: Fixations, size: tuple[int, int], sigma: float) -> Map:
    """Fixations per pixel of an image of `size`, blurred with a Gaussian of `sigma` pixels; zero beyond the border."""
    found = np.zeros(size)
    np.add.at(found, (fixations[:, 0], fixations[:, 1]), 1)
    return gaussian_filter(found, sigma, mode="constant")


def cc(saliency: Map, fixated: Map) -> float:
    """Pearson's correlation between the map and the density of fixations. It is 0 for a constant map."""
    if _constant(saliency) or _constant(fixated):
        return 0.0
    return float(np.corrcoef(saliency.ravel(), fixated.ravel())[0, 1])


def sim(saliency: Map, fixated: Map) -> float:
    """Similarity: what the map and the density of fixations share, when the sum of each is 1; 1 if they are equal."""
    return float(np.minimum(_distribution(saliency), _distribution(fixated)).sum())


def kl(saliency: Map, fixated: Map) -> float:
    """The Kullback-Leibler divergence of the map from the density of fixations, in nats; 0 if they are equal.

    As in the MIT/Tuebingen benchmark, a map without negative values keeps its minimum, and quotients and logarithms
    have 2.2e-16 added to them. So a fixation where the map is 0 costs much.
    """
    p, q = (_distribution(each, min(float(each.min()), 0.0)) for each in (saliency, fixated))
    return float((q * np.log(_TINY + q / (p + _TINY))).sum())


def information_gain(saliency: Map, fixations: Fixations, baseline: Map) -> float:
    """How many bits a fixation the map tells more than `baseline` about where fixations are.

    Kuemmerer et al., "Information-theoretic model comparison unifies saliency metrics", PNAS 2015. An attention map is
    no model of probability. It counts as one here after its values are scaled to a sum of 1 from its minimum on.
    """
    p, b = (_distribution(each)[fixations[:, 0], fixations[:, 1]] for each in (saliency, baseline))
    return float((np.log2(p + _TINY) - np.log2(b + _TINY)).mean())


def _distribution(values: Map, least: float | None = None) -> Map:
    """The values above `least` (None: above their minimum), with the sum 1. A constant map is uniform."""
    if _constant(values):
        return np.full(values.shape, 1 / values.size)
    above = values - (values.min() if least is None else least)
    return above / above.sum()


def _constant(saliency: Map) -> bool:
    """Whether all values are the same up to rounding."""
    return bool(np.ptp(saliency) <= 1e-12 * np.abs(saliency).max())


def gaze_fixations(
    gaze: Float[np.ndarray, "samples 2"],
    pixels_per_degree: float = 34.0,
    speed: float = 30.0,
    shortest: float = 0.05,
    rate: float = RATE,
) -> Float[np.ndarray, "n 2"]:
    """The fixations (x, y) of a gaze path in order, found by a velocity threshold.

    A run of samples slower than `speed` that lasts `shortest` or longer is a fixation at the median of its samples. The
    speed at a sample is that between the samples two before and two after (17 ms at 240 Hz). Samples that are negative
    or not finite are blinks, and a blink ends a fixation. Salvucci & Goldberg, "Identifying fixations and saccades in
    eye-tracking protocols", ETRA 2000.

    Args:
        gaze: x and y in pixels, one row per sample.
        pixels_per_degree: pixels per degree of visual angle.
        speed: the threshold in degrees per second.
        shortest: the duration in seconds.
        rate: samples per second.
    """
    seen = np.isfinite(gaze).all(1) & (np.nan_to_num(gaze) >= 0).all(1)
    path = np.where(seen[:, None], gaze, np.nan)
    before, after = np.arange(len(path)) - 2, np.arange(len(path)) + 2
    before, after = before.clip(0), after.clip(None, len(path) - 1)
    with np.errstate(invalid="ignore"):
        distance = np.linalg.norm(path[after] - path[before], axis=1)
        slow = distance / np.maximum(after - before, 1) * rate / pixels_per_degree < speed
    slow &= seen  # a blink within two samples has made the speed NaN, which is not slow
    edges = np.flatnonzero(np.diff(np.concatenate([[False], slow, [False]])))
    runs = edges.reshape(-1, 2)
    found = [np.median(path[start:stop], axis=0) for start, stop in runs if stop - start >= shortest * rate]
    return np.array(found).reshape(-1, 2)
