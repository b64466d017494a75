"""The times asked for, and where the way past them is cut into segments."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field
from vars_dyn.integration.plan import Plan

__all__ = ["Cut", "Spacing", "checked_times", "cuts", "earliest_end", "looks_at_gap"]


def checked_times(times: Tensor | _checks.Numbers) -> Tensor:
    """The times as float64 on the CPU; ValueError unless they are finite and increasing, and at least one."""
    if not isinstance(times, (str, int, float)) and times is not None:
        times = _checks.tensor("times", times)
    if not isinstance(times, Tensor) or times.ndim != 1 or not len(times):
        raise ValueError(
            f"times are {_checks.describe(times)}; a one-dimensional tensor of at least one time is wanted"
        )
    times = times.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(times).all()) or not bool((times.diff() > 0).all()):
        raise ValueError("times are not finite and strictly increasing; times that are both are wanted")
    return times


class Spacing(NamedTuple):
    """The time between restarts: constant, or doubled each time that the time since zero doubles, so that long steps
    stay possible.
    """

    every: float = math.inf
    doubles: bool = False

    def after(self, time: float) -> float:
        """The next restart after `time`, a multiple of the spacing there; the same wherever a run was resumed."""
        if not math.isfinite(self.every) or math.isinf(time):
            return math.inf
        every = self.every
        if self.doubles:
            every *= 2.0 ** max(0, math.floor(math.log2(max(abs(time) / (8 * every), 1.0)) + 1e-9))
        cut = (math.floor(time / every * (1 + 1e-12)) + 1) * every
        return cut if cut > time else math.inf


def looks_at_gap(plan: Plan, field: Field, check_every: float | None) -> Spacing:
    """The time between looks at the gap; endless where the plan has none."""
    if plan.gap is None:
        return Spacing()
    if check_every is not None:
        return Spacing(float(check_every))
    constant = _checks.plain(field.constants.get("tau_u", field.constants.get("tau_z", 1.0)))
    if plan.method.stabilised:
        return Spacing(constant, doubles=True)
    return Spacing(max(constant, 10 * plan.cap if plan.method.adaptive else 0.0))


def earliest_end(plan: Plan, spacing: Spacing, start: float, last: float) -> float:
    """When a run from `start` to `last` can end at the earliest: at the first look at which signals may settle."""
    return min(last, spacing.after(max(start, plan.settles_from))) if plan.gap is not None else last


class Cut(NamedTuple):
    """A segment's end, and the times on it at which states are wanted."""

    end: float
    outputs: Tensor


def cuts(start: float, outputs: Tensor, spacing: Spacing, boundaries: tuple[float, ...] = ()) -> Iterator[Cut]:
    """Cut the way from `start` past all `outputs` where `spacing` says, and at the increasing `boundaries`."""
    time, first = start, 0
    while first < len(outputs):
        later = bisect.bisect_right(boundaries, time)
        boundary = boundaries[later] if later < len(boundaries) else math.inf
        end = min(float(outputs[-1]), spacing.after(time), boundary)
        inside = int(torch.searchsorted(outputs, end, right=True))
        yield Cut(end, outputs[first:inside])
        time, first = end, inside
