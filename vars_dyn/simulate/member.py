"""Simulations as members of an ensemble: their options are a design's parameters, their stores become its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from vars_dyn.recording import VARIABLES, facts, is_store, open_dataset
from vars_dyn.simulate.build import times_of
from vars_dyn.simulate.cli import parse
from vars_dyn.simulate.options import StimulusOptions, groups, options_of
from vars_dyn.simulate.run import main as simulate
from vars_dyn.simulate.stimulus import decided, resolved, stimulus_of
from vars_dyn.sweeping.commands import Command, CommandError, words_of

__all__ = ["MEMBER", "main", "simulation"]

_OPTIONS = frozenset(option.name for kind in groups().values() for option in options_of(kind))
#: What decides at which times a run is recorded: it may depend on the stimulus too, such as a movie's length.
_TIMES = frozenset({"t_max", "dt", "times", "every", *(each.name for each in options_of(StimulusOptions))}) | {
    "input",
    "movie",
    "clip",
    "crop",
    "scale",
    "whole",
    "patch",
}


def simulation(keep: Sequence[str] = ()) -> Command:
    """The simulation as the work of a sweep.

    Each member gives, per signal, `relative_gap_end`, `kkt_residual_end`, `settled_at`, `active_fraction` (of the
    code's entries) and `reconstruction_error` (|x - P a|^2 / |x|^2), and the counts of its steps. `keep` names
    variables of `vars_dyn.recording.VARIABLES` that are kept at all times, too. Their dimension `time` is ragged,
    because a run ends when its signals have settled.

    Raises ValueError for unknown names.
    """
    for name in keep:
        if name not in VARIABLES:
            raise ValueError(f"keep holds {name!r}; names of {', '.join(VARIABLES)} are wanted")
    # Without variables to keep, one number per time and signal is recorded, because something must be.
    recorded = [f"--record={','.join(keep)}"] if keep else ["--record=z", "--neurons=0"]
    return Command(
        name="simulate",
        module=__name__,
        extra=("--out={folder}/run.zarr", "--figure=none", *recorded),
        accepted=(0, 1),  # 1: the gap was not reached, which is a result
        read=partial(_results, keep=tuple(keep)),
        options=_OPTIONS - {"config", "json", "resume", "overwrite", "spiking", "leak", "quantum", "window"},
        sizes=partial(_times, keep=bool(keep)),
        flags=True,
    )


def main(arguments: Sequence[str]) -> int:
    """The command. It goes on with the store in --out if there is one, left by a process that was killed."""
    out = next(word.removeprefix("--out=") for word in arguments if word.startswith("--out="))
    return simulate([*arguments, *(["--resume"] if is_store(Path(out)) else [])])


def _results(folder: Path, keep: Sequence[str]) -> xr.Dataset:
    path = folder / "run.zarr"
    if not is_store(path):
        raise CommandError("the simulation wrote no store")
    dataset = open_dataset(path)
    of = facts(dataset)
    if str(of["status"]).startswith("failed"):
        raise CommandError(f"the integration {of['status']}")
    found = dataset[[name for name in ("relative_gap_end", "kkt_residual_end", "settled_at", *keep) if name in dataset]]
    if "code_end" in dataset:
        code = dataset["code_end"]
        entries = [dim for dim in code.dims if dim != "signal"]
        about = {"units": "1", "long_name": "share of the encoding neurons that are active at the end"}
        found["active_fraction"] = (code != 0).mean(entries).assign_attrs(about)
    if "reconstruction_end" in dataset:
        x, own = dataset["signals"], dataset["reconstruction_end"]
        entries = [dim for dim in x.dims if dim != "signal"]
        with np.errstate(invalid="ignore"):  # NaN for a signal of zeros
            error = ((x - own) ** 2).sum(entries) / (x**2).sum(entries)
        about = {"units": "1", "long_name": "squared error of the reconstruction at the end, relative to the signal's"}
        found["reconstruction_error"] = error.assign_attrs(about)
    for name in ("t_end", "evaluations", "accepted", "rejected", "equilibrium"):
        found[name] = ((), np.asarray(of[name]), {"units": "1", "long_name": name.replace("_", " ")})
    found["t_end"] = found["t_end"].astype(np.float64)
    # The positions of patches, neurons and atoms are the same in all members, or belong to the single run.
    return found.drop_vars([name for name in found.coords if name != "time"]).drop_attrs(deep=False).load()


def _times(members: Sequence[Mapping[str, Any]], keep: bool) -> dict[str, Any]:
    """The dimension `time`: the times of the members if all have the same, else the number of the most."""
    if not keep:
        return {}
    kinds = {json.dumps({name: each[name] for name in sorted(_TIMES) if name in each}): each for each in members}
    grids = []
    for each in kinds.values():
        words = words_of({name: each[name] for name in sorted(_TIMES) if name in each}, flags=True)
        try:
            options = decided(parse(words))
            options = resolved(options, stimulus_of(options))
        except ValueError:
            continue  # the member fails, and says so
        grids.append(times_of(options.integrator).numpy()[:: options.record.every])
    if not grids:
        return {}
    same = all(np.array_equal(grid, grids[0]) for grid in grids)
    return {"time": grids[0] if same else max(map(len, grids))}


MEMBER = simulation()
