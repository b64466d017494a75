"""The row "recording": a long run recorded, against integrating it and writing the same bytes with zarr."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import ZstdCodec

import vars_dyn as vd
from experiments.benchmark.contract import Contender, Goal, Row
from vars_dyn.dynamics import State
from vars_dyn.integration import Snapshot, start_of
from vars_dyn.integration.integrate import stream
from vars_dyn.recording.record import record

__all__ = ["recording"]

#: The sizes of `recording_memory`, .4 MB a time point. CHUNK is the default that `record` takes at these sizes.
SIGNALS, NEURONS, ATOMS = 64, 256, 512
STEPS, STEP, CHUNK = 512, 0.1, 42
OURS, RAW, ALONE = "vars_dyn.recording.record", "integrate, and raw zarr writes", "integrate alone"


def _field() -> vd.SparseRecurrent:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(NEURONS, ATOMS, generator=generator, dtype=torch.float64)
    x = torch.randn(SIGNALS, NEURONS, generator=generator, dtype=torch.float64)
    return vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, lam=1.0)


def _times() -> torch.Tensor:
    return STEP * torch.arange(STEPS, dtype=torch.float64)


class _Folder:
    """A folder that is emptied before every run and is removed with the process."""

    def __init__(self) -> None:
        self.owner = tempfile.TemporaryDirectory()
        self.path = Path(self.owner.name) / "run.zarr"

    def fresh(self) -> Path:
        shutil.rmtree(self.path, ignore_errors=True)
        return self.path


def _ours() -> Callable[[], Path]:
    field, folder = _field(), _Folder()

    def work() -> Path:
        record(field, folder.fresh(), _times(), variables=["z", "u"], chunk=CHUNK, method="rk4")
        return folder.path

    return work


def _raw() -> Callable[[], Path]:
    field, folder = _field(), _Folder()

    def work() -> Path:
        group = zarr.open_group(folder.fresh(), mode="w", zarr_format=3)
        arrays = [
            group.create_array(
                name,
                shape=(STEPS, SIGNALS, size),
                chunks=(CHUNK, SIGNALS, size),
                dtype="float64",
                compressors=[ZstdCodec(level=0)],
            )
            for name, size in (("z", NEURONS), ("u", ATOMS))
        ]
        done = 0
        for times, states, _ in _states(field):
            for array, part in zip(arrays, states, strict=True):
                array[done : done + len(times)] = part.numpy()
            done += len(times)
        return folder.path

    return work


def _alone() -> Callable[[], None]:
    field = _field()

    def work() -> None:
        for _ in _states(field):
            pass

    return work


def _states(field: vd.SparseRecurrent) -> Iterator[tuple[torch.Tensor, State, Snapshot]]:
    return stream(field, start_of(field, field.initial_state()), _times(), method="rk4", chunk=CHUNK)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise TypeError(f"{name} is no array")
    return found


def _judge(store: Path | None) -> dict[str, float]:
    """By how much the stored states differ from those of the integration itself."""
    if store is None:
        return {}
    group = zarr.open_group(store, mode="r")
    found, done = 0.0, 0
    for times, states, _ in _states(_field()):
        for name, part in zip(("z", "u"), states, strict=True):
            stored = torch.from_numpy(np.asarray(_array(group, name)[done : done + len(times)]))
            found = max(found, float((stored.reshape(part.shape) - part).abs().max()))
        done += len(times)
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return {"accuracy": found, "MB stored": size / 1e6}


def recording() -> Row:
    """The row "recording"."""
    contenders = (Contender(OURS, _ours, ours=True), Contender(RAW, _raw), Contender(ALONE, _alone))
    work = (
        f"{STEPS} steps of rk4 of Eq. 8-9, {SIGNALS} signals, d = {NEURONS}, d' = {ATOMS}, every state to zarr "
        f"({STEPS * SIGNALS * (NEURONS + ATOMS) * 8 / 1e6:.0f} MB, zstd)"
    )
    return Row("recording", work, "largest difference", 0.0, contenders, _judge, (Goal(OURS, RAW, 1.1),))
