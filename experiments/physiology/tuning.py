"""Tuning to orientation, spatial frequency and contrast, by still gratings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from experiments.physiology import measures
from experiments.physiology.drawings import Place, disc, grating
from experiments.physiology.population import Population
from experiments.physiology.tables import about, of_cells

__all__ = ["contrast_tuning", "grating_tuning"]


def grating_tuning(
    cells: Population, orientations: int = 16, frequencies: Sequence[float] | None = None, phases: int = 8
) -> xr.Dataset:
    """All cells' responses to full gratings of contrast one, over orientation and spatial frequency.

    The response is the mean over the gratings' phases, the F0 of a slow drift. An orientation's curve is taken at the
    frequency with the largest response, and the other way round. Frequencies are in cycles per pixel; by default ten
    from one period per patch to 0.4.
    """
    lowest = 1.0 / cells.side
    found = np.geomspace(lowest, 0.4, 10) if frequencies is None else np.asarray(frequencies, dtype=np.float64)
    angles, middle = 180.0 * np.arange(orientations) / orientations, (cells.side - 1) / 2
    rows = []
    for angle in angles:
        shown = [
            [grating(cells.side, Place(middle, middle, angle, f, 360.0 * k / phases)) for k in range(phases)]
            for f in found
        ]
        rows.append(cells.responses(np.array(shown)).mean(1))
    responses = np.moveaxis(np.array(rows), -1, 0)  # (atom, orientation, frequency)
    best = responses.reshape(len(responses), -1).argmax(-1)
    at_angle, at_frequency = np.unravel_index(best, responses.shape[1:])
    cell = np.arange(len(responses))
    by_angle, by_frequency = responses[cell, :, at_frequency], responses[cell, at_angle]
    return xr.Dataset(
        {
            "response": (("atom", "orientation", "frequency"), responses, about("1", "mean response to a grating")),
            "osi": (
                "atom",
                measures.orientation_selectivity_index(by_angle, angles),
                about("1", "orientation selectivity index"),
            ),
            "circular_variance": (
                "atom",
                measures.circular_variance(by_angle, angles),
                about("1", "circular variance"),
            ),
            "half_width": ("atom", measures.half_width(by_angle, angles), about("degree", "half width at half height")),
            "bandwidth": ("atom", measures.bandwidth(by_frequency, found), about("octave", "bandwidth of frequency")),
            "preferred_orientation": (
                "atom",
                angles[at_angle],
                about("degree", "orientation with the largest response"),
            ),
            "preferred_frequency": (
                "atom",
                found[at_frequency],
                about("1/pixel", "frequency with the largest response"),
            ),
        },
        {
            "atom": cell,
            "orientation": ("orientation", angles, about("degree", "angle of the grating's wave vector")),
            "frequency": ("frequency", found, about("1/pixel", "spatial frequency of the grating")),
        },
    )


def contrast_tuning(
    cells: Population, chosen: Sequence[int], contrasts: Sequence[float], orientations: int = 12
) -> xr.Dataset:
    """Responses to a grating on the receptive field over contrast and orientation: the contrast response and its fit,
    and the orientation's half width at each contrast.

    The tuning is contrast invariant where the width does not change with contrast (Sclar and Freeman, Exp. Brain Res.
    46, 457, 1982): `width_slope` is the slope of the half width over log10 contrast.
    """
    levels, turns = np.asarray(contrasts, dtype=np.float64), 180.0 * np.arange(orientations) / orientations
    responses = []
    for cell in chosen:
        place = cells.place(cell)
        window = disc(cells.side, place, cells.extent(cell))
        shown = [[grating(cells.side, place, c, turn) * window for turn in turns] for c in levels]
        responses.append(cells.responses(np.array(shown))[..., cell])
    values = np.array(responses)  # (cell, contrast, orientation)
    fit = measures.naka_rushton(values[..., 0], levels)
    widths = np.stack([measures.half_width(values[:, k], turns) for k in range(len(levels))], -1)
    slopes = []
    for row in widths:
        fine = np.isfinite(row)
        slopes.append(np.polyfit(np.log10(levels[fine]), row[fine], 1)[0] if fine.sum() > 1 else np.nan)
    return of_cells(
        chosen,
        {
            "response": (("cell", "contrast", "turn"), values, about("1", "response to a grating")),
            "half_width": (("cell", "contrast"), widths, about("degree", "half width at half height of orientation")),
            "width_slope": (
                "cell",
                np.array(slopes),
                about("degree", "change of the half width per decade of contrast"),
            ),
            "r_max": ("cell", fit.r_max, about("1", "largest response of the Naka-Rushton fit")),
            "c50": ("cell", fit.c50, about("1", "contrast of half the largest response, Naka-Rushton fit")),
            "exponent": ("cell", fit.n, about("1", "exponent of the Naka-Rushton fit")),
            "r_squared": ("cell", fit.r_squared, about("1", "coefficient of determination of the Naka-Rushton fit")),
        },
        {
            "contrast": ("contrast", levels, about("1", "contrast of the grating")),
            "turn": ("turn", turns, about("degree", "angle between the grating and the cell's own orientation")),
        },
    )
