"""Record a trajectory: stream it to a store while it is integrated."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._files import Workplace, check_place, explained, lock, tidy
from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration import Monitor
from vars_dyn.recording import provenance, scalars, snapshots
from vars_dyn.recording.integrity import check_replaceable, exists, is_empty_folder
from vars_dyn.recording.plan import RecordingPlan, plan_recording
from vars_dyn.recording.quantities import static_arrays, time_array
from vars_dyn.recording.reading import open_dataset
from vars_dyn.recording.resume import resumed
from vars_dyn.recording.selection import Selection
from vars_dyn.recording.store import Array, Writer
from vars_dyn.recording.writer import Progress, Recording

__all__ = ["begin_store", "permit_store", "record", "record_plan"]


def record(
    field: Field,
    store: str | os.PathLike[str],
    times: Tensor | _checks.Numbers,
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
    origin: Mapping[str, Any] | None = None,
    monitor: Monitor | None = None,
    **integration: Any,
) -> xr.Dataset:
    """Integrate a field and stream its trajectory to a zarr store. The memory does not grow with the number of times.

    Whatever happens to the process, the store is whole up to its last commit, and the run can go on from there. With
    the same torch on the same machine, a run that was interrupted and resumed ends with the same bits.

    Args:
        field: the field.
        store: folder of the store, zarr format 3.
        times: increasing times in membrane time constants. The integration starts at the first.
        state: the state at the first time; the field's initial state by default.
        variables: names of `VARIABLES` to record; by default all that the field has.
        every: record every n-th of `times`, starting with the first.
        neurons: flat indices of the neurons whose z is recorded; by default all.
        atoms: flat indices of the atoms whose u and code are recorded; by default all.
        chunk: recorded times per commit and per chunk of the store; by default as many as fit in 16 MiB, at most 64.
        resume: continue the run in the store. All arguments must be as they were, but the last of `times` may be
            later. In the first stores `atol` was absolute. Such a run goes on with an `atol` relative to each signal's
            size, and a warning says so.
        overwrite: replace an existing store once the new one has been begun. Only a store that `record` made, with
            nothing else in it, is replaced. Open datasets of the old store raise StoreError from then on.
        progress: a function that is called with a `Progress` after every chunk.
        coordinates: further coordinates of the signals by name. Each has one value per signal: numbers, texts or dates.
        attributes: further attributes of the dataset, as values of JSON. Arrays become lists.
        origin: facts of where the signals and parameters come from. The variable `provenance` keeps them; `seed` also
            becomes a variable of its own.
        monitor: a function that is called with the `vars_dyn.integration.Snapshot` after every chunk. If it returns a
            text, the run stops there, and its status is "stopped: " and the text. It can be resumed.
        **integration: arguments of `vars_dyn.integration.stream`: method, rtol, atol, gap, max_steps, interventions,
            noise, ... The provenance keeps interventions and noise.

    Returns:
        The dataset, read lazily from the store. Its variable `status` says how the run ended. Parameters and results
        are scalar variables, so that datasets joined from several runs keep the values of each run. `provenance` holds
        all of them (see `facts`).

    Raises:
        ValueError: for arguments that do not fit, a store that exists, or one that is resumed with other parameters.
        StoreError: (a ValueError) if the store cannot be written. What was committed before stays.
        IntegrationError: if the integration fails. The store keeps the trajectory up to there, and its status says so.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> field = vd.SparseRecurrent(P, x, lam=0.5)
        >>> run = vd.record(field, "recorded.zarr", torch.linspace(0, 100, 11, dtype=torch.float64), gap=1e-6)
        >>> run.status.item(), dict(run.sizes)["time"]
        ('settled', 5)
    """
    plan = plan_recording(
        field,
        times,
        state,
        Selection(variables, every, neurons, atoms, chunk),
        integration,
        coordinates=coordinates,
        attributes=attributes,
        origin=origin,
        monitor=monitor,
    )
    return record_plan(plan, store, resume=resume, overwrite=overwrite, progress=progress)


def record_plan(
    plan: RecordingPlan,
    store: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> xr.Dataset:
    """Carry out a plan. `record` explains the arguments, the result and what is raised."""
    path = Path(store)
    check_place("store", path)
    with explained(path):
        tidy(path)
        begun = resumed(path, plan) if resume else _created(path, plan, overwrite=overwrite)
    if begun is not None:
        with begun.writer:
            begun.run(progress)
    return open_dataset(path)


def permit_store(path: Path, *, overwrite: bool) -> int | None:
    """A lock on the store that is to be replaced; StoreError if what is there must not be replaced."""
    if not overwrite and not is_empty_folder(path):
        raise exists(path)
    check_replaceable(path)
    return lock(path)


def _created(path: Path, plan: RecordingPlan, *, overwrite: bool) -> Recording:
    """A new store with the first time point committed."""
    if os.path.lexists(path) and (held := permit_store(path, overwrite=overwrite)) is not None:
        os.close(held)
    snapshot = plan.start
    chunks = plan.chunks(snapshot, 0)
    known = {
        **plan.description.facts,
        **provenance.meaning_of_tolerances(),
        **plan.identity,
        **provenance.facts_of_making(plan.field, plan.problem),
        **plan.times_facts,
        "run": uuid.uuid4().hex,
    }
    with Workplace.begin(path) as work:
        recording = Recording(path, plan, snapshot, 0, 0, known, 0.0, chunks)
        begin_store(work, recording)
        try:
            recording.write(tuple(part[None] for part in plan.state), 0)
            recording.commit(1, snapshot)
            recording.writer.publish(work, lambda: permit_store(path, overwrite=overwrite))
        except BaseException:
            recording.writer.close()
            raise
    return recording


def begin_store(work: Workplace, recording: Recording) -> None:
    """Make the arrays of a recording in a workplace, and open them for writing. Nothing is committed yet."""
    plan, snapshot = recording.plan, recording.snapshot
    found = recording.facts_at("running", snapshot)
    about, values = scalars.meanings(found), scalars.as_values(found)
    arrays = [
        time_array(),
        *(quantity.array() for quantity in plan.quantities),
        *static_arrays(plan.layout),
        *plan.description.coordinates,
        *plan.end_arrays(snapshot),
        *(array for slot in (0, 1) for array in snapshots.arrays(plan.layout, snapshot, slot)),
        *(Array(name, (), values[name], about[name], carried=True) for name in values),
    ]
    _check_names(arrays, plan)
    recording.writer = Writer.create(work.new, arrays, planned=plan.points, chunk=plan.chunk)


def _check_names(arrays: Sequence[Array], plan: RecordingPlan) -> None:
    """Raise ValueError if a coordinate has a name that the store uses for another array."""
    names = [array.name for array in arrays]
    for array in plan.description.coordinates:
        if names.count(array.name) > 1 or array.name == "snapshot":
            raise ValueError(f"the coordinate {array.name} has a name that the store uses itself; another is wanted")
