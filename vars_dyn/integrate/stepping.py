"""What this package's own integrators share: the function they call and tell of their steps, and where a step lands."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from vars_dyn.dynamics.base import State

__all__ = ["Watched", "combined", "landing"]


@runtime_checkable
class Watched(Protocol):
    """The function to integrate, as torchdiffeq's solvers take it too: it is told of every step.

    Own integrators tell it times and steps as numbers, torchdiffeq's as tensors.
    """

    def __call__(self, t: Tensor, state: State) -> State: ...
    def callback_step(self, t0: float | Tensor, state: State, dt: float | Tensor) -> None: ...
    def callback_reject_step(self, t0: float | Tensor, state: State, dt: float | Tensor) -> None: ...


def landing(time: float, h: float, end: float) -> float:
    """Where a step of h from `time` ends: on `end` if it would come within rounding of it or go beyond.

    Raises AssertionError, as torchdiffeq does, where the step is below the rounding of time, or is NaN.
    """
    new = time + h
    if new >= (end * (1 - 1e-14) if end > 0 else end):
        new = end
    if not new > time:
        raise AssertionError("underflow in dt")
    return new


def combined(y: State, slopes: list[State], weights: tuple[float, ...], h: float) -> State:
    """y + h sum_j weights[j] slopes[j], in a tensor of its own; differentiable, and it keeps nothing for that."""
    parts = []
    for i, part in enumerate(y):
        total = part.clone()
        for slope, weight in zip(slopes, weights, strict=False):
            if weight:
                total = total.add_(slope[i], alpha=h * weight)
        parts.append(total)
    return tuple(parts)
