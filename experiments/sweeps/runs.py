"""Commands whose runs are the members of a sweep: `series`, `ablate` and `overfit`.

What a member has finished, its own files say: records, ledgers, checkpoints. The sweep's store says how far this call
of the command has come, holds the numbers, and has the tracebacks of what failed. It goes when all members are done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import vars_dyn as vd
from vars_dyn.sweeping.members import Work
from vars_dyn.sweeping.places import Place
from vars_dyn.sweeping.store import DONE, EnsembleStore, open_sweep
from vars_dyn.sweeping.sweep import unsaid

__all__ = ["Processes", "failed", "measures", "run_members", "values_of"]


@dataclass(frozen=True)
class Processes:
    """Where members are run.

    Attributes:
        number: worker processes of this machine; 0: this process.
        scheduler: the address of a Dask scheduler, or a YAML file of dask-jobqueue.
    """

    number: int = 0
    scheduler: str | None = None

    @property
    def threads(self) -> int:
        """Threads of the CPU for each member: torch's, or an equal share of the processors for worker processes."""
        return torch.get_num_threads() if not self.number else max(1, (os.cpu_count() or 1) // self.number)


def run_members(
    work: Work,
    members: Sequence[Mapping[str, Any]],
    store: Path,
    processes: Processes,
    *,
    progress: bool | Callable[[xr.Dataset], object] | None = None,
) -> xr.Dataset:
    """Run the members, and return what they gave.

    `progress` is as in `vars_dyn.sweep`, but a function gets the dataset of what is done. StoreError if another process
    runs members into the same store.
    """
    after: bool | Callable[[int], object] | None
    if callable(progress):
        told = progress

        def after(_: int) -> None:
            told(open_sweep(store))
    else:
        after = progress

    with unsaid():
        _clear(store)
        found = vd.sweep(
            work,
            members,
            store,
            processes.number,
            processes.scheduler,
            block=1,
            threads=processes.threads,
            progress=after,
        ).load()
        if not failed(found):
            _clear(store)
    return found


def _clear(store: Path) -> None:
    """Remove the store of an earlier call; StoreError if it is no such store, or if another process writes to it."""
    place = Place.of(store)
    if not place.exists():
        return
    EnsembleStore.open(place)
    with ExitStack() as stack:
        stack.enter_context(place.claimed())
        shutil.rmtree(store)
        for note in place.folder.glob("member-*.txt"):
            note.unlink()


def measures(names: Sequence[str], values: Mapping[str, float] | None = None) -> xr.Dataset:
    """What a member measured, by name; NaN for what it did not."""
    numbers = [float((values or {}).get(name, np.nan)) for name in names]
    return xr.Dataset({"value": ("measure", numbers)}, coords={"measure": np.array(list(names), dtype=object)})


def values_of(found: xr.Dataset, member: int) -> dict[str, float]:
    """The measures of a member, without those that it did not take."""
    own = found["value"].values[member]
    names = found["measure"].values.tolist()
    return {str(name): float(value) for name, value in zip(names, own, strict=True) if not np.isnan(value)}


def failed(found: xr.Dataset) -> dict[int, str]:
    """The members that are not done, each with its error."""
    states, errors = found["status"].values, found["error"].values
    return {int(member): str(errors[member]) for member in np.flatnonzero(states != DONE)}
