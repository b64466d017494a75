"""Response latency: how long cells take to respond to a grating that is switched on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

import vars_dyn as vd
from experiments.physiology import measures
from experiments.physiology.drawings import disc, grating
from experiments.physiology.population import Population
from experiments.physiology.tables import about, of_cells

__all__ = ["latency"]


def latency(
    cells: Population, chosen: Sequence[int], contrasts: Sequence[float], t_max: float = 20.0, tau: float = 10.0
) -> xr.Dataset:
    """Responses over time to a grating on the receptive field, switched on at rest (z = u = 0) at time zero.

    The neurons are `vars_dyn.SparseRecurrent`. `latency` is the time at which the response first reaches a fixed
    criterion, a tenth of the cell's last response to the highest contrast; `half_rise` that of half of its own last
    response. Both are in milliseconds, for a membrane time constant of `tau` milliseconds. t_max is in time constants.
    """
    levels = np.asarray(contrasts, dtype=np.float64)
    shown = []
    for cell in chosen:
        place = cells.place(cell)
        window = disc(cells.side, place, cells.extent(cell))
        shown.append([grating(cells.side, place, c) * window for c in levels])
    pictures = np.array(shown)
    times = torch.linspace(0.0, t_max, 201, dtype=torch.float64)
    values = cells.kept.array("latency", pictures, lambda: _responses(cells, chosen, pictures, times))
    at = tau * times.numpy()
    half = measures.half_rise_time(values, at)
    first = measures.criterion_time(values, at, 0.1 * values[:, -1:, -1])
    return of_cells(
        chosen,
        {
            "response": (("cell", "contrast", "time"), values, about("1", "response to the grating")),
            "latency": (
                ("cell", "contrast"),
                first,
                about("ms", "time of a tenth of the response to the top contrast"),
            ),
            "half_rise": (("cell", "contrast"), half, about("ms", "time of half of the last response")),
        },
        {
            "contrast": ("contrast", levels, about("1", "contrast of the grating")),
            "time": ("time", at, about("ms", "time since the grating was switched on")),
        },
    )


def _responses(
    cells: Population, chosen: Sequence[int], pictures: NDArray[np.float64], times: Tensor
) -> NDArray[np.float64]:
    """The responses of each chosen cell to its own pictures (cell, contrast, side, side): (cell, contrast, time)."""
    x = torch.from_numpy(pictures).flatten(-2)
    field = vd.SparseRecurrent(cells.dictionary, x, cells.lam)
    rest = tuple(torch.zeros_like(part) for part in field.initial_state())
    path = vd.integrate(field, rest, times, rtol=1e-5, atol=1e-7)
    index = torch.tensor([int(c) for c in chosen])
    u = path.states[1][:, torch.arange(len(chosen)), :, index]  # (cell, time, contrast)
    responses = field.penalty.prox(u, cells.lam / float(field.beta)).clamp(min=0)
    return np.asarray(responses.permute(0, 2, 1).numpy())
