"""Derivatives written out by hand: where they may be used, how to differentiate them again, and a step of ISTA."""

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
    """Whether hand-written derivatives suit these tensors: on such a device, in eager mode, under no transform."""
    return (
        not torch.compiler.is_compiling()
        and all(type(t) in (Tensor, nn.Parameter) and t.device.type == device for t in tensors)
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def by_hand(grad: Tensor) -> bool:
    """Whether a hand-written derivative suits this gradient. If not, `again` differentiates the plain form instead.

    It does not suit a gradient that will be differentiated in turn (create_graph=True), nor many gradients at once
    (is_grads_batched=True).
    """
    many = torch._C._functorch.is_legacy_batchedtensor(grad)
    return not (torch.is_grad_enabled() or many) and plain_tensors(grad, device=grad.device.type)


def again(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor | None], wanted: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The derivatives by autograd of the plain form; None for inputs where none is wanted.

    They can be differentiated again in the inputs, in whatever the inputs were made from, and in `grad`.
    """
    once_more = torch.is_grad_enabled()
    with torch.enable_grad(), full_precision(grad):
        # Each input becomes a node of its own. One input may have been made from another (an image G a from its code a,
        # L from its kernel): a derivative in `t` itself would count the way through the other input too.
        own = [None if t is None else t.view_as(t) for t in inputs]
        chosen = {i: t for i, t in enumerate(own) if t is not None and wanted[i]}
        found = torch.autograd.grad(plain(*own), list(chosen.values()), grad, create_graph=once_more)
    result: list[Tensor | None] = [None] * len(inputs)
    for i, value in zip(chosen, found, strict=True):
        result[i] = value
    return result


def soft_step(a: Tensor, image: Tensor, b: Tensor, norm: Tensor, lam: float) -> Tensor:
    """soft(a - (image - b) / L, lam / L) with image = G a, L = `norm` and lam > 0: a step of ISTA in few passes."""
    result: Tensor = _SoftStep.apply(a, image, b, norm, lam)
    return result


def _plain_step(a: Tensor, image: Tensor, b: Tensor, norm: Tensor, lam: float) -> Tensor:
    return soft_threshold(a - (image - b) / norm, lam / norm)


class _SoftStep(torch.autograd.Function):
    """`soft_step`, with its derivative in every tensor.

    Zero is a code's value exactly where the threshold holds it. Elsewhere the new code a' is v - theta sgn(v), whose
    derivative in L is the step back, (a - a') / L.
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
