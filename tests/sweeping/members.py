"""Functions that tests give to sweeps. Worker processes import them from here."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import vars_dyn as vd


def product(a: float, b: float) -> dict[str, Any]:
    """Refuses what is negative."""
    if a < 0:
        raise ValueError(f"a is {a}; a number of at least zero is wanted")
    return {"product": a * b, "pair": np.array([a, b])}


def settling(lam: float, seed: int) -> xr.Dataset:
    """Solves a random problem by a matrix product and a solver whose last bits would depend on threads and order."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.functional.normalize(torch.randn(24, 48, generator=generator, dtype=torch.float64), dim=0)
    x = torch.randn(3, 24, generator=generator, dtype=torch.float64)
    solution = vd.solve(vd.SparseProblem(vd.DenseDictionary(weight), x, lam), tol=1e-6)
    steps = np.arange(1 + seed % 4)
    return xr.Dataset(
        {
            "code": (("signal", "atom"), solution.code.numpy()),
            "gap": (("signal",), solution.relative_gap.numpy()),
            "course": (("step",), steps * lam),
        },
        coords={"step": steps},
    )


def lasting(number: int, folder: str, seconds: float = 0.2) -> float:
    """Notes each time that it is begun, with its process, takes a while, and returns its number."""
    note = Path(folder) / f"{number:04d}.{time.monotonic_ns()}.{os.getpid()}"
    note.touch()
    time.sleep(seconds)
    return float(number)


def deadly(number: int, folder: str) -> float:
    """Member 2 ends its own process, every time."""
    if number == 2:
        os.kill(os.getpid(), 9)
    return lasting(number, folder, 0.0)


def refused(number: int, folder: str) -> float:
    """The system refuses member 1 twice."""
    note = Path(folder) / f"{number}.{len(list(Path(folder).glob(f'{number}.*')))}"
    note.touch()
    if number == 1 and note.suffix in (".0", ".1"):
        raise OSError(errno.EIO, "the disk trembled")
    return float(number)
