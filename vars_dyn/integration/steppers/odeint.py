"""torchdiffeq's methods, and the one place that calls its solvers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.scale import Tolerance
from vars_dyn.integration.steppers.method import Function, Method, Piece, Replay, Settings, Time

__all__ = ["ADAPTIVE", "FIXED", "Torchdiffeq", "odeint_onto"]


@dataclass(frozen=True)
class Torchdiffeq(Method):
    """A method that torchdiffeq implements."""

    in_torchdiffeq: bool = True

    # `Any`, as torchdiffeq warns of a `callback_reject_step` that a fixed-step method does not call.
    def odeint(self, func: Any, y0: State, t: Tensor, settings: Settings) -> State:
        import torchdiffeq  # deferred: it imports scipy.integrate, which takes half a second

        return odeint_onto(torchdiffeq.odeint, func, y0, t, settings, method=self)

    def retake(self, func: Function, y0: State, t: Tensor, settings: Settings, piece: Piece) -> State:
        import torchdiffeq  # deferred: it imports scipy.integrate, which takes half a second

        if self.adaptive:
            # Steps end on the whole segment's times and not at the piece's end, because a step that was rejected
            # may have overshot the piece's end.
            own = settings._replace(first_step=piece.first_step)
            return odeint_onto(torchdiffeq.odeint, func, y0, t, own, method=self, stops=piece.times)
        grid = _grid(piece.times, settings.grid_step)
        grid = grid[(grid >= t[0]) & (grid <= t[-1])]
        return odeint_onto(torchdiffeq.odeint, func, y0, t, settings, method=self, grid=grid)


# The limits were found by running the methods; see tests/integration/test_integrate.py.
ADAPTIVE = (
    Torchdiffeq("dopri8", 5.1666, interpolating=False),
    Torchdiffeq("bosh3", 2.5127, interpolating=False),
    Torchdiffeq("fehlberg2", 2.0, interpolating=False, always_capped=0.25, replay=Replay.RESTARTS),
    Torchdiffeq("adaptive_heun", 1.0, interpolating=False, replay=Replay.RESTARTS),
)
FIXED = (
    Torchdiffeq("euler", 2.0, adaptive=False),
    Torchdiffeq("midpoint", 2.0, adaptive=False),
    Torchdiffeq("heun2", 2.0, adaptive=False),
    Torchdiffeq("heun3", 2.5127, adaptive=False),
    Torchdiffeq("rk4", 2.7852, adaptive=False),
    Torchdiffeq("explicit_adams", 0.0035, adaptive=False, replay=Replay.WHOLE),
    Torchdiffeq("implicit_adams", 0.075, adaptive=False, implicit=True, replay=Replay.WHOLE),
)


def odeint_onto(
    solver: Callable[..., State],
    func: Any,
    y0: State,
    t: Tensor,
    settings: Settings,
    *,
    method: Method,
    stops: Tensor | None = None,
    grid: Tensor | None = None,
    **rest: Any,
) -> State:
    """The states at the times `t` by torchdiffeq's `odeint` or `odeint_adjoint`, which also gets `rest`.

    Where a method does not interpolate as accurately as it steps, a step ends on each of the times, or on each of
    `stops` if these are given. A fixed-step method steps along `grid`; by default every interval of `t` is cut evenly.
    """
    given: dict[str, Any] = {"method": method.name, "rtol": settings.rtol, "atol": _flat(settings.atol, y0), **rest}
    if method.interpolating or not method.adaptive:
        steps = _grid(t, settings.grid_step) if grid is None else grid
        options = _options(settings) if method.adaptive else _along(steps)
        solution: State = solver(func, y0, t, options=options, **given)
        return solution
    told, rows = _Told(func, settings.first_step), [y0]
    ends = (t if stops is None else stops).to("cpu", torch.float64)
    for low, high in itertools.pairwise(t):
        # Go on with the step length that was tried before the last step was cut to end on a time.
        chosen = {**_options(settings._replace(first_step=told.step)), "step_t": ends[ends >= float(high)][:1]}
        both = solver(told, rows[-1], torch.stack([low, high]), options=chosen, **given)
        rows.append(tuple(part[1] for part in both))
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def _options(settings: Settings) -> dict[str, object]:
    """An adaptive method's options, named as torchdiffeq names them."""
    options: dict[str, object] = {
        "norm": settings.norm,
        "step_t": torch.tensor([settings.end], dtype=torch.float64),
        "dtype": torch.float64,
    }
    if math.isfinite(settings.longest):
        options["max_step"] = settings.longest
    if settings.first_step is not None:
        options["first_step"] = settings.first_step
    return options


def _along(grid: Tensor) -> dict[str, object]:
    """A fixed-step method's options."""
    return {"grid_constructor": lambda func, y0, t: grid.to(t)}


def _grid(times: Tensor, step: float | None) -> Tensor:
    """Every interval of `times` cut evenly into steps of at most `step`."""
    if step is None:
        return times
    pieces = [times[:1]]
    for low, high in itertools.pairwise(times.tolist()):
        count = max(1, math.ceil((high - low) / step * (1 - 1e-12)))
        piece = low + (high - low) * torch.arange(1, count + 1, dtype=torch.float64) / count
        piece[-1] = high
        pieces.append(piece.to(times))
    return torch.cat(pieces)


def _flat(atol: Tolerance, y0: State) -> float | State:
    """The tolerance as torchdiffeq takes it: a number, or flat tensors for the parts."""
    if all(isinstance(part, float) and part == atol[0] for part in atol):
        return float(atol[0])
    return tuple(
        torch.as_tensor(part, dtype=torch.float64, device=y.device).flatten() for part, y in zip(atol, y0, strict=True)
    )


class _Told:
    """Wraps the function to integrate: it remembers the step tried last, and passes callbacks on."""

    def __init__(self, func: Any, step: float | None) -> None:
        self._func, self.step = func, step

    def __call__(self, t: Time, state: State) -> State:
        result: State = self._func(t, state)
        return result

    def callback_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        self.step = float(dt)
        if hasattr(self._func, "callback_step"):
            self._func.callback_step(t0, state, dt)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._func, name)
