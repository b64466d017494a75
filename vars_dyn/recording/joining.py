"""Join the stores of blocks of signals to the store of all of them.

A block is a run of some of the signals, which goes on until they have settled. Its store holds everything but the state
in which it ended, which `EndKeeper` writes beside it. The joined store has the layout of a run of all signals at once,
and may be resumed like one: where a block has settled, its last state is repeated.
"""

from __future__ import annotations

import io
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr
from numpy.typing import NDArray

from vars_dyn._files import StoreError, Workplace, check_place, explained, tidy, write_bytes
from vars_dyn.dynamics.base import Field
from vars_dyn.integration import Snapshot, Statistics
from vars_dyn.recording import provenance, snapshots
from vars_dyn.recording.json_facts import Facts
from vars_dyn.recording.layout import Layout
from vars_dyn.recording.plan import RecordingPlan
from vars_dyn.recording.reading import open_dataset
from vars_dyn.recording.record import begin_store, permit_store
from vars_dyn.recording.scalars import facts
from vars_dyn.recording.writer import Recording

__all__ = ["EndKeeper", "join_plan"]

_SLOT = 0
#: What a snapshot has once for all signals. All else it has for each signal.
_SHARED = ("at", "step", "statistics")


class EndKeeper:
    """A monitor of `record` that writes the snapshot in which all signals have settled to a file beside the store."""

    def __init__(self, field: Field, store: Path) -> None:
        self._layout, self._file = Layout(field), _end_of(store)

    def __call__(self, now: Snapshot) -> None:
        """Write the snapshot if no signal is integrated any more."""
        if bool(now.live.any()):
            return
        found = {_last(array.name): array.values for array in snapshots.arrays(self._layout, now, _SLOT)}
        buffer = io.BytesIO()
        np.savez(buffer, **found)  # type: ignore[arg-type]  # numpy's stubs take the names for other arguments
        write_bytes(self._file, buffer.getvalue())


def join_plan(
    plan: RecordingPlan,
    store: str | os.PathLike[str],
    blocks: Sequence[Path],
    *,
    overwrite: bool = False,
    seconds: float = math.nan,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Write the store of a plan from the stores of blocks, which hold its signals in order.

    Args:
        plan: the recording of all signals. Nothing is integrated.
        store: folder of the joined store. It appears whole or not at all.
        blocks: the blocks' stores, each ended.
        overwrite: replace a store that `record` made.
        seconds: how long the run has taken.
        about: further facts for the provenance.
        progress: called with the number of time points that are written, and of all.

    Raises:
        StoreError: if a block is missing, damaged, not ended or of another run, or if the store cannot be written.
    """
    path = Path(store)
    check_place("store", path)
    parts = [_Part.open(block) for block in blocks]
    _check(path, plan, parts)
    points = max(part.points for part in parts)
    index = max(int(part.facts["snapshot_index"]) for part in parts)
    snapshot = _joined(plan, parts, index)
    settled = all(part.settled for part in parts)
    known = {
        **plan.description.facts,
        **provenance.meaning_of_tolerances(),
        **plan.identity,
        **provenance.facts_of_making(plan.field, plan.problem),
        **plan.times_facts,
        **(about or {}),
        "run": uuid.uuid4().hex,
    }
    end = snapshot._replace(
        time=max(float(part.facts["t_end"]) for part in parts),
        live=torch.full_like(snapshot.live, not settled),
        statistics=_statistics(part.facts for part in parts),
    )
    with explained(path):
        tidy(path)
        with Workplace.begin(path) as work:
            recording = Recording(path, plan, snapshot, index, _SLOT, known, seconds, iter(()))
            begin_store(work, recording)
            with recording.writer as writer:
                for start in range(0, points, plan.chunk):
                    stop = min(start + plan.chunk, points)
                    writer.write("time", np.asarray(plan.times[:: plan.every][start:stop], np.float64), start)
                    for quantity in plan.quantities:
                        rows = [part.rows(quantity.name, start, stop) for part in parts]
                        writer.write(quantity.name, np.concatenate(rows, axis=1), start)
                    if progress is not None:
                        progress(stop, points)
                recording.end(points, end, "settled" if settled else "reached t_max", _ends(plan, parts))
                writer.publish(work, lambda: permit_store(path, overwrite=overwrite))
    return open_dataset(path)


@dataclass(frozen=True)
class _Part:
    """The store of a block."""

    path: Path
    dataset: xr.Dataset
    facts: Facts

    @classmethod
    def open(cls, path: Path) -> _Part:
        dataset = open_dataset(path)
        return cls(path, dataset, facts(dataset))

    @property
    def points(self) -> int:
        return int(self.dataset.sizes["time"])

    @property
    def settled(self) -> bool:
        return str(self.facts["status"]) == "settled"

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """A variable at the recorded times from `start` to `stop`. After the end it keeps its last value."""
        found: NDArray[Any] = self.dataset[name].isel(time=slice(start, stop)).to_numpy()
        lacking = stop - start - len(found)
        if not lacking:
            return found
        last = found[-1:] if len(found) else self._last(name)
        return np.concatenate([found, np.repeat(last, lacking, axis=0)])

    def _last(self, name: str) -> NDArray[Any]:
        if name not in self._lasts:
            self._lasts[name] = self.dataset[name].isel(time=slice(-1, None)).to_numpy()
        return self._lasts[name]

    @cached_property
    def _lasts(self) -> dict[str, NDArray[Any]]:
        return {}

    def snapshot(self, index: int) -> Mapping[str, NDArray[Any]]:
        """The arrays of the snapshot at the time of number `index`."""
        if int(self.facts["snapshot_index"]) == index:
            group = zarr.open_group(self.path, mode="r")[f"snapshot/{int(self.facts['snapshot_slot'])}"]
            if not isinstance(group, zarr.Group):
                raise StoreError(f"{self.path} is damaged: it has no snapshot")
            return {name: np.asarray(array[...]) for name, array in group.arrays()}
        try:
            with np.load(_end_of(self.path)) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())
            raise StoreError(f"{_end_of(self.path)}, the end of a block, cannot be read: {said}") from None


def _check(path: Path, plan: RecordingPlan, parts: Sequence[_Part]) -> None:
    """Raise StoreError unless the blocks have ended, and hold the signals of the plan."""
    for part in parts:
        status = str(part.facts["status"])
        if status not in ("settled", "reached t_max"):
            raise StoreError(f"{part.path}, a block of {path}, is not ended: its status is {status!r}")
        times = part.dataset["time"].to_numpy()
        if not np.array_equal(times, np.asarray(plan.times[:: plan.every])[: len(times)]):
            raise StoreError(f"{part.path}, a block of {path}, has other times than the run")
    signals = [part.dataset["signals"].to_numpy() for part in parts]
    whole = np.asarray(plan.field.at(0.0).x.detach().cpu()).reshape(plan.layout.signals, -1)
    if not np.array_equal(np.concatenate(signals).reshape(len(whole), -1), whole):
        raise StoreError(f"the blocks of {path} have other signals than the run")


def _joined(plan: RecordingPlan, parts: Sequence[_Part], index: int) -> Snapshot:
    """The snapshot of all signals at the time of number `index`, the last that a block committed one at.

    A block whose last snapshot is earlier has settled before that time, so that its end is its state at that time.
    """
    found = [part.snapshot(index) for part in parts]
    steps = [float(each["step"]) for each in found if each["live"].any()]
    shared = {
        "at": np.asarray(float(plan.times[index])),
        "step": np.asarray(min((step for step in steps if not math.isnan(step)), default=math.nan)),
        "statistics": np.sum([each["statistics"] for each in found], axis=0),
    }

    def array(name: str) -> NDArray[Any]:
        name = _last(name)
        return shared[name] if name in _SHARED else np.concatenate([each[name] for each in found])

    return snapshots.read(plan.field, array, _SLOT)


def _statistics(known: Any) -> Statistics:
    every = list(known)
    return Statistics(*(sum(int(each[name]) for each in every) for name in Statistics._fields))


def _ends(plan: RecordingPlan, parts: Sequence[_Part]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part.dataset[name].to_numpy() for part in parts]) for name in plan.end_names}


def _end_of(store: Path) -> Path:
    return store.with_name(f"{store.name}.end.npz")


def _last(name: str) -> str:
    return name.rpartition("/")[2]
