"""Resume a store from its last commit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from vars_dyn._files import StoreError
from vars_dyn.integration import Snapshot
from vars_dyn.recording import provenance, snapshots
from vars_dyn.recording.integrity import Contents, contents
from vars_dyn.recording.json_facts import Facts, Standing
from vars_dyn.recording.plan import RecordingPlan, times_digest
from vars_dyn.recording.store import Writer, grows, is_carried
from vars_dyn.recording.writer import Recording

__all__ = ["resumed"]

#: What facts have the value of in older stores, which do not have them.
_SINCE = {"interventions": "none", "noise": "none"}


def resumed(path: Path, plan: RecordingPlan) -> Recording | None:
    """The store's recording, ready to go on; None if nothing is left to do."""
    if not path.exists():
        raise StoreError(f"{path} does not exist; there is no store to resume")
    writer = Writer.open(path, contents)
    try:
        found = contents(path)
        old, standing = found.facts, Standing.of(found.facts)
        _check_identity(path, old, standing, plan)
        if standing.is_complete(plan.t_max):
            writer.close()
            return None
        slot, index = standing.snapshot_slot, standing.snapshot_index
        snapshot = _snapshot(path, plan, writer, slot, index)
        known = {**old, **plan.description.facts, **plan.times_facts, "resumed": _history(old)}
        _warn_of_tolerances(path, old)
        chunks = plan.chunks(snapshot, index)
        recording = Recording(path, plan, snapshot, index, slot, known, standing.wall_seconds, chunks)
        recording.writer = writer
        _check_arrays(path, plan, writer, found)
        writer.set_planned_length(plan.points)
        recording.show(found.arrays["time"]["shape"][0], known | {"status": "running"}, without=plan.end_names)
    except BaseException:
        writer.close()
        raise
    return recording


def _snapshot(path: Path, plan: RecordingPlan, writer: Writer, slot: int, index: int) -> Snapshot:
    """The snapshot to go on from; StoreError if it cannot be read, or if its time is not the one the store states."""
    try:
        snapshot = snapshots.read(plan.field, writer.read, slot)
    except StoreError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        said = " ".join(str(error).split())
        raise StoreError(f"{path} is damaged: its snapshot cannot be read: {said}") from error
    if snapshot.time != float(plan.times[index]):
        raise StoreError(
            f"{path} is damaged: its snapshot is of time {snapshot.time}, {float(plan.times[index])} is wanted"
        )
    if not all(bool(part.isfinite().all()) for part in snapshot.state):
        raise StoreError(f"{path} is damaged: its snapshot holds NaN or infinity")
    return snapshot


def _check_arrays(path: Path, plan: RecordingPlan, writer: Writer, found: Contents) -> None:
    """Raise StoreError if an array does not have this run's shape, or if an array that does not grow cannot be read."""
    for quantity in plan.quantities:
        shape = found.arrays[quantity.name]["shape"]
        if tuple(shape[1:]) != quantity.shape or found.arrays[quantity.name]["data_type"] != quantity.dtype.name:
            raise StoreError(f"{path} is damaged: its array {quantity.name} is not of shape (time, {quantity.shape})")
    for name, metadata in found.arrays.items():
        whole = not grows(metadata) and not is_carried(metadata) and metadata["data_type"] != "string"
        if whole and not name.startswith("snapshot/"):
            writer.read(name)
    if found.arrays["time"]["chunk_grid"]["configuration"]["chunk_shape"] != [plan.chunk]:
        raise StoreError(f"{path} is damaged: its chunks are not of {plan.chunk} times, as it says")


def _check_identity(path: Path, old: Facts, standing: Standing, plan: RecordingPlan) -> None:
    """Raise StoreError if the store has other parameters. The error names the first that differs, and both values."""
    known = {name: _placeless(old.get(name, _SINCE.get(name))) for name in plan.identity}
    difference = provenance.first_difference(known, {name: _placeless(value) for name, value in plan.identity.items()})
    if difference is not None:
        name, before, after = difference
        raise StoreError(f"{path} cannot be resumed with another {name}: it has {before}, this run has {after}")
    if plan.t_max < standing.t_max:
        raise StoreError(
            f"{path} cannot be resumed with a smaller t_max: it has {standing.t_max}, this run has {plan.t_max}"
        )
    index = standing.snapshot_index
    if index >= len(plan.times) or times_digest(plan.times, index) != standing.snapshot_times_sha256:
        raise StoreError(f"{path} cannot be resumed with other times: those up to {standing.t_end} are not the store's")
    changed = provenance.first_difference({k: old.get(k) for k in provenance.versions()}, provenance.versions())
    if changed is not None:
        name, before, after = changed
        warnings.warn(
            f"{path} was begun with {name} {before} and goes on with {after}: the last bits may differ", stacklevel=2
        )


def _placeless(fact: Any) -> Any:
    """A fact without the paths of files whose contents it states by a hash: they may lie anywhere."""
    if isinstance(fact, list):
        return [_placeless(each) for each in fact]
    if isinstance(fact, dict):
        return {k: _placeless(v) for k, v in fact.items() if k != "path" or "sha256" not in fact}
    return fact


def _warn_of_tolerances(path: Path, old: Facts) -> None:
    """Warn if the store was begun when `atol` was absolute and this is the first resumption since it is relative.

    The store's history records the time from which `atol` is relative.
    """
    meaning = provenance.meaning_of_tolerances()
    if any(meaning.keys() <= entry.keys() for entry in (old, *old.get("resumed", []))):
        return
    warnings.warn(
        f"{path} was begun with an absolute atol; from t = {old['t_end']:g} on, atol {old['atol']:g} is relative to "
        "each signal's size: the two parts agree to the tolerances, not to the bit",
        stacklevel=2,
    )


def _history(old: Facts) -> list[Facts]:
    """One entry for each resumption, this one included: the command, the date and the time at which it went on."""
    entry = {
        "command": provenance.command_line(),
        "date": provenance.now(),
        "from_time": old["t_end"],
        **provenance.versions(),
        **({} if "atol_relative_to" in old else provenance.meaning_of_tolerances()),
    }
    return [*old.get("resumed", []), entry]
