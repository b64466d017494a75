"""A run that is being recorded: integrate, write and commit, chunk by chunk."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn._files import explained
from vars_dyn.dynamics.base import State
from vars_dyn.integration import IntegrationError, Snapshot
from vars_dyn.integration.results import verdict
from vars_dyn.recording import scalars, snapshots
from vars_dyn.recording.json_facts import Facts, as_facts
from vars_dyn.recording.plan import RecordingPlan, as_float64
from vars_dyn.recording.store import Writer

__all__ = ["Progress", "Recording"]


class Progress(NamedTuple):
    """How far a recording has come, reported after every chunk of times.

    Attributes:
        time, t_max: the time reached and the time to reach, in membrane time constants.
        relative_gap: the largest relative gap of all signals; NaN if none was asked for.
        settled: the number of signals that have settled.
        signals: the number of all signals.
    """

    time: float
    t_max: float
    relative_gap: float
    settled: int
    signals: int


@dataclass
class Recording:
    """A store that is being written, from a snapshot on.

    Attributes:
        path: where the store is, or will be.
        plan: what is recorded.
        writer: the open store.
        snapshot: the last snapshot that was committed.
        index: the index of the snapshot's time in the plan's times.
        slot: the slot of the store that holds the snapshot, 0 or 1.
        facts: what was known of the run when it was begun or resumed.
        seconds: how long the run has taken.
        chunks: the integration from the snapshot on.
        hashed: the number of times that have gone into `hash`.
    """

    path: Path
    plan: RecordingPlan
    writer: Writer = dataclass_field(init=False)
    snapshot: Snapshot
    index: int
    slot: int
    facts: Facts
    seconds: float
    chunks: Iterator[tuple[Tensor, State, Snapshot]]
    hashed: int = 0
    hash: Any = dataclass_field(default_factory=hashlib.sha256)

    def run(self, progress: Callable[[Progress], None] | None) -> None:
        """Integrate, record and commit, chunk by chunk."""
        plan, began = self.plan, time.perf_counter() - self.seconds
        position = 0 if self.index == 0 else self.index + 1
        now, reason = self.snapshot, None
        try:
            for _, states, now in self.chunks:
                self.write(states, position)
                position += len(states[0])
                # The end of the run gets no snapshot: a run resumed with a later t_max may have other times there.
                if position % plan.stride == 0 and self.index + 1 < position < len(plan.times):
                    self.snapshot, self.index, self.slot = now, position - 1, 1 - self.slot
                    self.seconds = time.perf_counter() - began
                    self.commit(position, now)
                if progress is not None:
                    progress(_progress(plan, now))
                reason = verdict(plan.monitor, now)
                if reason is not None:
                    break
        except IntegrationError as error:
            self.seconds = time.perf_counter() - began
            self._fail(error, position, now)
            raise
        self.seconds = time.perf_counter() - began
        if reason is None:
            self._finish(position, now)
        else:
            self._close(self._points(position), now, f"stopped: {reason}")

    def write(self, states: State, position: int) -> None:
        """Write what the plan records of `states`, the states at the times from index `position` on.

        `position` must be a multiple of `every`.
        """
        every = self.plan.every
        picked = [tuple(part[k] for part in states) for k in range(0, len(states[0]), every)]
        times = self.plan.times[position : position + len(states[0]) : every]
        with explained(self.path):
            self.writer.write("time", as_float64(times), position // every)
            for quantity in self.plan.quantities:
                self.writer.write(quantity.name, quantity.values_at(times.tolist(), picked), position // every)

    def commit(self, position: int, snapshot: Snapshot) -> None:
        """Commit all that has been written, with the snapshot to go on from."""
        with explained(self.path):
            for array in snapshots.arrays(self.plan.layout, snapshot, self.slot):
                self.writer.write(array.name, array.values)
            self.show(self._points(position), self.facts_at("running", snapshot), without=self.plan.end_names)

    def show(self, points: int, found: Facts, *, without: Sequence[str] = ()) -> None:
        """Commit the first `points` time points, and what is known of the run."""
        plan = self.plan
        names = " ".join(array.name for array in plan.layout.coordinates() + plan.description.coordinates)
        if self.writer.carries:
            shown = scalars.dataset_attributes(plan.description.attributes, found)
            shown |= {"coordinates": names} if names else {}
            self.writer.commit(points, shown, scalars.as_values(found), without=without)
        else:  # a store of version 0.1 keeps its facts as attributes
            self.writer.commit(points, found, {}, without=without)

    def _finish(self, position: int, now: Snapshot) -> None:
        """Commit the last chunk, which may be incomplete, and the state at the end. The snapshot stays the same."""
        settled = not bool(now.live.any())
        points = self._points(position)
        following = points * self.plan.every
        if (
            settled
            and following < len(self.plan.times)
            and float(self.plan.times[following - self.plan.every]) < now.time
        ):
            # All signals settled between two recorded times. Their state no longer changes, so it is recorded once.
            self.write(tuple(part[None] for part in now.state), following)
            points += 1
        self._close(points, now, "settled" if settled else "reached t_max")

    def _fail(self, error: IntegrationError, position: int, now: Snapshot) -> None:
        """Write the trajectory up to the failure, and commit it."""
        found = error.trajectory
        if found is not None and len(found.times):
            self.write(found.states, position)
            position += len(found.times)
            now = now._replace(time=float(found.times[-1]), state=tuple(part[-1] for part in found.states))
        self._close(self._points(position), now, f"failed: {error}")

    def _close(self, points: int, now: Snapshot, status: str) -> None:
        self.end(points, now, status, {array.name: array.values for array in self.plan.end_arrays(now)})

    def end(self, points: int, now: Snapshot, status: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Commit the end of the run, with the arrays that describe it."""
        with explained(self.path):
            for name, values in arrays.items():
                self.writer.write(name, values)
            found = self.facts_at(status, now)
            self.show(points, found)
            self.writer.set_planned_length(points)
            if self.writer.carries:
                self.writer.settle(scalars.as_values(found))

    def _times_digest(self) -> str:
        """The hash of the times up to the snapshot. The times of a resumed run must have the same hash."""
        self.hash.update(self.plan.times[self.hashed : self.index + 1].numpy().tobytes())
        self.hashed = self.index + 1
        return str(self.hash.hexdigest())

    def _points(self, position: int) -> int:
        return -(-position // self.plan.every)

    def facts_at(self, status: str, snapshot: Snapshot) -> Facts:
        """All that is known of the run at `snapshot`."""
        gap = self.plan.integration.get("gap")
        settled = not bool(snapshot.live.any())
        found = {
            **self.facts,
            "status": status,
            "equilibrium": bool(gap is not None and settled),
            "t_end": float(snapshot.time),
            **{name: int(value) for name, value in snapshot.statistics._asdict().items()},
            "wall_seconds": round(self.seconds, 3),
            "snapshot_slot": self.slot,
            "snapshot_index": self.index,
            "snapshot_times_sha256": self._times_digest(),
        }
        return as_facts(found)


def _progress(plan: RecordingPlan, snapshot: Snapshot) -> Progress:
    settled = int((~snapshot.live).sum())
    gap = float(snapshot.relative_gap.max()) if snapshot.relative_gap.numel() else math.nan
    return Progress(float(snapshot.time), plan.t_max, gap, settled, plan.layout.signals)
