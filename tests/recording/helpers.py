"""Small recordings that tests make, interrupt and compare. The processes that tests start import this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import vars_dyn as vd
from vars_dyn.recording import facts
from vars_dyn.recording.record import record

#: Facts such as the date, the duration and the command, which differ between runs with the same result.
PASSING = ("command", "date", "wall_seconds", "resumed", "torch_threads", "run", "provenance")


def small_field(signals: tuple[int, ...] = (4,), d: int = 6, atoms: int = 10, lam: float = 0.4) -> vd.SparseRecurrent:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(d, atoms, generator=generator, dtype=torch.float64)
    x = torch.randn(*signals, d, generator=generator, dtype=torch.float64)
    return vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, lam=lam)


def even(t_max: float, dt: float = 0.25) -> torch.Tensor:
    return torch.arange(int(t_max / dt) + 1, dtype=torch.float64) * dt


def record_to_the_end(store: Path, method: str, resume: bool) -> None:
    """Make the recording that tests kill. It has some forty commits, and spends most of its time writing."""
    torch.set_num_threads(1)
    record(small_field(), store, even(40.0), method=method, gap=1e-9, chunk=4, resume=resume)


def assert_same_bits(one: xr.Dataset, other: xr.Dataset) -> None:
    """Check that two runs have the same variables, bits, labels and attributes, except `PASSING` ones."""
    assert set(one.variables) == set(other.variables)
    for name in [name for name in one.variables if name not in PASSING]:
        assert one[name].dims == other[name].dims, name
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(_bits(one[name]), _bits(other[name]), err_msg=str(name))
    kept = [{k: v for k, v in facts(dataset).items() if k not in PASSING} for dataset in (one, other)]
    assert kept[0] == kept[1]


def _bits(variable: xr.DataArray) -> np.ndarray[Any, Any]:
    values = np.ascontiguousarray(variable.to_numpy())
    if values.dtype.kind in "TUO":  # texts have no bits to compare
        return values
    return values.view(np.uint8) if values.ndim else values.reshape(1).view(np.uint8)
