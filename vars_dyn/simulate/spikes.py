"""The command's run of spiking units: which options it takes, its units, and its report."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
import xarray as xr

from vars_dyn.dictionaries import Dictionary
from vars_dyn.images import Signals
from vars_dyn.simulate.build import device_of, lam_of
from vars_dyn.simulate.options import (
    FieldOptions,
    IntegratorOptions,
    InterventionOptions,
    Options,
    RecordOptions,
    options_of,
)
from vars_dyn.spiking import SpikingLCA

__all__ = ["spikes_as_text", "spiking_of", "unused_by_spikes"]

#: The options of a run of a field that one of spiking units has too.
_SHARED = {"lam", "threshold", "t_max", "out", "figure", "resume", "overwrite"}


def unused_by_spikes() -> list[str]:
    """The names of the options that do nothing with --spiking."""
    kinds = (FieldOptions, InterventionOptions, IntegratorOptions, RecordOptions)
    return [*(each.name for kind in kinds for each in options_of(kind) if each.name not in _SHARED), "dtype"]


def spiking_of(options: Options, signals: Signals, dictionary: Dictionary) -> SpikingLCA:
    """The units of the run; ValueError for a signal that moves, and for options that they do not take."""
    if options.stimulus.stimulus != "none":
        raise ValueError(
            f"--spiking came with --stimulus {options.stimulus.stimulus}, which moves; a signal that stays is wanted "
            "(--stimulus none codes a movie whole)"
        )
    t_max, window = options.integrator.t_max, options.spiking.window
    if not math.isclose(max(round(t_max / window), 1) * window, t_max, rel_tol=1e-9):
        raise ValueError(f"--t-max is {t_max:g}, which is no multiple of --window, {window:g}; one that is, is wanted")
    device = device_of(options.run.device)
    dictionary, x = dictionary.to(device), torch.from_numpy(signals.values).to(device)
    return SpikingLCA(
        dictionary,
        x,
        lam_of(options.field, x, dictionary),
        nonnegative=options.field.threshold == "nonnegative",
        quantum=options.spiking.quantum,
        leak=options.spiking.leak,
    )


def spikes_as_text(dataset: xr.Dataset, scaling: str, figure: str | None, *, as_json: bool) -> str:
    """The report of the run: a table, or a JSON object in its place."""
    found = _report(dataset, scaling, figure)
    if as_json:
        return json.dumps(found, allow_nan=False)
    bound = found["bound_max"]
    rows = {
        "input": found["input_scaling"],
        "units": f"{found['signals']} signals of {found['signal_dim']} entries, {found['units']} spiking units each",
        "solves": "the LASSO, by the averaged code",
        "active": f"{100 * found['active_fraction']:.2f} % of the atoms in the averaged code",
        "work": f"{found['spikes']} spikes, {found['wall_seconds']:.1f} s",
        "time": f"{found['t_end']:.6g} time constants, {dataset.sizes['time']} averages recorded",
        "relative gap": f"{found['relative_gap_max']:.2e}, the largest of all signals",
        "bound": "none is proved" if bound is None else f"{bound:.2e} above the minimum of the objective, at most",
        "store": found["store"],
        "figure": figure or "none",
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def _report(dataset: xr.Dataset, scaling: str, figure: str | None) -> dict[str, Any]:
    last = dataset.isel(time=-1)
    atoms, largest = int(dataset["atoms"]), {name: float(last[name].max()) for name in ("relative_gap", "bound")}
    return {
        "store": str(dataset.encoding["source"]),
        "figure": figure,
        "status": dataset.attrs["status"],
        "equilibrium": False,
        "input_scaling": scaling,
        "field": "SpikingLCA",
        "signals": dataset.sizes["signal"],
        "signal_dim": math.prod(dataset["signals"].shape[1:]),
        "code_dim": atoms,
        "units": atoms if bool(dataset["nonnegative"]) else 2 * atoms,
        "active_fraction": float((last["code"] != 0).mean()),
        "t_end": float(last["time"]),
        "evaluations": dataset.sizes["spike"],
        "spikes": dataset.sizes["spike"],
        "wall_seconds": float(dataset.attrs["wall_seconds"]),
        "relative_gap_max": largest["relative_gap"],
        "kkt_max": float(last["kkt_residual"].max()),
        "bound_max": largest["bound"] if math.isfinite(largest["bound"]) else None,
    }
