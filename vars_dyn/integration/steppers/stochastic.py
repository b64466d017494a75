"""What the schemes for noisy neurons share: fixed steps on a grid of time, and the noise that they step with."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration.steppers.brownian import DEPTH, Brownian
from vars_dyn.integration.steppers.method import Method, Replay, Settings, Time
from vars_dyn.noise import Noise

__all__ = ["Forcing", "Noisy", "Scheme", "default_step", "noisy_sum"]

#: Times closer than this share of a step count as one.
_SAME = 1e-9


class Forcing:
    """A noise bound to the shapes of a flat field: its strength in every part of the state, and its increments.

    Args:
        noise: the noise.
        field: the field, with one leading dimension of signals (or two for a batched dictionary).

    Raises ValueError for noise on a part that the field has not, and for paths that are not one per signal.
    """

    def __init__(self, noise: Noise, field: Field) -> None:
        self.noise, self.names = noise, field.state_names
        for name in ("z", "u"):
            if noise.strength(name) and name not in field.state_names:
                raise ValueError(
                    f"noise has {name} = {noise.strength(name)}, but {type(field).__name__} has no potential {name}; 0 "
                    "is wanted"
                )
        signals = math.prod(field.signal_batch)
        if noise.paths is not None and len(noise.paths) != signals:
            raise ValueError(f"noise has {len(noise.paths)} paths for {signals} signals; one per signal is wanted")
        paths = range(signals) if noise.paths is None else noise.paths
        self._paths = [
            Brownian(noise.seed, number, paths, math.prod(event)) if noise.strength(name) else None
            for number, (name, event) in enumerate(zip(field.state_names, field.event_shapes, strict=True))
        ]

    def increments(self, start: float, end: float, like: State, rows: Tensor) -> tuple[Tensor | None, ...]:
        """W(end) - W(start) for the signals with the numbers `rows`, shaped like the state; None without noise."""
        found: list[Tensor | None] = []
        for path, part in zip(self._paths, like, strict=True):
            if path is None:
                found.append(None)
                continue
            drawn = path.increment(start, end)[rows.cpu()]
            found.append(drawn.reshape(part.shape).to(device=part.device, dtype=part.dtype))
        return tuple(found)

    def strengths(self, field: Field, state: State) -> tuple[Tensor | float, ...]:
        """The factor of dW in every part: zero for units that do not follow the field."""
        found: list[Tensor | float] = []
        for name, part, free in zip(self.names, state, field.free(), strict=True):
            strength = self.noise.strength(name)
            own = strength * part if self.noise.kind == "multiplicative" else strength
            found.append(own if free is None else own * free.to(part.dtype))
        return tuple(found)

    def correction(self, field: Field, state: State) -> tuple[Tensor | float, ...]:
        """Half of the strength times its derivative in the potential: what Ito's sense adds to Stratonovich's."""
        if self.noise.kind == "additive":
            return (0.0,) * len(state)
        return tuple(
            0.5 * self.noise.strength(name) * strength
            for name, strength in zip(self.names, self.strengths(field, state), strict=True)
        )


@runtime_checkable
class Noisy(Protocol):
    """The function to integrate: it is told of every step, and knows its noise."""

    def __call__(self, t: Time, state: State) -> State: ...
    def callback_step(self, t0: Time, state: State, dt: Time) -> None: ...
    def increments(self, start: float, end: float, state: State) -> tuple[Tensor | None, ...]: ...
    def strengths(self, state: State) -> tuple[Tensor | float, ...]: ...
    def correction(self, state: State) -> tuple[Tensor | float, ...]: ...


@dataclass(frozen=True)
class Scheme(Method):
    """A one-step scheme for dy = f dt + b dW with diagonal b, which steps along the multiples of its step.

    A step also ends on every time asked for. The Brownian path is the same whatever the steps are.
    """

    adaptive: bool = False
    replay: Replay = Replay.RESTARTS

    @abstractmethod
    def step(self, func: Noisy, y: State, t: float, h: float, noise: Sequence[Tensor | None]) -> State:
        """The state after a step of h from y at t, with the increments `noise` of the Brownian path."""

    # `Any`, as a fixed-step method is not told of rejected steps.
    def odeint(self, func: Any, y0: State, t: Tensor, settings: Settings) -> State:
        times, step = t.tolist(), math.inf if settings.grid_step is None else settings.grid_step
        rows, y, now = [y0], y0, times[0]
        for target in times[1:]:
            while now < target:
                following = _next(now, target, step)
                func.callback_step(now, y, following - now)
                y = self.step(func, y, now, following - now, func.increments(now, following, y))
                now = following
            rows.append(y)
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def _next(now: float, target: float, step: float) -> float:
    """The next multiple of the step after `now`, or `target` if that comes first."""
    if math.isinf(step):
        return target
    following = (math.floor(now / step + _SAME) + 1) * step
    return target if following >= target - _SAME * step else following


def noisy_sum(
    y: State, slope: State, h: float, strengths: Sequence[Tensor | float], noise: Sequence[Tensor | None]
) -> State:
    """y + h slope + strengths noise."""
    moved = []
    for part, f, strength, dw in zip(y, slope, strengths, noise, strict=True):
        ahead = part + h * f
        moved.append(ahead if dw is None else ahead + strength * dw)
    return tuple(moved)


def default_step(limit: float, decay: float) -> float:
    """The largest power of two that is at most a tenth of the limit of stability."""
    most = 0.1 * limit / decay if decay > 0 else 1.0
    return 2.0 ** max(math.floor(math.log2(min(most, 1.0))), 4 - DEPTH)
