"""Still stimuli on a grid of pixels: gratings, discs, bars. Grey is zero, and contrast one has amplitude one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Place", "bar", "disc", "grating"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where a cell's stimuli are, and how they are turned: the receptive field, as a Gabor function describes it.

    Attributes:
        row, column: the centre, in pixels.
        orientation: angle of the wave vector in degrees, as `gabors.PARAMETERS` has it. Bars are orthogonal to it.
        frequency: cycles per pixel.
        phase: phase of the wave at the centre, in degrees.
    """

    row: float
    column: float
    orientation: float
    frequency: float
    phase: float


def grating(side: int, place: Place, contrast: float = 1.0, turned: float = 0.0, shift: float = 0.0) -> Array:
    """A grating over the whole grid, turned by `turned` degrees, its phase shifted by `shift` degrees."""
    along, _ = _places(side, place, turned)
    wave = 2 * np.pi * place.frequency * along + np.deg2rad(place.phase + shift)
    return np.asarray(contrast * np.cos(wave))


def disc(side: int, place: Place, diameter: float) -> Array:
    """A window that is one inside a circle around the place and zero outside, with an edge one pixel wide."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    return np.clip(diameter / 2 - np.hypot(x - place.column, y - place.row) + 0.5, 0.0, 1.0)


def bar(side: int, place: Place, length: float, contrast: float = 1.0) -> Array:
    """A bar along the stripes of the receptive field, half a period wide, over its strongest stripe.

    It is bright where that stripe is bright, and dark otherwise. Its edges are one pixel wide.
    """
    along, across = _places(side, place, 0.0)
    # The extremum of cos(2 pi f s + phase) nearest to the centre: a multiple of pi.
    half_turns = np.round(place.phase / 180.0)
    offset = np.deg2rad(180.0 * half_turns - place.phase) / (2 * np.pi * place.frequency)
    sign = 1.0 if half_turns % 2 == 0 else -1.0
    wide = np.clip(0.25 / place.frequency - np.abs(along - offset) + 0.5, 0.0, 1.0)
    return np.asarray(sign * contrast * wide * np.clip(length / 2 - np.abs(across) + 0.5, 0.0, 1.0))


def _places(side: int, place: Place, turned: float) -> tuple[Array, Array]:
    """The distances from the centre along the wave vector and across it."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    angle = np.deg2rad(place.orientation + turned)
    x, y = x - place.column, y - place.row
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
