"""Measures of receptive fields and tuning curves, under the names that papers give them.

All take responses of cells along the last dimension, at least zero, and return one value per cell. Where a cell does
not respond at all, a measure that divides by its response is NaN. Angles are in degrees.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

__all__ = [
    "NakaRushton",
    "bandwidth",
    "circular_variance",
    "criterion_time",
    "cross_orientation_suppression",
    "direction_selectivity_index",
    "half_rise_time",
    "half_width",
    "naka_rushton",
    "orientation_selectivity_index",
    "preferred_angle",
    "suppression_index",
]

Array = NDArray[np.float64]


def orientation_selectivity_index(responses: ArrayLike, angles: ArrayLike) -> Array:
    """(R_pref - R_orth) / (R_pref + R_orth), for angles that divide 180 degrees evenly (Niell and Stryker, J. Neurosci.
    28, 7520, 2008). R_pref is the largest response, R_orth that at 90 degrees from it.
    """
    return _against(responses, angles, 180.0)


def direction_selectivity_index(responses: ArrayLike, angles: ArrayLike) -> Array:
    """(R_pref - R_opp) / (R_pref + R_opp), for directions that divide 360 degrees evenly; R_opp is that at 180 degrees
    from the largest response (Niell and Stryker, 2008).
    """
    return _against(responses, angles, 360.0)


def circular_variance(responses: ArrayLike, angles: ArrayLike) -> Array:
    """1 - |sum_k R_k exp(2 i angle_k)| / sum_k R_k over orientations: 0 for one orientation, 1 for none (Ringach,
    Shapley and Hawken, J. Neurosci. 22, 5639, 2002).
    """
    r, at = _checked(responses, angles)
    _evenly(at, 180.0)
    total = r.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - np.abs((r * np.exp(2j * np.deg2rad(at))).sum(-1)) / np.where(total > 0, total, np.nan))


def preferred_angle(responses: ArrayLike, angles: ArrayLike, period: float = 180.0) -> Array:
    """The angle of sum_k R_k exp(2 pi i angle_k / period), in [0, period): the mean orientation (or direction)."""
    r, at = _checked(responses, angles)
    mean = (r * np.exp(2j * np.pi * at / period)).sum(-1)
    return np.where(np.abs(mean) > 0, np.angle(mean) * period / (2 * np.pi) % period, np.nan)


def half_width(responses: ArrayLike, angles: ArrayLike, period: float = 180.0) -> Array:
    """Half the width of an orientation's tuning curve at half its height, in degrees, linear between the angles.

    NaN where the curve does not fall to half its height on both sides (Ringach, Shapley and Hawken, 2002).
    """
    r, at = _checked(responses, angles)
    step = _evenly(at, period)
    widths = [_crossing(row) + _crossing(row[::-1]) for row in _from_peak(r.reshape(-1, r.shape[-1]))]
    return np.asarray(0.5 * step * np.array(widths)).reshape(r.shape[:-1])


def bandwidth(responses: ArrayLike, frequencies: ArrayLike) -> Array:
    """The full width of a frequency's tuning curve at half its height, in octaves, linear in log frequency.

    NaN where the curve does not fall to half its height on both sides (De Valois, Albrecht and Thorell, Vision Res. 22,
    545, 1982).
    """
    r, at = _checked(responses, frequencies)
    if not (at > 0).all():
        raise ValueError(f"frequencies are down to {at.min()}; frequencies above zero are wanted")
    octaves, found = np.log2(at), []
    for row in r.reshape(-1, r.shape[-1]):
        best = int(row.argmax())
        up = np.interp(best + _crossing(row[best:]), np.arange(len(at)), octaves, right=np.nan)
        down = np.interp(best - _crossing(row[best::-1]), np.arange(len(at)), octaves, left=np.nan)
        found.append(up - down if row[best] > 0 else np.nan)
    return np.array(found).reshape(r.shape[:-1])


def suppression_index(responses: ArrayLike) -> Array:
    """(R_opt - R_large) / R_opt for stimuli of increasing size: 0 without suppression, 1 where it is complete.

    R_opt is the largest response, R_large that to the largest stimulus. For gratings of increasing diameter it measures
    surround suppression (Cavanaugh, Bair and Movshon, J. Neurophysiol. 88, 2530, 2002), for bars of increasing length
    end-stopping (DeAngelis, Freeman and Ohzawa, J. Neurophysiol. 71, 347, 1994).
    """
    r, _ = _checked(responses)
    best = r.max(-1)
    return np.asarray(1 - r[..., -1] / np.where(best > 0, best, np.nan))


def cross_orientation_suppression(alone: ArrayLike, masked: ArrayLike) -> Array:
    """1 - R_masked / R_alone: above zero where a mask of the orthogonal orientation, which drives the cell little by
    itself, lowers the response to the grating (Morrone, Burr and Maffei, Proc. R. Soc. B 216, 335, 1982).
    """
    one, both = np.asarray(alone, dtype=np.float64), np.asarray(masked, dtype=np.float64)
    return np.asarray(1 - both / np.where(one > 0, one, np.nan))


class NakaRushton(NamedTuple):
    """R(c) = r_max c^n / (c^n + c50^n), fitted: one value per cell, with the coefficient of determination R^2."""

    r_max: Array
    c50: Array
    n: Array
    r_squared: Array


def naka_rushton(responses: ArrayLike, contrasts: ArrayLike) -> NakaRushton:
    """The contrast response fitted by least squares (Naka and Rushton, J. Physiol. 185, 536, 1966; Albrecht and
    Hamilton, J. Neurophysiol. 48, 217, 1982). c50 is at most ten times the largest contrast, n at most 20. NaN for a
    cell that does not respond.
    """
    r, c = _checked(responses, contrasts)
    if not (c > 0).all():
        raise ValueError(f"contrasts are down to {c.min()}; contrasts above zero are wanted")
    rows = []
    for row in r.reshape(-1, r.shape[-1]):
        top = row.max()
        if not top > 0:
            rows.append([np.nan] * 4)
            continue

        def curve(p: Array) -> Array:
            return np.asarray(p[0] / (1 + (np.exp(p[1]) / c) ** p[2]))

        half = c[int((row >= top / 2).argmax())]
        tries = [
            least_squares(
                lambda p, y=row / top: curve(p) - y,
                [1.0, np.log(half), n],
                bounds=([0.0, np.log(c.min() / 10), 0.1], [20.0, np.log(c.max() * 10), 20.0]),
            )
            for n in (1.5, 4.0)
        ]
        best = min(tries, key=lambda found: found.cost)
        rows.append([best.x[0] * top, np.exp(best.x[1]), best.x[2], _determination(row / top, curve(best.x))])
    found = np.array(rows).reshape(*r.shape[:-1], 4)
    return NakaRushton(*(found[..., k] for k in range(4)))


def half_rise_time(responses: ArrayLike, times: ArrayLike) -> Array:
    """The first time at which the response is half of its last value, linear between the times.

    NaN where the last response is zero.
    """
    r, _ = _checked(responses, times)
    return criterion_time(r, times, 0.5 * r[..., -1])


def criterion_time(responses: ArrayLike, times: ArrayLike, criterion: ArrayLike) -> Array:
    """The first time at which the response reaches a criterion, one for all or one per cell; linear between the times.

    NaN where it never does, and where the criterion is zero.
    """
    r, t = _checked(responses, times)
    levels = np.broadcast_to(np.asarray(criterion, dtype=np.float64), r.shape[:-1]).ravel()
    found = []
    for row, level in zip(r.reshape(-1, r.shape[-1]), levels, strict=True):
        k = int((row >= level).argmax())
        if not level > 0 or row[k] < level:
            found.append(np.nan)
        elif k == 0:
            found.append(t[0])
        else:
            found.append(t[k - 1] + (t[k] - t[k - 1]) * (level - row[k - 1]) / (row[k] - row[k - 1]))
    return np.array(found).reshape(r.shape[:-1])


def _checked(responses: ArrayLike, at: ArrayLike | None = None) -> tuple[Array, Array]:
    r = np.asarray(responses, dtype=np.float64)
    where = (
        np.arange(r.shape[-1] if r.ndim else 0, dtype=np.float64) if at is None else np.asarray(at, dtype=np.float64)
    )
    if r.ndim < 1 or where.shape != r.shape[-1:] or not r.shape[-1]:
        raise ValueError(f"responses have shape {r.shape} at {where.shape} conditions; one per condition is wanted")
    if not (r >= 0).all():
        raise ValueError(f"responses are down to {np.min(r)}; responses of at least zero are wanted")
    if not (np.diff(where) > 0).all():
        raise ValueError("the conditions do not increase; increasing angles, frequencies or times are wanted")
    return r, where


def _evenly(angles: Array, period: float) -> float:
    """The step of angles that divide the period evenly; ValueError for others."""
    step = period / len(angles)
    if not np.allclose(np.diff(angles), step):
        raise ValueError(f"the angles do not divide {period:g} degrees evenly; steps of {step:g} are wanted")
    return step


def _against(responses: ArrayLike, angles: ArrayLike, period: float) -> Array:
    r, at = _checked(responses, angles)
    _evenly(at, period)
    if len(at) % 2:
        raise ValueError(f"there are {len(at)} angles; an even number is wanted, so that each has its opposite")
    best = r.argmax(-1)[..., None]
    one = np.take_along_axis(r, best, -1)[..., 0]
    other = np.take_along_axis(r, (best + len(at) // 2) % len(at), -1)[..., 0]
    return np.asarray((one - other) / np.where(one + other > 0, one + other, np.nan))


def _from_peak(rows: Array) -> list[Array]:
    """Each row, turned so that it starts and ends with its largest value."""
    return [np.append(np.roll(row, -int(row.argmax())), row.max()) for row in rows]


def _crossing(row: Array) -> float:
    """How many steps from its start a row takes to fall to half of its first value; NaN if it never does."""
    half = row[0] / 2
    below = row <= half
    if not below.any() or not half > 0:
        return float("nan")
    k = int(below.argmax())
    return float(k - 1 + (row[k - 1] - half) / (row[k - 1] - row[k]))


def _determination(values: Array, model: Array) -> float:
    """R^2, the coefficient of determination; 0 for values that are all the same."""
    spread = np.square(values - values.mean()).sum()
    return float(1 - np.square(values - model).sum() / spread) if spread > 0 else 0.0
