"""The reconstruction of a dynamic dictionary as kernels for the GPU, written in Triton.

What they compute is `vars_dyn.attention.reconstruct.cpu_features`'s, in float32 at least, from queries and values that may be of half
precision. Tokens are read twice forward and twice back, in blocks whose features are never written to memory; the Gram
matrix, L and the code of a pair of image and head stay in one program. With TRITON_INTERPRET=1 in the environment,
Triton's interpreter runs them on the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vars_dyn.attention.autograd import again, by_hand, plain_tensors
from vars_dyn.attention.precision import full_precision

__all__ = ["NARROW", "reconstruct", "suit"]

#: The widest head and the most features that the kernels take, ...
_WIDEST = (64, 128)
#: ... for which they want this much shared memory for a program, in bytes, ...
_SHARED = 144 << 10
#: ... and those for which half as much will do, and hold all matrices at once.
NARROW = (32, 64)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def suit(q: Tensor, projection: Tensor, v: Tensor) -> bool:
    """Whether the kernels take these tensors: on a GPU that runs Triton, in eager mode, of a size that fits."""
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
    """The widest head and the most features on a device, none where Triton has no matrix products for it."""
    if importlib.util.find_spec("triton") is None:
        return 0, 0
    if device.type == "cpu":
        return _WIDEST
    properties: Any = torch.cuda.get_device_properties(device)  # torch 2.14 does not declare all of them
    if torch.version.hip is not None or properties.major < 8:
        return 0, 0
    return _WIDEST if properties.shared_memory_per_block_optin >= _SHARED else NARROW


def reconstruct(
    q: Tensor,
    projection: Tensor,
    v: Tensor,
    steps: tuple[float, int],
    plain: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """P a of the shape and type of v, (B, heads, N, c); `projection` is (heads, c, m) and `steps` lam and how many.

    Derivatives of derivatives are those of `plain`, which computes the same from q, projection and v.
    """
    result: Tensor = _OnDevice.apply(q, projection, v, steps, plain)
    return result


def _rows(x: Tensor) -> Tensor:
    """With the unit last stride that the kernels take."""
    return x if x.stride(-1) == 1 else x.contiguous()


class _OnDevice(torch.autograd.Function):
    """`reconstruct`, with its derivative in every tensor."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        projection: Tensor,
        v: Tensor,
        steps: tuple[float, int],
        plain: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        from vars_dyn.attention.reconstruct.triton import launch

        plan = launch.plan_of(q, projection.shape[-1])
        given = _rows(q), projection.contiguous(), _rows(v)
        y, kept = launch.reconstruction(*given, *steps, plan, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(q, projection, v, *kept)
        ctx.plan, ctx.plain = plan, plain
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from vars_dyn.attention.reconstruct.triton import launch

        (grad,) = grads
        q, projection, v, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if not by_hand(grad):
            return (*again(ctx.plain, (q, projection, v), wanted[:3], grad), None, None)
        with full_precision(grad):
            given = _rows(q), projection.contiguous(), _rows(v), _rows(grad)
            of_q, of_v, of_projection = launch.derivatives(*given, launch.Kept(*kept), ctx.plan, wanted[1])
        return of_q if wanted[0] else None, of_projection, of_v if wanted[2] else None, None, None
