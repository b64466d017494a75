"""Checkpointed backpropagation through an integration: states are kept, and the steps between are taken again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.gradients.first_order import once_only, refuse_transforms
from vars_dyn.integration.steppers.method import Method, Piece, Settings, Time

__all__ = ["odeint_replayed"]

_WHAT = 'The gradient of checkpointed steps (gradient="checkpoint")'
_INSTEAD = 'gradient="backprop" can be'

#: The first number of steps between two marks, and how many marks there may be for each of these steps. A step that is
#: taken again holds its stages and what autograd saves, about ten times a state.
_STRIDE, _MARKS_PER_STEP = 8, 4


def odeint_replayed(func: Any, y0: State, t: Tensor, settings: Settings, *, method: Method, parameters: State) -> State:
    """`method.odeint` with a backward pass that takes the same steps again, in pieces, from states that were kept.

    For N steps it keeps at most 4 sqrt(N) states, and holds at any time what backpropagation needs for about sqrt(N)
    steps. The gradients with respect to y0 and `parameters`, every tensor that `func` depends on, are those of
    backpropagation through the whole to rounding. For methods that take single steps again (`Replay.STEPS`).
    """
    refuse_transforms(_WHAT, 'gradient="backprop" has them', (*y0, *parameters))
    result: State = _Replayed.apply(_Solve(func, method, settings), t, len(y0), *y0, *parameters)
    return result


class _Mark(NamedTuple):
    """Where a step began, its length as first tried, and the number of steps before it."""

    time: float
    state: State
    step: float
    number: int


class _Marks:
    """The beginnings of evenly spaced steps, thinned out as more come: about the square root of the number of steps."""

    def __init__(self) -> None:
        self.kept: list[_Mark] = []
        self.stride = _STRIDE
        self.starts: list[float] = []

    def __call__(self, t0: float | Tensor, state: State, dt: float | Tensor) -> None:
        time = float(t0)
        if self.starts and time == self.starts[-1]:  # tried again after a rejection
            return
        if len(self.starts) % self.stride == 0:
            self.kept.append(_Mark(time, state, float(dt), len(self.starts)))
        self.starts.append(time)
        if len(self.kept) > _MARKS_PER_STEP * self.stride:
            self.kept, self.stride = self.kept[::2], 2 * self.stride


class _Solve:
    """One integration and the pieces of it."""

    def __init__(self, func: Any, method: Method, settings: Settings) -> None:
        self.func, self.method, self.settings = func, method, settings

    def whole(self, y0: State, t: Tensor, marks: _Marks) -> State:
        """The states at `t`, every step told to `marks`."""
        told = self.func.callback_step

        def tell(t0: float | Tensor, state: State, dt: float | Tensor) -> None:
            told(t0, state, dt)
            marks(t0, state, dt)

        self.func.callback_step = tell
        try:
            return self.method.odeint(self.func, y0, t, self.settings)
        finally:
            self.func.callback_step = told

    def piece(self, mark: _Mark, y0: State, t: Tensor, whole: Tensor, ends: Sequence[float]) -> State:
        """The states at `t`, which begins at `mark` and ends where a step of the whole did, the last of `ends`."""

        # Without callbacks, because these steps have been counted already.
        def function(t: Time, y: State) -> State:
            state: State = self.func(t, y)
            return state

        return self.method.retake(function, y0, t, self.settings, Piece(mark.step, ends, whole))


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: _Solve, t: Tensor, n: int, *tensors: Tensor) -> State:
        marks = _Marks()
        solution = solve.whole(tensors[:n], t, marks)
        ctx.solve, ctx.t, ctx.n, ctx.marks, ctx.starts = solve, t, n, marks.kept, marks.starts
        ctx.save_for_backward(*tensors)
        return solution

    @staticmethod
    @once_only(_WHAT, _INSTEAD)
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        t, n = ctx.t, ctx.n
        parameters = ctx.saved_tensors[n:]
        ends = [*ctx.starts[1:], float(t[-1])]  # the end of every step
        numbers = [mark.number for mark in ctx.marks[1:]] + [len(ends)]
        adjoint = tuple(torch.zeros_like(part[0]) for part in given)
        totals: list[Tensor | None] = [None] * len(parameters)
        for mark, number in zip(reversed(ctx.marks), reversed(numbers), strict=True):
            end = ends[number - 1]
            inside = ((t > mark.time) & (t <= end)).nonzero().squeeze(-1)
            times = torch.cat([t.new_tensor([mark.time, end]), t[inside]]).unique()
            with torch.enable_grad():
                state = tuple(part.detach().requires_grad_() for part in mark.state)
                solution = ctx.solve.piece(mark, state, times, t, ends[mark.number : number])
            wanted = tuple(torch.zeros_like(part) for part in solution)
            at = torch.searchsorted(times, t[inside])
            for row, part, last in zip(wanted, given, adjoint, strict=True):
                row[at] = part[inside]
                row[-1] += last
            found = torch.autograd.grad(solution, (*state, *parameters), wanted, allow_unused=True)
            adjoint = tuple(torch.zeros_like(s) if g is None else g for g, s in zip(found[:n], state, strict=True))
            totals = [b if a is None else a if b is None else a + b for a, b in zip(totals, found[n:], strict=True)]
        adjoint = tuple(a + part[0] for a, part in zip(adjoint, given, strict=True))
        return (None, None, None, *adjoint, *totals)
