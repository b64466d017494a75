"""Recording a trajectory: streamed to a store while it is integrated, or made a dataset when it is in memory."""

from __future__ import annotations

import errno
import hashlib
import inspect
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field, State
from vars_dyn.integrate import FIXED_METHODS, IntegrationError, Snapshot, Trajectory, start_of, stream
from vars_dyn.problems import SparseProblem
from vars_dyn.recording import provenance, snapshots
from vars_dyn.recording.quantities import (
    Layout,
    Quantity,
    as_numpy,
    certified_problem,
    end_arrays,
    quantities,
    static_arrays,
    time_array,
)
from vars_dyn.recording.store import Array, StoreError, Writer, exists, is_store, read_attributes, tidy

__all__ = ["Progress", "open_dataset", "record", "to_dataset"]

#: A chunk holds at most this many bytes of states, and at most this many time points.
_CHUNK_BYTES, _CHUNK_POINTS = 1 << 24, 64
#: Arguments of the integrator that may change between a run and its resumption: they do not touch the states.
_FREE = ("max_steps",)


class Progress(NamedTuple):
    """How far a recording is: reported after every chunk of times.

    Attributes:
        time, t_max: the time reached and the time to reach, in membrane time constants.
        relative_gap: the largest relative gap of all signals; NaN where none was asked for.
        settled: how many of the signals have settled.
        signals: how many there are.
    """

    time: float
    t_max: float
    relative_gap: float
    settled: int
    signals: int


@dataclass(frozen=True)
class _Plan:
    """One recording, checked and worked out before anything is written."""

    field: Field
    state: State
    layout: Layout
    problem: SparseProblem | None
    quantities: list[Quantity]
    times: Tensor
    every: int
    chunk: int
    integration: dict[str, Any]
    identity: dict[str, Any]
    coordinates: list[Array]
    attributes: dict[str, Any]

    @property
    def points(self) -> int:
        """How many time points are recorded if the run reaches t_max."""
        return -(-len(self.times) // self.every)

    @property
    def stride(self) -> int:
        """How many times are integrated between two commits."""
        return self.chunk * self.every

    @property
    def start(self) -> Snapshot:
        """The snapshot at the first time, before anything is integrated."""
        step = None if self.integration["method"] in FIXED_METHODS else self.integration["step"]
        return start_of(self.field, self.state, float(self.times[0]), step)

    def chunks(self, snapshot: Snapshot, index: int) -> Iterator[tuple[Tensor, State, Snapshot]]:
        """The integration from the snapshot at times[index] on; raises ValueError at once for what does not fit."""
        rest = self.times[0 if index == 0 else index + 1 :]
        return stream(self.field, snapshot, rest, chunk=self.stride, **self.integration)

    @cached_property
    def end_names(self) -> list[str]:
        """The arrays that are not seen while the run goes on."""
        return [array.name for array in self.end_arrays(self.start)]

    def end_arrays(self, now: Snapshot) -> list[Array]:
        """What the store holds of the end of the run."""
        settled_at = as_numpy(now.settled_at).reshape(-1)
        attributes = {"units": "tau", "long_name": "time at which the signal was found settled"}
        return [
            *end_arrays(self.layout, self.problem, now.state),
            Array("settled_at", ("signal",), settled_at, attributes),
        ]


def record(
    field: Field,
    store: str | os.PathLike[str],
    times: Tensor | Sequence[float] | NDArray[np.floating],
    state: State | None = None,
    *,
    variables: Sequence[str] | None = None,
    every: int = 1,
    neurons: Sequence[int] | None = None,
    atoms: Sequence[int] | None = None,
    chunk: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    coordinates: Mapping[str, NDArray[np.generic]] | None = None,
    attributes: Mapping[str, Any] | None = None,
    **integration: Any,
) -> xr.Dataset:
    """Integrate a field and stream its trajectory to a zarr store; memory does not grow with the number of times.

    The store is whole up to its last commit whatever happens to the process, and holds what is needed to go on from
    there: with the same torch on the same machine, a run that was interrupted and resumed ends with the same bits.

    Args:
        field: the field.
        store: folder of the store, zarr format 3.
        times: increasing times in membrane time constants; the state is given at the first one.
        state: the state at the first time; the field's initial state by default.
        variables: names of `VARIABLES` to record; by default all that the field has.
        every: record every so manieth of `times`, from the first on.
        neurons: flat indices of the neurons to record z of; by default all.
        atoms: flat indices of the atoms to record u and the code of; by default all.
        chunk: recorded times per commit and per chunk of the store; by default as many as fit in 16 MiB, at most 64.
        resume: go on with the store. Everything must be as it was, but the last of `times` may be later.
        overwrite: take the place of a store that is there, once the new one has been begun.
        progress: is called with a `Progress` after every chunk.
        coordinates: further coordinates of the signals by name, each one value per signal.
        attributes: further attributes of the dataset.
        **integration: arguments of `vars_dyn.integrate.stream`: method, rtol, atol, gap, max_steps, ...

    Returns:
        The dataset, read lazily from the store. Its attribute `status` says how the run ended.

    Raises:
        ValueError: for arguments that do not fit, a store that exists, or one that is resumed with other parameters.
        StoreError: (a ValueError) where the store cannot be written; what was committed before stays.
        IntegrationError: where integration fails; the store keeps the trajectory up to there and says so.
    """
    path = Path(store)
    plan = _plan(field, times, state, integration, variables, every, neurons, atoms, chunk, coordinates, attributes)
    with _explained(path):
        tidy(path)
        begun = _resume(path, plan) if resume else _create(path, plan, overwrite=overwrite)
    if begun is not None:
        with begun.writer:
            begun.run(progress)
    return open_dataset(path)


def open_dataset(store: str | os.PathLike[str]) -> xr.Dataset:
    """The dataset of a store, read lazily. Raises StoreError where there is none."""
    if not is_store(Path(store)):
        raise StoreError(f"{store} is no store that a simulation wrote")
    return xr.open_zarr(store, chunks=None)


def to_dataset(
    field: Field,
    trajectory: Trajectory,
    *,
    variables: Sequence[str] | None = None,
    every: int = 1,
    neurons: Sequence[int] | None = None,
    atoms: Sequence[int] | None = None,
    coordinates: Mapping[str, NDArray[np.generic]] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """A trajectory of `integrate` as a dataset like a store's; the arguments are `record`'s.

    What was asked of `integrate` (method, tolerances) is not in the trajectory: give it in `attributes`.
    """
    _checks.count("every", every)
    layout, problem = Layout(field, neurons, atoms), certified_problem(field)
    states = list(zip(*trajectory.states, strict=True))
    arrays = [Array("time", time_array().dims, _float64(trajectory.times[::every]), time_array().attributes)]
    arrays += [
        Array(q.name, ("time", *q.dims), q.over(states[::every]), q.attributes)
        for q in quantities(layout, problem, variables)
    ]
    arrays += static_arrays(layout) + _signal_coordinates(layout, coordinates) + end_arrays(layout, problem, states[-1])
    found = {
        **(attributes or {}),
        **provenance.attributes_of_field(field, states[0]),
        "problem": provenance.described_problem(field, problem),
        **provenance.attributes_of_process(field.x.device),
        **{name: int(value) for name, value in trajectory.statistics._asdict().items()},
        "every": every,
        "t_end": float(trajectory.times[-1]),
    }
    dataset = xr.Dataset(
        {array.name: (array.dims, array.values, dict(array.attributes)) for array in arrays},
        attrs={name: provenance.plain(value) for name, value in found.items()},
    )
    return dataset.set_coords([a.name for a in layout.coordinates() + _signal_coordinates(layout, coordinates)])


@dataclass
class _Recording:
    """A store that is being written, from a snapshot on."""

    path: Path
    plan: _Plan
    writer: Writer
    snapshot: Snapshot
    index: int  # of `snapshot.time` in the plan's times
    slot: int
    attributes: dict[str, Any]
    seconds: float
    chunks: Iterator[tuple[Tensor, State, Snapshot]]
    hashed: int = 0  # so many of the times went into `hash`
    hash: Any = dataclass_field(default_factory=hashlib.sha256)

    def run(self, progress: Callable[[Progress], None] | None) -> None:
        """Integrate, record and commit, chunk by chunk."""
        plan, began = self.plan, time.perf_counter() - self.seconds
        position = 0 if self.index == 0 else self.index + 1
        now = self.snapshot
        try:
            for _, states, now in self.chunks:
                self._write(states, position)
                position += len(states[0])
                # At the end of the run no snapshot is kept: a later t_max may have other times there.
                if position % plan.stride == 0 and self.index + 1 < position < len(plan.times):
                    self.snapshot, self.index, self.slot = now, position - 1, 1 - self.slot
                    self.seconds = time.perf_counter() - began
                    self._commit(position, now)
                if progress is not None:
                    progress(_progress(plan, now))
        except IntegrationError as error:
            self.seconds = time.perf_counter() - began
            self._fail(error, position, now)
            raise
        self.seconds = time.perf_counter() - began
        self._finish(position, now)

    def _write(self, states: State, position: int) -> None:
        """Write the recorded ones of the states at the times from `position`, a multiple of `every`, on."""
        every = self.plan.every
        picked = [tuple(part[k] for part in states) for k in range(0, len(states[0]), every)]
        times = self.plan.times[position : position + len(states[0]) : every]
        with _explained(self.path):
            self.writer.write("time", _float64(times), position // every)
            for quantity in self.plan.quantities:
                self.writer.write(quantity.name, quantity.over(picked), position // every)

    def _commit(self, position: int, snapshot: Snapshot) -> None:
        """Commit all that is written, with the snapshot to go on from."""
        with _explained(self.path):
            for array in snapshots.arrays(self.plan.layout, snapshot, self.slot):
                self.writer.write(array.name, array.values)
            self.writer.commit(
                self._points(position), self._attributes("running", snapshot), without=self.plan.end_names
            )

    def _finish(self, position: int, now: Snapshot) -> None:
        """Commit the last, perhaps incomplete, chunk and the state at the end; the snapshot stays where it was."""
        settled = not bool(now.live.any())
        points = self._points(position)
        following = points * self.plan.every
        if (
            settled
            and following < len(self.plan.times)
            and float(self.plan.times[following - self.plan.every]) < now.time
        ):
            # All settled between two recorded times: the state, which does not move any more, is recorded once.
            self._write(tuple(part[None] for part in now.state), following)
            points += 1
        self._close(points, now, "settled" if settled else "reached t_max")

    def _fail(self, error: IntegrationError, position: int, now: Snapshot) -> None:
        """Keep what there is of the trajectory."""
        found = error.trajectory
        if found is not None and len(found.times):
            self._write(found.states, position)
            position += len(found.times)
            now = now._replace(time=float(found.times[-1]), state=tuple(part[-1] for part in found.states))
        self._close(self._points(position), now, f"failed: {error}")

    def _close(self, points: int, now: Snapshot, status: str) -> None:
        """Commit everything, for good."""
        with _explained(self.path):
            for array in self.plan.end_arrays(now):
                self.writer.write(array.name, array.values)
            self.writer.commit(points, self._attributes(status, now))
            self.writer.plan(points)

    def _times_digest(self) -> str:
        """The hash of the times up to the snapshot: a resumed run must have gone through the same ones."""
        self.hash.update(self.plan.times[self.hashed : self.index + 1].numpy().tobytes())
        self.hashed = self.index + 1
        return str(self.hash.hexdigest())

    def _points(self, position: int) -> int:
        return -(-position // self.plan.every)

    def _attributes(self, status: str, snapshot: Snapshot) -> dict[str, Any]:
        gap = self.plan.integration.get("gap")
        settled = not bool(snapshot.live.any())
        found = {
            **self.attributes,
            "status": status,
            "equilibrium": bool(gap is not None and settled),
            "t_end": float(snapshot.time),
            **{name: int(value) for name, value in snapshot.statistics._asdict().items()},
            "wall_seconds": round(self.seconds, 3),
            "snapshot_slot": self.slot,
            "snapshot_index": self.index,
            "snapshot_times_sha256": self._times_digest(),
        }
        return {name: provenance.plain(value) for name, value in found.items()}


def _plan(
    field: Field,
    times: Tensor | Sequence[float] | NDArray[np.floating],
    state: State | None,
    integration: Mapping[str, Any],
    variables: Sequence[str] | None,
    every: int,
    neurons: Sequence[int] | None,
    atoms: Sequence[int] | None,
    chunk: int | None,
    coordinates: Mapping[str, NDArray[np.generic]] | None,
    attributes: Mapping[str, Any] | None,
) -> _Plan:
    field = field.detach()
    instants = _checked_times(times)
    start = field.checked(field.initial_state() if state is None else state)
    _checks.count("every", every)
    layout, problem = Layout(field, neurons, atoms), certified_problem(field)
    size = sum(part.numel() * part.element_size() for part in start) * every
    chunk = max(1, min(_CHUNK_POINTS, _CHUNK_BYTES // max(size, 1))) if chunk is None else _checks.count("chunk", chunk)
    chosen = quantities(layout, problem, variables)
    options = _integrator_options(integration)
    identity = {
        **provenance.attributes_of_field(field, start),
        **{f"stop_{name}" if name == "gap" else name: value for name, value in options.items() if name not in _FREE},
        "variables": [quantity.name for quantity in chosen],
        "every": every,
        "neurons": "all" if neurons is None else list(layout.neurons.chosen or ()),
        "atoms": "all" if atoms is None else list(layout.atoms.chosen or ()),
        "chunk": chunk,
    }
    extra = _signal_coordinates(layout, coordinates)
    return _Plan(
        field,
        start,
        layout,
        problem,
        chosen,
        instants,
        every,
        chunk,
        options,
        {name: provenance.plain(value) for name, value in identity.items()},
        extra,
        {name: provenance.plain(value) for name, value in (attributes or {}).items()},
    )


def _integrator_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `stream` after its first three, with its defaults where none are given."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(stream).parameters.items()
        if name not in ("field", "snapshot", "times", "chunk")
    }
    for name in given:
        if name not in known:
            raise ValueError(f"{name} is no option of the integrator; one of {', '.join(known)} is wanted")
    return known | dict(given)


def _create(path: Path, plan: _Plan, *, overwrite: bool) -> _Recording:
    """A new store with the first time point committed."""
    occupied = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if occupied and not (overwrite and is_store(path)):
        raise exists(path)
    snapshot = plan.start
    chunks = plan.chunks(snapshot, 0)
    attributes = {
        **plan.attributes,
        "title": f"Trajectory of {plan.field.parameters()['field']}, {plan.layout.signals} signals",
        **plan.identity,
        "problem": provenance.described_problem(plan.field, plan.problem),
        **provenance.attributes_of_process(plan.field.x.device),
        **_of_times(plan.times),
    }
    coordinates = plan.layout.coordinates() + plan.coordinates
    if coordinates:
        attributes["coordinates"] = " ".join(array.name for array in coordinates)
    arrays = [
        time_array(),
        *(quantity.array() for quantity in plan.quantities),
        *static_arrays(plan.layout),
        *plan.coordinates,
        *plan.end_arrays(snapshot),
        *(array for slot in (0, 1) for array in snapshots.arrays(plan.layout, snapshot, slot)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        writer = Writer.create(place, arrays, attributes, planned=plan.points, chunk=plan.chunk)
        recording = _Recording(path, plan, writer, snapshot, 0, 0, attributes, 0.0, chunks)
        recording._write(tuple(part[None] for part in plan.state), 0)
        recording._commit(1, snapshot)
        writer.publish(path, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return recording


def _resume(path: Path, plan: _Plan) -> _Recording | None:
    """The store's recording, ready to go on; None where it is already at its end."""
    if not path.exists():
        raise StoreError(f"{path} does not exist; there is no store to resume")
    writer = Writer.open(path)
    try:
        old = read_attributes(path)
        _check_identity(path, old, plan)
        if old["status"] == "settled" or (old["status"] == "reached t_max" and old["t_max"] == float(plan.times[-1])):
            writer.close()
            return None
        slot, index = int(old["snapshot_slot"]), int(old["snapshot_index"])
        snapshot = snapshots.read(plan.field, writer.read, slot)
        attributes = {**old, **plan.attributes, **_of_times(plan.times), "resumed": _history(old)}
        chunks = plan.chunks(snapshot, index)
        recording = _Recording(
            path, plan, writer, snapshot, index, slot, attributes, float(old["wall_seconds"]), chunks
        )
        points = len(xr.open_zarr(path, chunks=None)["time"])
        writer.plan(plan.points)
        writer.commit(points, attributes | {"status": "running"}, without=plan.end_names)
    except BaseException:
        writer.close()
        raise
    return recording


def _check_identity(path: Path, old: Mapping[str, Any], plan: _Plan) -> None:
    """StoreError where the store was written with other parameters, naming the first and both values."""
    difference = provenance.first_difference({name: old.get(name) for name in plan.identity}, plan.identity)
    if difference is not None:
        name, before, after = difference
        raise StoreError(f"{path} cannot be resumed with another {name}: it has {before}, this run has {after}")
    t_max, index = float(plan.times[-1]), int(old["snapshot_index"])
    if t_max < old["t_max"]:
        raise StoreError(f"{path} cannot be resumed with a smaller t_max: it has {old['t_max']}, this run has {t_max}")
    if index >= len(plan.times) or _times_digest(plan.times, index) != old["snapshot_times_sha256"]:
        raise StoreError(f"{path} cannot be resumed with other times: those up to {old['t_end']} are not the store's")
    changed = provenance.first_difference({k: old.get(k) for k in provenance.versions()}, provenance.versions())
    if changed is not None:
        name, before, after = changed
        warnings.warn(
            f"{path} was begun with {name} {before} and goes on with {after}: the last bits may differ", stacklevel=2
        )


def _history(old: Mapping[str, Any]) -> list[Any]:
    """When and by what command the run was resumed, this time included."""
    entry = {
        "command": provenance.command_line(),
        "date": provenance.now(),
        "from_time": old["t_end"],
        **provenance.versions(),
    }
    return [*old.get("resumed", []), entry]


def _of_times(times: Tensor) -> dict[str, Any]:
    return {"t_max": float(times[-1]), "times": len(times)}


def _checked_times(times: Tensor | Sequence[float] | NDArray[np.floating]) -> Tensor:
    instants = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if instants.ndim != 1 or not len(instants) or not bool(torch.isfinite(instants).all()):
        raise ValueError(
            "times is not a list of finite numbers; at least one time, in membrane time constants, is wanted"
        )
    if bool((instants.diff() <= 0).any()):
        raise ValueError("times do not increase; strictly increasing times are wanted")
    return instants


def _times_digest(times: Tensor, index: int) -> str:
    """The hash of the times up to and including `index`."""
    return hashlib.sha256(times[: index + 1].numpy().tobytes()).hexdigest()


def _signal_coordinates(layout: Layout, given: Mapping[str, NDArray[np.generic]] | None) -> list[Array]:
    arrays = []
    for name, values in (given or {}).items():
        if np.shape(values) != (layout.signals,):
            raise ValueError(
                f"the coordinate {name} has shape {np.shape(values)}; one value per signal, {layout.signals}, is wanted"
            )
        attributes = {"units": "1", "long_name": f"{name.replace('_', ' ')} of the signal"}
        arrays.append(Array(name, ("signal",), np.asarray(values), attributes))
    return arrays


def _progress(plan: _Plan, snapshot: Snapshot) -> Progress:
    settled = int((~snapshot.live).sum())
    gap = float(snapshot.relative_gap.max()) if snapshot.relative_gap.numel() else math.nan
    return Progress(float(snapshot.time), float(plan.times[-1]), gap, settled, plan.layout.signals)


def _float64(times: Tensor) -> NDArray[np.float64]:
    return times.detach().cpu().double().numpy()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; what was committed before stays whole"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"no permission to write to {error.filename or path.parent}"
        else:
            reason = error.strerror or str(error)
        raise StoreError(f"{path} cannot be written: {reason}") from error
