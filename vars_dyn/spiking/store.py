"""Stores of spikes: made, resumed and opened. They are whole at every moment, like those of trajectories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from vars_dyn._files import StoreError, Workplace, check_place, explained, lock, tidy
from vars_dyn.recording import provenance
from vars_dyn.recording.integrity import check_replaceable, exists, is_empty_folder, read_attributes
from vars_dyn.recording.json_facts import Facts
from vars_dyn.recording.store import Writer
from vars_dyn.spiking.events import State, initial_state
from vars_dyn.spiking.layout import COORDINATES, Block, empty, snapshot_arrays, static_arrays
from vars_dyn.spiking.neurons import SpikingLCA

__all__ = ["SpikeStore", "open_spikes"]

#: Spikes in a chunk of the store.
_CHUNK = 1 << 16
#: Bytes of averaged codes in a chunk of the store, and the most windows in one.
_BYTES, _WINDOWS = 1 << 22, 64


class SpikeStore:
    """A store of spikes that is being written; use it as a context manager.

    Attributes:
        state: the state to go on from.
        spikes, windows: how many there are in the store up to that state.
    """

    def __init__(self, path: Path, writer: Writer, identity: Facts, known: Facts, state: State) -> None:
        self.path, self.identity, self.known, self.state = path, identity, known, state
        self.writer, self.slot = writer, int(known.get("snapshot_slot", 1))
        self.spikes, self.windows = int(known.get("spikes", 0)), int(known.get("windows", 0))

    @classmethod
    def begin(cls, path: Path, neurons: SpikingLCA, identity: Facts, known: Facts, *, overwrite: bool) -> SpikeStore:
        """A new store without spikes, at its place."""
        check_place("store", path)

        def permit() -> int | None:
            if not overwrite and not is_empty_folder(path):
                raise exists(path)
            check_replaceable(path)
            return lock(path)

        with explained(path):
            tidy(path)
            if os.path.lexists(path) and (held := permit()) is not None:
                os.close(held)
            state = initial_state(neurons)
            arrays = [*empty(neurons), *static_arrays(neurons), *snapshot_arrays(state, 0), *snapshot_arrays(state, 1)]
            windows = max(1, min(_WINDOWS, _BYTES // (8 * neurons.signals * neurons.atoms)))
            with Workplace.begin(path) as work:
                chunk = {"time": windows, "spike": _CHUNK}
                writer = Writer.create(work.new, arrays, planned={"time": 0, "spike": 0}, chunk=chunk)
                store = cls(path, writer, identity, known, state)
                try:
                    store.commit(state, "running", 0.0)
                    writer.publish(work, permit)
                except BaseException:
                    writer.close()
                    raise
        return store

    @classmethod
    def resume(cls, path: Path, neurons: SpikingLCA, identity: Facts) -> SpikeStore:
        """The store at `path`, from its last commit on; StoreError if it is of another run."""
        with explained(path):
            tidy(path)
            writer = Writer.open(path, _check)
            try:
                old = read_attributes(path)
                difference = provenance.first_difference({name: old.get(name) for name in identity}, identity)
                if difference is not None:
                    name, before, after = difference
                    raise StoreError(
                        f"{path} cannot be resumed with another {name}: it has {before}, this run has {after}"
                    )
                device, prefix = neurons.drive.device, f"snapshot/{old['snapshot_slot']}/"
                potential, counts = (
                    torch.from_numpy(np.array(writer.read(prefix + name))).to(device)
                    for name in ("potential", "counts")
                )
                if potential.shape != neurons.drive.shape or counts.shape != neurons.drive.shape:
                    raise StoreError(f"{path} is damaged: its snapshot does not fit the units")
                return cls(path, writer, identity, old, State(float(old["t_end"]), potential, counts))
            except BaseException:
                writer.close()
                raise

    def __enter__(self) -> SpikeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, block: Block) -> None:
        """Append a window. Readers see it after the next commit."""
        with explained(self.path):
            for name, values in block.at_times.items():
                self.writer.write(name, values, self.windows)
            for name, values in block.of_spikes.items():
                self.writer.write(name, values, self.spikes)
        self.windows += 1
        self.spikes += len(block.of_spikes["spike_time"])

    def commit(self, state: State, status: str, seconds: float) -> None:
        """Make all that was written visible, with the state to go on from."""
        self.slot = 1 - self.slot
        found = {
            **self.known,
            **self.identity,
            "status": status,
            "t_end": state.time,
            "spikes": self.spikes,
            "windows": self.windows,
            "wall_seconds": round(seconds, 3),
            "snapshot_slot": self.slot,
            "snapshot_index": self.windows,
        }
        lengths = {"time": self.windows, "spike": self.spikes}
        with explained(self.path):
            for array in snapshot_arrays(state, self.slot):
                self.writer.write(array.name, array.values)
            if status != "running":
                self.writer.set_planned_length(lengths)
            self.writer.commit(lengths, attributes(found), {})


def attributes(found: Mapping[str, Any]) -> Facts:
    """The attributes of a dataset of spikes."""
    return {"title": "Spikes of a vars_dyn spiking LCA", **found}


def open_spikes(store: str | os.PathLike[str]) -> xr.Dataset:
    """The spikes of a store that `vars_dyn.spike` wrote, read lazily.

    Args:
        store: folder of the store, zarr format 3.

    Returns:
        The dataset at the store's last commit; `vars_dyn.spike` says what is in it.

    Raises:
        StoreError: (a ValueError) if there is no such store, or if it cannot be read.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> neurons = vd.SpikingLCA(P, torch.tensor([[1.0, 0.5, 0.2]], dtype=torch.float64), lam=0.3)
        >>> _ = vd.spike(neurons, 100.0, store="spikes.zarr", every=50.0)
        >>> vd.open_spikes("spikes.zarr").code.shape  # time, signal, atom
        (2, 1, 3)
    """
    path = Path(store)
    _check(path)
    try:
        found = xr.open_zarr(path, chunks=None, consolidated=True)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise StoreError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    return found.set_coords([name for name in COORDINATES if name in found.variables])


def _check(path: Path) -> None:
    found = read_attributes(path)
    if not path.exists():
        raise StoreError(f"{path} does not exist; there is no store")
    if path.is_symlink() or "spikes" not in found or found.get("snapshot_slot") not in (0, 1):
        raise StoreError(f"{path} is no store of spikes that vars_dyn.spike wrote")
