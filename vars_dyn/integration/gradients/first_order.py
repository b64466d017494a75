"""Refusals of what hand-written backward passes cannot do: second derivatives, and the transforms of torch.func."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["once_only", "refuse_transforms"]

Backward = Callable[..., tuple[Tensor | None, ...]]


def once_only(what: str, instead: str) -> Callable[[Backward], Backward]:
    """Decorates a `backward`: its gradients are constants to autograd, and differentiating them is a RuntimeError.

    Torch's `once_differentiable` refuses only where the gradient that came in can be differentiated itself. The
    gradient of a plain sum cannot, and then a second derivative would be wrong without an error. Here every path from
    the gradients back to a saved tensor or to a gradient that came in ends in the error, so all inputs must be saved.
    """
    message = f"{what} cannot be differentiated a second time; {instead}"

    def decorated(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def run(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
            with torch.no_grad():
                found = backward(ctx, *given)
            if not torch.is_grad_enabled():
                return found
            ways = [t for t in (*given, *ctx.saved_tensors) if t is not None and t.requires_grad]
            return tuple(None if t is None else _Refused.apply(message, t, *ways) for t in found)

        return run

    return decorated


class _Refused(torch.autograd.Function):
    """A constant whose derivative in any of the `ways` is the error."""

    @staticmethod
    def forward(ctx: Any, message: str, value: Tensor, *ways: Tensor) -> Tensor:
        ctx.message = message
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[None, ...]:
        raise RuntimeError(ctx.message)


def refuse_transforms(what: str, instead: str, tensors: Iterable[Tensor] = ()) -> None:
    """RuntimeError under a transform of torch.func, and where one of `tensors` carries a forward-mode tangent."""
    forward_ad = torch.autograd.forward_ad
    within = torch._C._are_functorch_transforms_active() or (
        forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    )
    if within:
        raise RuntimeError(f"{what} has no rules for torch.func's transforms and forward-mode derivatives; {instead}")
