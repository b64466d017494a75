"""What keeps torchdiffeq's continuous adjoint right: a tolerance relative to the gradient, errors where it fails."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.gradients.first_order import once_only, refuse_transforms
from vars_dyn.integration.results import IntegrationError
from vars_dyn.integration.steppers.method import Method, Settings
from vars_dyn.integration.steppers.odeint import odeint_onto

__all__ = ["Size", "as_given", "odeint_guarded", "to_unit"]

_WHAT = 'The gradient of the continuous adjoint (gradient="adjoint")'
_INSTEAD = 'gradient="backprop" can be'


class Size:
    """The size of the last gradient that came in: it is divided out on the way back, and multiplied in at the end.

    Otherwise the effect of an absolute tolerance would depend on the scale of the loss: a mean over a large batch would
    be integrated backwards with no control of the error at all. A gradient with NaN or infinity gets the size NaN,
    which makes every gradient NaN, so that a gradient scaler notices it.

    Args:
        state: the state at one time.
        lead: how many leading dimensions number the signals.
        atol: absolute tolerance of a signal's gradient, relative to its largest entry.

    Attributes:
        value: the size.
        tolerance: the absolute tolerance of the gradient with respect to every entry of the state, flat. A signal that
            matters little to the loss, as a quiet one may beside loud ones, is integrated as accurately as the others.
    """

    def __init__(self, state: State, lead: int, atol: float) -> None:
        self.value = 1.0
        self.lead, self.atol = lead, atol
        self.tolerance = torch.cat([torch.full_like(part, atol, requires_grad=False).flatten() for part in state])

    def take(self, gradients: State) -> None:
        """Set the size from the gradients that come in; every part has time first."""
        self.value = max(float(g.abs().max()) for g in gradients if g.numel())
        if not 0 < self.value < math.inf:
            self.value = 1.0 if self.value == 0 else math.nan
            return
        largest = [(g / self.value).abs().amax(0).flatten(self.lead).amax(-1) for g in gradients]
        own = (self.atol * torch.stack(largest).amax(0)).clamp(min=torch.finfo(self.tolerance.dtype).tiny)
        events = [g.shape[1 + self.lead :].numel() for g in gradients]
        self.tolerance.copy_(torch.cat([own.flatten()[:, None].expand(-1, n).flatten() for n in events]))


def as_given(size: Size, *tensors: Tensor) -> State:
    """The tensors, as nodes of their own: gradients that come back to them are multiplied by `size`."""
    refuse_transforms(_WHAT, 'gradient="backprop" has them', tensors)
    result: State = _AsGiven.apply(size, *tensors)
    return result


def to_unit(size: Size, *tensors: Tensor) -> State:
    """The tensors; gradients on the way back through them are divided by their largest entry, which becomes `size`."""
    result: State = _ToUnit.apply(size, *tensors)
    return result


class _Passed(torch.autograd.Function):
    """Tensors as nodes of their own."""

    @staticmethod
    def forward(ctx: Any, size: Size, *tensors: Tensor) -> State:
        ctx.size = size
        ctx.save_for_backward(*tensors)
        return tuple(t.view_as(t) for t in tensors)


class _AsGiven(_Passed):
    @staticmethod
    @once_only(_WHAT, _INSTEAD)
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(g * ctx.size.value for g in gradients))


class _ToUnit(_Passed):
    @staticmethod
    @once_only(_WHAT, _INSTEAD)
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.size.take(gradients)
        if math.isnan(ctx.size.value):
            return (None, *(torch.zeros_like(g) for g in gradients))
        return (None, *(g / ctx.size.value for g in gradients))


def odeint_guarded(
    func: Any,
    y0: State,
    t: Tensor,
    settings: Settings,
    *,
    method: Method,
    max_steps: int,
    adjoint_options: dict[str, Any],
    **rest: Any,
) -> State:
    """`torchdiffeq.odeint_adjoint` with an error norm that is the largest over signals, for the state and its adjoint.

    It raises an IntegrationError where the backward integration cannot go on.
    """
    import torchdiffeq  # deferred: it imports scipy.integrate, which takes half a second

    attempts = 0

    def watch(t0: Tensor, state: State, dt: Tensor) -> None:
        nonlocal attempts
        attempts += 1
        what = ""
        if attempts > max_steps:
            what = f"the step limit is reached ({max_steps} steps)"
        elif not bool(torch.stack([torch.isfinite(part).all() for part in state]).all()):
            what = "the state or the gradient is not finite"
        elif not bool(t0 - dt < t0):
            what = "the step size underflows"
        if what:
            raise _error(what, float(t0))

    def norm(parts: State) -> Tensor:
        largest: Tensor = func.norm(parts[1 : 1 + 2 * len(y0)])
        return largest

    func.callback_step_adjoint = watch
    rest["adjoint_options"] = {**adjoint_options, "norm": norm}
    return odeint_onto(torchdiffeq.odeint_adjoint, func, y0, t, settings, method=method, **rest)


def _error(what: str, time: float) -> IntegrationError:
    advice = 'try gradient="checkpoint", or an Adjoint with a larger rtol or a smaller growth'
    return IntegrationError(f"the gradient: {what} at t = {time:.6g} on the way back; {advice}", time, [])
