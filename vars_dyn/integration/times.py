"""Times: what is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from vars_dyn import _checks

__all__ = ["checked_times"]


def checked_times(times: Tensor) -> Tensor:
    """The times as float64 on the CPU; ValueError unless they are finite and increasing, and at least one."""
    if not isinstance(times, Tensor) or times.ndim != 1 or not len(times):
        raise ValueError(
            f"times are {_checks.describe(times)}; a one-dimensional tensor of at least one time is wanted"
        )
    times = times.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(times).all()) or not bool((times.diff() > 0).all()):
        raise ValueError("times are not finite and strictly increasing; times that are both are wanted")
    return times
