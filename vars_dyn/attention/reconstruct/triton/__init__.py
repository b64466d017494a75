"""The reconstruction of a dynamic dictionary as kernels for the GPU, written in Triton.

The kernels compute what `cpu_features` computes, in float32. Queries and values may be of half precision. The forward
pass reads the tokens twice, and so does the backward pass. Each reads them in blocks and never writes the features to
memory. One program holds the Gram matrix, L and the code of one head of one image. With TRITON_INTERPRET=1 in the
environment, Triton's interpreter runs the kernels on the CPU.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from vars_dyn.attention.autograd import plain_tensors
from vars_dyn.attention.reconstruct.triton import operator
from vars_dyn.attention.reconstruct.triton.limits import WIDEST
from vars_dyn.attention.reconstruct.values import FeatureInputs, Steps

__all__ = ["reconstruct", "suit"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
#: The device of the kernels.
_DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def suit(q: Tensor, projection: Tensor, v: Tensor) -> bool:
    """Whether the kernels take these tensors: on a GPU that runs Triton, of fitting sizes and dtypes, untransformed.

    While a graph is compiled or exported for a GPU, it is not asked which one it is.
    """
    if torch.compiler.is_compiling():
        if any(t.device.type != _DEVICE for t in (q, projection, v)):
            return False
        widest = WIDEST
    else:
        if not plain_tensors(q, projection, v, device=_DEVICE):
            return False
        operator.count_flops()
        widest = operator.widest(q.device)
    types = q.dtype == v.dtype and q.dtype in _DTYPES and projection.dtype in _DTYPES
    return types and q.numel() > 0 and projection.shape[-2] <= widest[0] and projection.shape[-1] <= widest[1]


def reconstruct(inputs: FeatureInputs, steps: Steps) -> Tensor:
    """P a (B, heads, N, c), in the dtype of the values, by the paper's steps from normalised features.

    A derivative that will itself be differentiated is computed by the plain form.
    """
    return operator.apply(inputs.queries, inputs.projection, inputs.values, float(steps.lam), steps.num_steps)
