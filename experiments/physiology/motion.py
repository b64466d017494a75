"""Tuning to direction and temporal frequency, by drifting gratings.

A cell sees the last frames of a movie (`MotionPopulation`). While a grating drifts, the cell's window shows it at one
phase after the other, so that the mean over phases is the mean response over time, F0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

import vars_dyn as vd
from experiments.physiology import measures
from experiments.physiology.population import MotionPopulation
from experiments.physiology.tables import about, of_cells

__all__ = ["direction_tuning", "drifting", "temporal_tuning"]

Array = NDArray[np.float64]


def drifting(
    cells: MotionPopulation, direction: float, frequency: float, temporal: float, rate: float, phases: int
) -> Array:
    """Gratings of contrast one that drift, as movies (phases, frames, side, side), at equally spaced phases.

    The direction is in degrees, anticlockwise from rightward as seen on the screen; the spatial frequency is in cycles
    per pixel, the temporal one in hertz, and `rate` in frames a second.
    """
    screen = vd.stimuli.Screen(cells.side, cells.side, pixels_per_degree=1.0)
    # Stripes lie at a right angle to their drift. With a time constant of a second, times are in seconds.
    shown = [
        vd.stimuli.Grating(
            screen,
            orientation=direction + 90.0,
            spatial_frequency=frequency,
            temporal_frequency=temporal,
            phase=360.0 * k / phases,
            tau_ms=1000.0,
        )
        for k in range(phases)
    ]
    times = torch.arange(cells.frames, dtype=torch.float64) / rate
    return np.array([[grating(t).numpy() for t in times] for grating in shown])


def direction_tuning(
    cells: MotionPopulation,
    rate: float = 30.0,
    directions: int = 16,
    frequencies: Sequence[float] | None = None,
    temporal: Sequence[float] | None = None,
    phases: int = 8,
) -> xr.Dataset:
    """All cells' responses to drifting gratings over direction, spatial and temporal frequency.

    A direction's curve is taken at the two frequencies with the largest response. `linear_dsi` is the index of the
    atom's own inner product with the movie, rectified. Spatial frequencies are in cycles per pixel, by default five
    from one period per frame to 0.4; temporal ones are in hertz at `rate` frames a second, by default four from 0.05 to
    0.4 cycles a frame.
    """
    space = np.geomspace(1.0 / cells.side, 0.4, 5) if frequencies is None else np.asarray(frequencies, dtype=np.float64)
    time = rate * np.geomspace(0.05, 0.4, 4) if temporal is None else np.asarray(temporal, dtype=np.float64)
    angles = 360.0 * np.arange(directions) / directions
    filters = cells.atoms.reshape(len(cells.atoms), -1)
    found, linear = [], []
    for angle in angles:
        movies = np.array([[drifting(cells, angle, s, t, rate, phases) for t in time] for s in space])
        found.append(cells.responses(movies).mean(2))
        linear.append(np.clip(movies.reshape(*movies.shape[:3], -1) @ filters.T, 0.0, None).mean(2))
    responses, drive = (np.moveaxis(np.array(rows), -1, 0) for rows in (found, linear))
    curve, best = _at_best(responses)
    dims = ("atom", "direction", "frequency", "temporal_frequency")
    return xr.Dataset(
        {
            "response": (dims, responses, about("1", "mean response to a drifting grating")),
            "dsi": (
                "atom",
                measures.direction_selectivity_index(curve, angles),
                about("1", "direction selectivity index"),
            ),
            "linear_dsi": (
                "atom",
                measures.direction_selectivity_index(_at_best(drive)[0], angles),
                about("1", "the same of the atom's inner product, rectified"),
            ),
            "half_width": (
                "atom",
                measures.half_width(curve, angles, 360.0),
                about("degree", "half width at half height of direction"),
            ),
            "preferred_direction": ("atom", angles[best[0]], about("degree", "direction with the largest response")),
            "preferred_frequency": ("atom", space[best[1]], about("1/pixel", "its spatial frequency")),
            "preferred_temporal_frequency": ("atom", time[best[2]], about("Hz", "its temporal frequency")),
            "speed": ("atom", time[best[2]] / space[best[1]], about("pixel/s", "speed of that grating")),
        },
        {
            "atom": np.arange(len(responses)),
            "direction": ("direction", angles, about("degree", "direction of the drift, anticlockwise from rightward")),
            "frequency": ("frequency", space, about("1/pixel", "spatial frequency of the grating")),
            "temporal_frequency": ("temporal_frequency", time, about("Hz", "temporal frequency of the grating")),
        },
    )


def temporal_tuning(
    cells: MotionPopulation,
    count: int,
    rate: float = 30.0,
    temporal: Sequence[float] | None = None,
    phases: int = 8,
    directions: int = 16,
) -> xr.Dataset:
    """Responses over temporal frequency of the `count` cells that respond most, at their best direction and spatial
    frequency (of `direction_tuning`), and to the opposite direction.

    `bandwidth` is NaN for a cell that does not fall to half of its best response on both sides: a low-pass or a
    high-pass cell. `low_pass` is the response to the lowest frequency over the best one. By default there are twelve
    frequencies from 0.01 to 0.45 cycles a frame.
    """
    time = rate * np.geomspace(0.01, 0.45, 12) if temporal is None else np.asarray(temporal, dtype=np.float64)
    coarse = direction_tuning(cells, rate, directions, phases=phases)
    height = coarse.response.max(("direction", "frequency", "temporal_frequency")).values
    chosen = np.argsort(-height, kind="stable")[:count]
    chosen = chosen[height[chosen] > 0]
    if not len(chosen):
        raise ValueError(f"no cell responds to a grating at lam {cells.lam}; a smaller lam is wanted")
    values = np.empty((len(chosen), 2, len(time)))
    for row, cell in enumerate(chosen):
        angle, frequency = (float(coarse[f"preferred_{name}"][cell]) for name in ("direction", "frequency"))
        shown = [[drifting(cells, angle + turn, frequency, t, rate, phases) for t in time] for turn in (0.0, 180.0)]
        values[row] = cells.responses(np.array(shown)).mean(2)[..., cell]
    own = values[:, 0]
    return of_cells(
        [int(cell) for cell in chosen],
        {
            "response": (("cell", "temporal_frequency"), own, about("1", "mean response in the best direction")),
            "opposite": (
                ("cell", "temporal_frequency"),
                values[:, 1],
                about("1", "mean response in the opposite direction"),
            ),
            "bandwidth": ("cell", measures.bandwidth(own, time), about("octave", "bandwidth of temporal frequency")),
            "preferred": ("cell", time[own.argmax(-1)], about("Hz", "temporal frequency with the largest response")),
            "low_pass": ("cell", own[:, 0] / own.max(-1), about("1", "response to the lowest frequency over the best")),
            "direction": ("cell", coarse.preferred_direction.values[chosen], about("degree", "direction of the drift")),
            "frequency": ("cell", coarse.preferred_frequency.values[chosen], about("1/pixel", "spatial frequency")),
        },
        {"temporal_frequency": ("temporal_frequency", time, about("Hz", "temporal frequency of the grating"))},
    )


def _at_best(responses: Array) -> tuple[Array, tuple[Array, ...]]:
    """Each cell's curve over direction through its largest response, and where that is."""
    best = np.unravel_index(responses.reshape(len(responses), -1).argmax(-1), responses.shape[1:])
    return responses[np.arange(len(responses)), :, best[1], best[2]], tuple(np.asarray(k) for k in best)
