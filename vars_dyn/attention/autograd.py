"""Support for derivatives written out by hand: when they may be used, and how to differentiate them again.

A step of ISTA with such a derivative is here too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vars_dyn.attention.precision import full_precision
from vars_dyn.thresholds import soft_threshold

__all__ = ["again", "by_hand", "plain_tensors", "soft_step"]


def plain_tensors(*tensors: Tensor, device: str = "cpu") -> bool:
    """Whether hand-written derivatives suit these tensors: on a `device` of this type, in eager mode, untransformed."""
    return (
        not torch.compiler.is_compiling()
        and all(type(t) in (Tensor, nn.Parameter) and t.device.type == device for t in tensors)
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def by_hand(grad: Tensor) -> bool:
    """Whether a hand-written derivative suits this gradient. If not, `again` differentiates the plain form instead.

    It suits neither a gradient that will itself be differentiated (create_graph=True) nor a batch of gradients
    (is_grads_batched=True).
    """
    many = torch._C._functorch.is_legacy_batchedtensor(grad)
    return not (torch.is_grad_enabled() or many) and plain_tensors(grad, device=grad.device.type)


def again(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor | None], wanted: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The derivatives of the plain form, computed by autograd; None for inputs of which none is wanted.

    They can be differentiated again with respect to the inputs, whatever the inputs were made from, and `grad`.
    """
    once_more = torch.is_grad_enabled()
    with torch.enable_grad(), full_precision(grad):
        # Each input becomes a node of its own, because one input may have been made from another (G a from the code a,
        # L from the kernel). The derivative in `t` itself would then include the way through that other input.
        own = [None if t is None else t.view_as(t) for t in inputs]
        chosen = {i: t for i, t in enumerate(own) if t is not None and wanted[i]}
        found = torch.autograd.grad(plain(*own), list(chosen.values()), grad, create_graph=once_more)
    result: list[Tensor | None] = [None] * len(inputs)
    for i, value in zip(chosen, found, strict=True):
        result[i] = value
    return result


def soft_step(a: Tensor, image: Tensor, b: Tensor, norm: Tensor, lam: float) -> Tensor:
    """A step of ISTA in few passes: soft(a - (image - b) / L, lam / L) with image = G a, L = `norm` and lam > 0."""
    result: Tensor = _SoftStep.apply(a, image, b, norm, lam)
    return result


def _plain_step(a: Tensor, image: Tensor, b: Tensor, norm: Tensor, lam: float) -> Tensor:
    return soft_threshold(a - (image - b) / norm, lam / norm)


class _SoftStep(torch.autograd.Function):
    """`soft_step` and its derivatives with respect to all its tensors.

    An entry of the new code a' is zero exactly where the threshold cuts it off, and so is its derivative. Elsewhere
    a' = v - theta sgn(v), whose derivative in L is (a - a') / L.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, image: Tensor, b: Tensor, norm: Tensor, lam: float) -> Tensor:
        inverse = norm.reciprocal()
        v = torch.sub(b, image)
        v = torch.addcmul(a, v, inverse, out=v)
        theta = lam * inverse
        v -= v.clamp(-theta, theta)
        ctx.save_for_backward(a, image, b, norm, v)
        ctx.lam = lam
        return v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        *inputs, after = ctx.saved_tensors
        if not by_hand(grad):
            plain = functools.partial(_plain_step, lam=ctx.lam)
            return (*again(plain, inputs, ctx.needs_input_grad, grad), None)
        with full_precision(grad):
            a, _, _, norm = inputs
            passed = grad * (after != 0)
            grad_b = passed / norm
            grad_norm = torch.sub(a, after).mul_(grad_b).sum_to_size(norm.shape) if ctx.needs_input_grad[3] else None
            return passed, -grad_b, grad_b, grad_norm, None
