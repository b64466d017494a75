"""Run spiking neurons: in memory, or streamed to a store that survives a kill."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from tqdm import tqdm

from vars_dyn import _checks
from vars_dyn.recording import provenance
from vars_dyn.recording.json_facts import Facts
from vars_dyn.recording.store import Array
from vars_dyn.spiking.events import State, advance, initial_state
from vars_dyn.spiking.layout import COORDINATES, Block, block_of, empty, static_arrays
from vars_dyn.spiking.neurons import SpikingLCA
from vars_dyn.spiking.store import SpikeStore, attributes, open_spikes

__all__ = ["SpikeProgress", "spike"]

#: Seconds between two commits. A commit waits for the disk.
_BETWEEN = 2.0


class SpikeProgress(NamedTuple):
    """How far a run has come, reported after every window.

    Attributes:
        time, t_max: the time reached and the time to reach, in tau.
        spikes: the number of spikes so far.
        relative_gap: the largest relative gap of the averaged codes of all signals.
    """

    time: float
    t_max: float
    spikes: int
    relative_gap: float


def spike(
    neurons: SpikingLCA,
    t_max: float,
    store: str | os.PathLike[str] | None = None,
    *,
    every: float = 10.0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[SpikeProgress], None] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Let spiking neurons fire from rest until `t_max`, and average their spikes.

    Without `store`, everything is kept in memory. With it, spikes are streamed to a zarr store, the memory does not
    grow with `t_max`, and the store is whole up to its last commit, whatever happens to the process. With the same
    torch on the same machine, a run that was interrupted and resumed ends with the same bits.

    Args:
        neurons: the neurons.
        t_max: the time to reach, in tau; a multiple of `every`.
        store: folder of the store.
        every: time between two averages that are recorded, in tau. Rounding may differ for another `every`.
        resume: go on with the store. All arguments must be as they were, but `t_max` may be later.
        overwrite: replace an existing store of this package.
        progress: a function that is called with a `SpikeProgress` after every window. By default a bar is shown where
            the output is a terminal.
        origin: facts of where the signals come from, as values of JSON, which become attributes of the dataset.

    Returns:
        The dataset, read lazily where it has a store. Spikes are a ragged array, in the order of their times:
        `spike_time`, `spike_signal`, `spike_atom` (flat) and `spike_sign` (-1 for off units) along `spike`, of which
        those of window k end before `spike_end[k]`; `vars_dyn.spiking.by_unit` sorts them by unit. Along `time`, per
        signal: the averaged `code`, its `objective`, `gap`, `relative_gap` and `kkt_residual`, and the `bound` on
        E(a) - E* that holds at that time (see `SpikingLCA.bound`).

    Raises:
        ValueError: for arguments that do not fit.
        StoreError: (a ValueError) if the store exists, is of another run, or cannot be written.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> neurons = vd.SpikingLCA(P, torch.tensor([[1.0, 0.5, 0.2]], dtype=torch.float64), lam=0.3)
        >>> run = vd.spike(neurons, 100.0, every=50.0)
        >>> run.relative_gap.shape  # one certificate per average and signal
        (2, 1)
    """
    _checks.number("every", every, positive=True)
    _checks.number("t_max", t_max, positive=True)
    windows = round(t_max / every)
    if windows < 1 or not math.isclose(windows * every, t_max, rel_tol=1e-9):
        raise ValueError(f"t_max is {t_max} and every is {every}; a multiple of every is wanted for t_max")
    if store is None and (resume or overwrite):
        raise ValueError("resume or overwrite is True, but there is no store; the folder of one is wanted")
    identity = {**_identity(neurons), "every": float(every)}
    with tqdm(total=float(t_max), desc="spikes", unit="tau", disable=None if progress is None else True) as bar:

        def report(at: SpikeProgress) -> None:
            bar.update(at.time - bar.n)
            if progress is not None:
                progress(at)

        if store is None:
            return _in_memory(neurons, every, windows, {**dict(origin or {}), **identity}, report)
        return _streamed(neurons, Path(store), every, windows, identity, origin, resume, overwrite, report)


def _windows(
    neurons: SpikingLCA, state: State, every: float, first: int, last: int, spikes: int
) -> Iterator[tuple[State, Block]]:
    for k in range(first, last):
        state, fired = advance(neurons, state, (k + 1) * every)
        block = block_of(neurons, state, fired, spikes)
        spikes += len(fired.time)
        yield state, block


def _in_memory(
    neurons: SpikingLCA, every: float, windows: int, identity: Facts, report: Callable[[SpikeProgress], None]
) -> xr.Dataset:
    began, blocks = time.perf_counter(), []
    for state, block in _windows(neurons, initial_state(neurons), every, 0, windows, 0):
        blocks.append(block)
        report(_progress(state, block, windows * every))
    joined: dict[str, np.ndarray] = {}
    for part in ([b.at_times for b in blocks], [b.of_spikes for b in blocks]):
        joined |= {name: np.concatenate([values[name] for values in part]) for name in part[0]}
    known = {**_known(neurons), "status": "reached t_max", "t_end": windows * every, "t_max": windows * every}
    known |= {"spikes": len(joined["spike_time"]), "windows": windows}
    known["wall_seconds"] = round(time.perf_counter() - began, 3)
    arrays = {a.name: (a.dims, joined.get(a.name, a.values), dict(a.attributes)) for a in _arrays(neurons)}
    return xr.Dataset(arrays, attrs=attributes({**known, **identity})).set_coords(COORDINATES)


def _arrays(neurons: SpikingLCA) -> list[Array]:
    return [*empty(neurons), *static_arrays(neurons)]


def _streamed(
    neurons: SpikingLCA,
    path: Path,
    every: float,
    windows: int,
    identity: Facts,
    origin: Mapping[str, Any] | None,
    resume: bool,
    overwrite: bool,
    report: Callable[[SpikeProgress], None],
) -> xr.Dataset:
    t_max = windows * every
    if resume:
        opened = SpikeStore.resume(path, neurons, identity)
    else:
        known = {**dict(origin or {}), **_known(neurons), "t_max": t_max}
        opened = SpikeStore.begin(path, neurons, identity, known, overwrite=overwrite)
    with opened as writing:
        if writing.windows > windows:
            raise ValueError(f"{path} has reached {writing.state.time}; a t_max of at least that is wanted")
        writing.known["t_max"] = t_max
        began = time.perf_counter() - float(writing.known.get("wall_seconds", 0.0))
        last, spikes = time.perf_counter(), writing.spikes
        for state, block in _windows(neurons, writing.state, every, writing.windows, windows, spikes):
            writing.write(block)
            done = writing.windows == windows
            if done or time.perf_counter() - last > _BETWEEN:
                writing.commit(state, "reached t_max" if done else "running", time.perf_counter() - began)
                last = time.perf_counter()
            report(_progress(state, block, t_max))
    return open_spikes(path)


def _progress(state: State, block: Block, t_max: float) -> SpikeProgress:
    gap = block.at_times["relative_gap"]
    return SpikeProgress(state.time, t_max, int(block.at_times["spike_end"][0]), float(gap.max()) if gap.size else 0.0)


def _identity(neurons: SpikingLCA) -> Facts:
    """What the spikes depend on."""
    problem = neurons.problem
    return {
        **neurons.parameters(),
        "dictionary_type": type(neurons.dictionary).__name__,
        "signal_batch": list(problem.batch_shape),
        "signal_shape": list(neurons.dictionary.signal_shape),
        "code_shape": list(neurons.dictionary.code_shape),
        "device": problem.x.device.type,
        "dictionary_sha256": provenance.digest(neurons.dictionary.tensors()),
        "signals_sha256": provenance.digest([problem.x]),
        "lam_sha256": provenance.digest([problem.lam]),
        "quantum_sha256": provenance.digest([neurons.quantum]),
    }


def _known(neurons: SpikingLCA) -> Facts:
    found = {"run": uuid.uuid4().hex, "command": provenance.command_line(), "date": provenance.now()}
    return found | dict(provenance.versions())
