"""Derivatives written out by hand: when they are used, how they are differentiated again, and a step of ISTA."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vars_dyn.attention.base import full_precision
from vars_dyn.thresholds import soft_threshold

__all__ = ["again", "plain_tensors", "soft_step"]


def plain_tensors(*tensors: Tensor, device: str = "cpu") -> bool:
    """Whether hand-written derivatives suit these tensors: on such a device, in eager mode, under no transform."""
    return (
        not torch.compiler.is_compiling()
        and all(type(t) in (Tensor, nn.Parameter) and t.device.type == device for t in tensors)
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def again(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor | None], wanted: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The derivatives by autograd of the plain form, which can be differentiated again; None where none is wanted."""
    chosen = {i: t for i, t in enumerate(inputs) if t is not None and wanted[i]}
    found = torch.autograd.grad(plain(*inputs), list(chosen.values()), grad, create_graph=True)
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
        if torch.is_grad_enabled():
            plain = functools.partial(_plain_step, lam=ctx.lam)
            return (*again(plain, inputs, ctx.needs_input_grad, grad), None)
        with full_precision(grad):
            a, _, _, norm = inputs
            passed = grad * (after != 0)
            of_b = passed / norm
            of_norm = torch.sub(a, after).mul_(of_b).sum_to_size(norm.shape) if ctx.needs_input_grad[3] else None
            return passed, -of_b, of_b, of_norm, None
