"""How the kernels are launched: shapes, precisions, and how many programs share the tokens of one pair.

A pair is one head of one image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vars_dyn.attention.reconstruct.triton import backward, forward
from vars_dyn.attention.reconstruct.triton.device import Kept, Rows, Sizes
from vars_dyn.attention.reconstruct.triton.limits import NARROW, padded

__all__ = ["Kept", "LaunchPlan", "derivatives", "launch_plan", "reconstruction"]

#: How many features' columns of the derivative's matrices a program holds at a time if it cannot hold all columns.
_PART = 64
#: The fewest blocks of tokens in a share, and the most shares of a pair.
_LEAST, _MOST = 4, 64


class LaunchPlan(NamedTuple):
    """What a launch is compiled for.

    Attributes:
        tokens: N.
        c: the head's width.
        m: the number of features.
        block: the number of tokens that a program holds at a time.
        shares: how many programs share the tokens of a pair.
        part: how many features' columns of the derivative's matrices a program holds at a time.
        together: whether one program does all the work of a pair.
        products: Triton's name for the precision of the factors of matrix products.
    """

    tokens: int
    c: int
    m: int
    block: int
    shares: int
    part: int
    together: bool
    products: str

    @property
    def share(self) -> int:
        """The number of tokens in a share, a multiple of `block`."""
        return self.block * math.ceil(math.ceil(self.tokens / self.block) / self.shares)

    @property
    def widths(self) -> dict[str, int]:
        """The sizes c and m, padded, by the names that the kernels give them."""
        return {"C": padded(self.c), "M": padded(self.m)}

    @property
    def over_tokens(self) -> dict[str, Any]:
        """Compile-time arguments of a kernel that reads tokens."""
        return {**self.iteration, "BLOCK": self.block}

    @property
    def iteration(self) -> dict[str, Any]:
        """Compile-time arguments of a kernel that iterates."""
        return {**self.widths, "PRODUCTS": self.products, **_COMPILER}


#: One stage, because the matrices leave no shared memory for loads ahead of their use. A product and a sum may be fused
#: into one operation with one rounding.
_COMPILER = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}


def launch_plan(q: Tensor, m: int, processors: int | None = None) -> LaunchPlan:
    """The plan for queries q (B, heads, N, c) and m features.

    `processors` is the number of the GPU's multiprocessors; None asks the GPU that holds q.
    """
    batch, heads, tokens, c = q.shape
    # Float32 is rounded to TF32 only if torch is allowed to do that too. Half-precision numbers are exact in TF32.
    half = q.dtype != torch.float32
    products = "tf32" if half or torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
    block = (64 if padded(m) <= NARROW[1] else 32) // (2 if products == "ieee" else 1)
    processors = _processors(q.device) if processors is None else processors
    wanted = math.ceil(2 * processors / (batch * heads)) if batch * heads < processors else 1
    shares = max(1, min(wanted, tokens // (_LEAST * block), _MOST))
    together = shares == 1 and c <= NARROW[0] and m <= NARROW[1]
    return LaunchPlan(tokens, c, m, block, shares, min(padded(m), _PART), together, products)


@functools.cache
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 1


def _on(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _rows(x: Tensor) -> Rows:
    return Rows(x, *x.stride()[:3])


def _sizes(q: Tensor, plan: LaunchPlan) -> Sizes:
    return Sizes(q.shape[1], plan.tokens, plan.c, plan.m, math.sqrt(plan.m))


def _like(q: Tensor) -> Tensor:
    """An empty tensor of q's shape. A token's heads lie side by side in memory, so that merging them copies nothing."""
    batch, heads, tokens, c = q.shape
    return q.new_empty(batch, tokens, heads, c).transpose(1, 2)


def _space(q: Tensor, plan: LaunchPlan) -> Callable[..., Tensor]:
    """A function that allocates a float32 tensor (pairs, *shape); "C" and "M" in a shape stand for the padded sizes."""
    pairs = q.shape[0] * q.shape[1]
    return lambda *shape: torch.empty(
        pairs, *(plan.widths.get(size, size) for size in shape), dtype=torch.float32, device=q.device
    )


def reconstruction(
    q: Tensor, projection: Tensor, v: Tensor, lam: float, num_steps: int, plan: LaunchPlan, keep: bool
) -> tuple[Tensor, Kept]:
    """P a with the shape and dtype of v, and what its derivative needs, which is filled in only if `keep` is true."""
    y, space, sizes = _like(v), _space(q, plan), _sizes(q, plan)
    codes = num_steps + 1 if keep else 0
    gram = space("M", "M") if keep else space(0)
    kept = Kept(gram, space(codes, "C", "M"), space("M"), space(), space("M"))
    pairs = len(gram)
    tokens = (_rows(q), _rows(v))
    with _on(q):
        if plan.together:
            forward.whole[(pairs,)](
                tokens,
                _rows(y),
                projection,
                kept,
                sizes,
                lam,
                num_steps,
                **plan.over_tokens,
                KEEP=keep,
            )
            return y, kept
        grams, drives, scaled = space(plan.shares, "M", "M"), space(plan.shares, "C", "M"), space("C", "M")
        grid = (pairs, plan.shares)
        forward.gather[grid](*tokens, projection, grams, drives, sizes, plan.share, **plan.over_tokens)
        forward.iterate[(pairs,)](
            grams, drives, scaled, kept, sizes, lam, num_steps, plan.shares, **plan.iteration, KEEP=keep
        )
        forward.decode[grid](tokens[0], _rows(y), projection, scaled, sizes, plan.share, **plan.over_tokens)
    return y, kept


def derivatives(
    q: Tensor, projection: Tensor, v: Tensor, grad: Tensor, kept: Kept, plan: LaunchPlan, in_projection: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The derivatives with respect to q, v and, if `in_projection`, the projection; `grad` is the one in P a."""
    grad_q, grad_v, space, sizes = _like(q), _like(v), _space(q, plan), _sizes(q, plan)
    grad_projection = space(plan.shares, "C", "M").zero_() if in_projection else space(0)
    inputs, outputs = (_rows(q), _rows(v), _rows(grad)), (_rows(grad_q), _rows(grad_v))
    pairs, num_steps = len(kept.codes), kept.codes.shape[1] - 1
    with _on(q):
        if plan.together:
            backward.whole[(pairs,)](
                inputs,
                outputs,
                projection,
                grad_projection,
                kept,
                sizes,
                num_steps,
                **plan.over_tokens,
                PROJECTION=in_projection,
            )
        else:
            raws = space(plan.shares, "C", "M")
            small = backward.Small(space("M", "M"), space("C", "M"), space("C", "M"))
            grid = (pairs, plan.shares)
            backward.gather[grid](inputs[0], inputs[2], projection, raws, sizes, plan.share, **plan.over_tokens)
            backward.iterate[(pairs,)](raws, small, kept, sizes, num_steps, plan.shares, **plan.iteration)
            backward.spread[grid](
                inputs,
                outputs,
                (projection, grad_projection),
                small,
                sizes,
                plan.share,
                PART=plan.part,
                **plan.over_tokens,
                PROJECTION=in_projection,
            )
    if not in_projection:
        return grad_q, grad_v, None
    by_head = grad_projection.unflatten(0, q.shape[:2]).sum((0, 2))[:, : plan.c, : plan.m]
    return grad_q, grad_v, by_head.to(projection.dtype)
