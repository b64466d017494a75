"""How well a map predicts where people look: NSS, AUC-Judd and CC. Also finds the fixations in recorded gaze.

Bylinskii et al., "What do different evaluation metrics tell us about saliency models?", PAMI 2019. A map has one value
per pixel; fixations are pixels (n, 2), row and column. Two fixations of one pixel count twice in NSS and CC, and once
in AUC-Judd.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter

__all__ = ["RATE", "auc_judd", "cc", "gaze_fixations", "nss"]

#: Gaze samples per second of MIT1003.
RATE = 240

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
    others = np.sort(saliency[~fixated])
    if not len(others):
        raise ValueError("all pixels are fixated; at least one that is not is wanted")
    if _constant(saliency):
        return 0.5
    found = saliency[fixated]
    below = np.searchsorted(others, found, "left") + np.searchsorted(others, found, "right")
    return float(below.mean() / 2 / len(others))


def cc(saliency: Map, fixations: Fixations, sigma: float) -> float:
    """Pearson's correlation between the map and the density of fixations, blurred with a Gaussian of `sigma` pixels.

    It is 0 for a constant map. The density is zero beyond the image's border.
    """
    density = np.zeros(saliency.shape)
    np.add.at(density, (fixations[:, 0], fixations[:, 1]), 1)
    density = gaussian_filter(density, sigma, mode="constant")
    if _constant(saliency) or _constant(density):
        return 0.0
    return float(np.corrcoef(saliency.ravel(), density.ravel())[0, 1])


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
