"""Spike trains by unit, and filtered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from vars_dyn import _checks

__all__ = ["by_unit", "filtered"]


def by_unit(spikes: xr.Dataset) -> xr.Dataset:
    """The spikes of a run, sorted by unit: a ragged array in the form of compressed sparse rows.

    Args:
        spikes: a dataset of `vars_dyn.spike` or `open_spikes`. All of its spikes are loaded.

    Returns:
        A dataset with `spike_time` (spike), sorted by signal, atom, sign and time; one row of it per unit with
        `signal`, `atom`, `sign` and `spike_count` (unit); and `offset` (edge), one entry longer: the spikes of unit k
        are those from offset[k] to offset[k + 1]. `spike_count` names its `sample_dimension`, so this is also the
        contiguous ragged array of the CF conventions. Units that never fire have empty rows.
    """
    signals, atoms = spikes.sizes["signal"], int(spikes["atoms"])
    signs = np.array([1] if bool(spikes["nonnegative"]) else [1, -1])
    time, signal, atom, sign = (
        spikes[name].to_numpy() for name in ("spike_time", "spike_signal", "spike_atom", "spike_sign")
    )
    unit = (signal.astype(np.int64) * atoms + atom) * len(signs) + (sign < 0)
    order = np.argsort(unit, kind="stable")  # they come in the order of their times
    counts = np.bincount(unit, minlength=signals * atoms * len(signs))
    index = np.arange(len(counts))
    return xr.Dataset(
        {
            "spike_time": ("spike", time[order], spikes["spike_time"].attrs),
            "spike_count": ("unit", counts, {"units": "1", "long_name": "spikes of the unit", **_SAMPLES}),
            "offset": ("edge", np.concatenate([[0], np.cumsum(counts)]), {"units": "1", "long_name": _OFFSET}),
        },
        {
            "signal": ("unit", index // (atoms * len(signs)), {"units": "1", "long_name": "signal of the unit"}),
            "atom": ("unit", index // len(signs) % atoms, {"units": "1", "long_name": "atom of the unit, flat"}),
            "sign": ("unit", signs[index % len(signs)], {"units": "1", "long_name": "1 for on, -1 for off"}),
        },
        spikes.attrs,
    )


_SAMPLES = {"sample_dimension": "spike"}
_OFFSET = "index of the first spike of each unit, and the number of spikes"


def filtered(
    spikes: xr.Dataset, times: Sequence[float] | NDArray[np.floating], tau: float, signal: int = 0
) -> xr.DataArray:
    """One signal's spike trains, filtered by exp(-t / tau) / tau: the code as a synapse of this time constant sees it.

    Args:
        spikes: a dataset of `vars_dyn.spike` or `open_spikes`.
        times: increasing times, in tau of the dataset.
        tau: time constant of the filter, above zero.
        signal: the index of the signal.

    Returns:
        q sum_k sign_k exp(-(t - t_k) / tau) / tau over the spikes t_k <= t, with the dimensions time and atom (flat).
        Off units count as negative. Raises ValueError for times that do not increase.
    """
    _checks.number("tau", tau, positive=True)
    at = np.asarray(times, dtype=np.float64)
    if at.ndim != 1 or not np.all(np.diff(at) > 0):
        raise ValueError("times do not increase; a list of increasing times is wanted")
    own = spikes["spike_signal"].to_numpy() == signal
    time, atom, sign = (spikes[name].to_numpy()[own] for name in ("spike_time", "spike_atom", "spike_sign"))
    last = np.searchsorted(time, at, side="right")
    value, found, start, before = np.zeros(int(spikes["atoms"])), np.zeros((len(at), int(spikes["atoms"]))), 0, 0.0
    for k, now in enumerate(at):
        value = value * np.exp(-(now - before) / tau)
        new = slice(start, last[k])
        np.add.at(value, atom[new], sign[new] * np.exp(-(now - time[new]) / tau) / tau)
        found[k], start, before = value, last[k], float(now)
    quantum = float(spikes["quantum"][signal])
    about = {"units": "1", "long_name": f"code filtered with a time constant of {tau:g} tau"}
    return xr.DataArray(
        quantum * found, dims=("time", "atom"), coords={"time": ("time", at, {"units": "tau"})}, attrs=about
    )
