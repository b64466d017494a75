"""The reconstruction of a dynamic dictionary as kernels for the GPU, written in Triton.

The kernels compute what `cpu_features` computes, in float32. Queries and values may be of half precision. The forward
pass reads the tokens twice, and so does the backward pass. Each reads them in blocks and never writes the features to
memory. One program holds the Gram matrix, L and the code of one head of one image. With TRITON_INTERPRET=1 in the
environment, Triton's interpreter runs the kernels on the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from vars_dyn.attention.autograd import again, by_hand, plain_tensors
from vars_dyn.attention.precision import full_precision
from vars_dyn.attention.reconstruct import plain
from vars_dyn.attention.reconstruct.triton.limits import NARROW, SHARED, WIDEST
from vars_dyn.attention.reconstruct.values import FeatureInputs, Steps

__all__ = ["reconstruct", "suit"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def suit(q: Tensor, projection: Tensor, v: Tensor) -> bool:
    """Whether the kernels take these tensors: in eager mode, on a GPU that runs Triton, of fitting sizes and dtypes."""
    if torch.compiler.is_compiling():
        return False
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    if not plain_tensors(q, projection, v, device=device):
        return False
    types = q.dtype == v.dtype and q.dtype in _DTYPES and projection.dtype in _DTYPES
    widest = _widest(q.device)
    return types and q.numel() > 0 and projection.shape[-2] <= widest[0] and projection.shape[-1] <= widest[1]


@functools.cache
def _widest(device: torch.device) -> tuple[int, int]:
    """The widest head and the most features that a device takes; (0, 0) if Triton has no matrix products for it."""
    if importlib.util.find_spec("triton") is None:
        return 0, 0
    if device.type == "cpu":
        return WIDEST
    properties: Any = torch.cuda.get_device_properties(device)  # torch 2.14 does not declare all of them
    if torch.version.hip is not None or properties.major < 8:
        return 0, 0
    return WIDEST if properties.shared_memory_per_block_optin >= SHARED else NARROW


def reconstruct(inputs: FeatureInputs, steps: Steps) -> Tensor:
    """P a (B, heads, N, c), in the dtype of the values, by the paper's steps from normalised features.

    A derivative that will itself be differentiated is computed by the plain form.
    """
    q, projection, v = inputs.queries, inputs.projection, inputs.values
    result: Tensor = _OnDevice.apply(q, projection, v, float(steps.lam), steps.num_steps)
    return result


def _rows(x: Tensor) -> Tensor:
    """`x`, copied if its last stride is not 1, because the kernels assume that it is."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _plain(q: Tensor, projection: Tensor, v: Tensor, lam: float, num_steps: int) -> Tensor:
    return plain.on_tokens(q, projection, None, v, lam, num_steps)


class _OnDevice(torch.autograd.Function):
    """`reconstruct` and its derivatives with respect to the queries, the projection and the values."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        projection: Tensor,
        v: Tensor,
        lam: float,
        num_steps: int,
    ) -> Tensor:
        from vars_dyn.attention.reconstruct.triton import launch  # deferred: Triton is optional and slow to import

        plan = launch.launch_plan(q, projection.shape[-1])
        given = _rows(q), projection.contiguous(), _rows(v)
        y, kept = launch.reconstruction(*given, lam, num_steps, plan, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(q, projection, v, *kept)
        ctx.plan, ctx.lam, ctx.num_steps = plan, lam, num_steps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from vars_dyn.attention.reconstruct.triton import launch  # deferred: Triton is optional and slow to import

        (grad,) = grads
        q, projection, v, *kept = ctx.saved_tensors
        inputs = (q, projection, v)
        wanted = ctx.needs_input_grad
        if not by_hand(grad):
            found = again(functools.partial(_plain, lam=ctx.lam, num_steps=ctx.num_steps), inputs, wanted[:3], grad)
            return (*found, None, None)
        with full_precision(grad):
            given = _rows(q), projection.contiguous(), _rows(v), _rows(grad)
            grad_q, grad_v, grad_projection = launch.derivatives(*given, launch.Kept(*kept), ctx.plan, wanted[1])
        return grad_q if wanted[0] else None, grad_projection, grad_v if wanted[2] else None, None, None
