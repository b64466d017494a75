"""Simulate many signals in blocks, on several processes: a sweep over the blocks, whose stores are joined at the end.

How signals are cut into blocks does not depend on the number of processes, so neither do the results. Until the run has
ended, the folder `STORE.blocks` beside its store holds the signals, the options and what the blocks have recorded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from vars_dyn._files import StoreError, explained, open_new, write_bytes
from vars_dyn.images import Signals
from vars_dyn.integration import IntegrationError
from vars_dyn.recording import facts, is_store, open_dataset
from vars_dyn.recording.integrity import exists
from vars_dyn.recording.joining import EndKeeper, join_plan
from vars_dyn.recording.plan import RecordingPlan
from vars_dyn.recording.record import record_plan
from vars_dyn.simulate.build import dictionary_of, field_of, plan_of
from vars_dyn.simulate.options import Options
from vars_dyn.sweeping.members import Work
from vars_dyn.sweeping.sweep import sweep, unsaid

__all__ = ["block_size", "blocks_of", "check_blocks", "options_of_blocks", "record_blocks"]

#: The most numbers of signals, and the most signals, in a block.
_NUMBERS, _SIGNALS = 1 << 14, 1024
_SIGNALS_FILE, _NOTE, _ENSEMBLE = "signals.npy", "run.json", "ensemble.zarr"


def blocks_of(store: Path) -> Path:
    """The folder that holds the blocks of a run until it has ended."""
    return store.with_name(f"{store.name}.blocks")


def block_size(signals: Signals) -> int:
    """How many signals share a block."""
    return max(1, min(_SIGNALS, _NUMBERS // math.prod(signals.values.shape[1:])))


def options_of_blocks(store: Path) -> dict[str, Any] | None:
    """The options of a run in blocks that has not ended; None if there is none."""
    found: dict[str, Any] | None = _note(blocks_of(store)).get("options")
    return found


def _note(folder: Path) -> dict[str, Any]:
    """What the folder says of its run: `options`, `run` (a text of its own) and `overwrite`; empty if nothing."""
    try:
        found = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("options"), dict) else {}


def check_blocks(options: Options) -> None:
    """Raise ValueError if a run with these options cannot be cut into blocks, or is none that could go on in blocks."""
    store, chosen = options.record.out, options.interventions
    begun = store is not None and options_of_blocks(store) is not None
    if options.run.workers is None:
        if begun and not options.record.resume and not options.record.overwrite:
            raise StoreError(f"{blocks_of(store or Path())} is a run with --workers that has not ended; resume it")
        return
    if options.stimulus.stimulus != "none" or options.signals.movie:
        raise ValueError("--workers came with a stimulus that moves; signals that stand still are wanted")
    if options.spiking.spiking:
        raise ValueError("--workers came with --spiking, which runs in one process; one of them is wanted")
    if chosen.noise_z > 0 or chosen.noise_u > 0:
        raise ValueError("--workers came with noise, which would repeat from block to block; a run without is wanted")
    if options.record.resume and not begun:
        raise ValueError(f"--workers came with {store}, which is no run in blocks; resume it without --workers")


@dataclass(frozen=True)
class _Blocks(Work):
    """What the members of the sweep do: each records one block.

    Attributes:
        options: those of the run.
        signals: the file of all signals.
        attributes: what holds for all signals.
        size: how many signals share a block.
    """

    options: Options
    signals: Path
    attributes: Mapping[str, Any]
    size: int

    name = "vars_dyn.simulate"
    keep = True

    def check(self, names: Sequence[str]) -> None:
        """All names are this module's own."""

    def like(self) -> xr.Dataset:
        """The results, of which the blocks' stores have more."""
        return xr.Dataset({"signals": 0, "t_end": 0.0, "evaluations": 0, "settled": False})

    def run(self, parameters: Mapping[str, Any], folder: Path) -> xr.Dataset:
        """Record a block, or go on with what a process that was killed has recorded of it."""
        first, store = int(parameters["block"]) * self.size, folder / "run.zarr"
        values = np.load(self.signals, mmap_mode="r")[first : first + self.size]
        own = Signals(np.array(values), {}, dict(self.attributes))
        dictionary = dictionary_of(self.options.dictionary, own, seed=self.options.run.seed)
        neurons = field_of(self.options, own, dictionary)
        plan = plan_of(self.options, own, neurons, monitor=EndKeeper(neurons, store))
        of = facts(record_plan(plan, store, resume=is_store(store)))
        settled = str(of["status"]) == "settled"
        return xr.Dataset(
            {
                "signals": len(own.values),
                "t_end": float(of["t_end"]),
                "evaluations": int(of["evaluations"]),
                "settled": settled,
            }
        )


def record_blocks(options: Options, signals: Signals, plan: RecordingPlan, store: Path, text: str) -> xr.Dataset:
    """Carry out a plan in blocks of signals. `text` has the options as JSON, for a run that is resumed.

    Raises:
        StoreError: (a ValueError) if something cannot be written, or if the blocks are those of another run.
        IntegrationError: if the integration of a block fails. The blocks stay, and so do those that are done.
    """
    began, folder, size = time.perf_counter(), blocks_of(store), block_size(signals)
    with explained(folder):
        if options.record.resume:
            _check_signals(folder, signals)
        else:
            _begin(folder, signals, text, overwrite=options.record.overwrite)
    note = _note(folder)
    if is_store(store) and facts(open_dataset(store)).get("blocks") == note["run"]:  # killed when all was done
        shutil.rmtree(folder)
        return open_dataset(store)
    if is_store(store) and not note["overwrite"]:
        raise exists(store)
    attributes = {name: value for name, value in signals.attributes.items() if name == "patch_colours"}
    count = -(-len(signals.values) // size)
    ensemble = folder / _ENSEMBLE
    with unsaid():
        found = sweep(
            _Blocks(options, (folder / _SIGNALS_FILE).absolute(), attributes, size),
            {"block": list(range(count))},
            ensemble,
            workers=options.run.workers or 0,
            resume=ensemble.exists(),
            block=1,
            threads=options.run.threads or 1,
        )
    failed = np.flatnonzero(found["status"].to_numpy() != 1)
    if len(failed):
        why = str(found["error"].to_numpy()[failed[0]])
        told = f"{len(failed)} of {count} blocks failed; block {failed[0]}: {why} (the others are kept in {folder})"
        if why.startswith(IntegrationError.__name__):
            raise IntegrationError(told, math.nan, [])
        raise ValueError(told)
    parts = [folder / f"{_ENSEMBLE}.members" / f"member-{number:06d}" / "run.zarr" for number in range(count)]
    about = {"signals_per_block": size, "blocks": note["run"]}
    seconds = time.perf_counter() - began
    dataset = join_plan(plan, store, parts, overwrite=bool(note["overwrite"]), seconds=seconds, about=about)
    with explained(folder):
        shutil.rmtree(folder)
    return dataset


def _begin(folder: Path, signals: Signals, text: str, *, overwrite: bool) -> None:
    """Make the folder with the signals. What it says of the run comes last, so that a folder that says it has all."""
    if _note(folder) and overwrite:
        shutil.rmtree(folder)
    if folder.exists() and not {path.name for path in folder.iterdir()} <= {_SIGNALS_FILE, f"{_SIGNALS_FILE}.partial"}:
        raise StoreError(f"{folder} exists; resume the run that it belongs to, or another --out is wanted")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{_SIGNALS_FILE}.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(open_new(partial), "wb") as file:
        np.save(file, signals.values)
    partial.replace(folder / _SIGNALS_FILE)
    note = {"options": json.loads(text), "run": uuid.uuid4().hex, "overwrite": overwrite}
    write_bytes(folder / _NOTE, json.dumps(note).encode())


def _check_signals(folder: Path, signals: Signals) -> None:
    try:
        kept = np.load(folder / _SIGNALS_FILE, mmap_mode="r")
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise StoreError(f"{folder / _SIGNALS_FILE}, the signals of the run, cannot be read: {said}") from None
    if not np.array_equal(kept, signals.values):
        raise StoreError(f"{folder} belongs to a run of other signals; the same INPUT and options are wanted")
