"""The fast form on the CPU for small kernels on a grid, alone or beside features of tokens; it needs numba.

It computes what `plain.on_grid` and `plain.on_union` and their derivatives by autograd compute. The iterates are stored
as L a_j, because their threshold is then lam for all channels:

    L a_0 = L P^T x,  r_j = x - P a_j,  L a_{j+1} = soft(L a_j + P^T r_j, lam),  y = P a_k.

Every step and the P a that follows it are one pass over the codes (`loops`). The derivative takes the same passes
backwards, from the residuals r_j and the iterates, which are kept.
"""

from __future__ import annotations

import functools
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vars_dyn.attention.autograd import again, by_hand, plain_tensors
from vars_dyn.attention.precision import full_precision
from vars_dyn.attention.reconstruct import plain
from vars_dyn.attention.reconstruct.compiled.features import Features
from vars_dyn.attention.reconstruct.compiled.operator import Codes, Operator
from vars_dyn.attention.reconstruct.compiled.signals import Layout, Signals
from vars_dyn.attention.reconstruct.values import GridInputs, Steps, UnionInputs

__all__ = ["available", "reconstruct", "suits"]


@cache
def available() -> bool:
    """Whether numba is installed."""
    try:
        return find_spec("numba") is not None
    except ValueError:  # its import is blocked
        return False


def suits(inputs: GridInputs | UnionInputs, norm: Tensor) -> bool:
    """Whether this form takes these tensors, of which `norm` is the bound L of the part on the grid."""
    grid = inputs.grid if isinstance(inputs, UnionInputs) else inputs
    given = [grid.values, grid.kernel, norm, *([] if grid.rows is None else [grid.rows])]
    if isinstance(inputs, UnionInputs):
        given += [inputs.features.queries, inputs.features.projection]
    return available() and plain_tensors(*given) and {t.dtype for t in given} in ({torch.float32}, {torch.float64})


def reconstruct(inputs: GridInputs | UnionInputs, norm: Tensor, query_norms: Tensor | None, steps: Steps) -> Tensor:
    """P a of shape (B, heads, N, c) by the paper's steps, in float32 or float64.

    `norm` (C,) is L of the part on the grid, and `query_norms` those of `cpu_features` for a union. A derivative that
    will itself be differentiated is computed by the plain form.
    """
    grid = inputs.grid if isinstance(inputs, UnionInputs) else inputs
    queries, projection = inputs.features[:2] if isinstance(inputs, UnionInputs) else (None, None)
    given = grid.values, grid.kernel, grid.rows, norm, queries, projection, query_norms
    result: Tensor = _Reconstruct.apply(*given, grid.grid, float(steps.lam), steps.num_steps)
    return result


class _Reconstruct(torch.autograd.Function):
    """`reconstruct` and its derivatives with respect to all its tensors but the queries' norms."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        kernel: Tensor,
        rows: Tensor | None,
        norm: Tensor,
        queries: Tensor | None,
        projection: Tensor | None,
        query_norms: Tensor | None,
        grid: tuple[int, int],
        lam: float,
        num_steps: int,
    ) -> Tensor:
        layout = Layout.of(values, grid, (kernel.shape[-2], kernel.shape[-1]))
        features, largest = None, norm.new_zeros(layout.heads, layout.batch)
        if queries is not None and projection is not None and query_norms is not None:
            features = Features.of(layout, queries, query_norms, projection)
            largest = features.largest
        norms = (norm.view(layout.heads, -1, 1) + largest.unsqueeze(1)).flatten(0, 1)
        inverse, operator = norms.reciprocal(), Operator(layout, kernel, rows, features)
        x, residuals, image = Signals.of(layout, values), *(Signals.empty(layout, n, values) for n in (num_steps, 1))
        codes = [operator.advance((x, 0), None, norms, lam, (x, 0), (residuals, 0), -inverse)]
        for j in range(1, num_steps):
            found = operator.advance((residuals, j - 1), codes[-1], norms, lam, (x, 0), (residuals, j), -inverse)
            codes.append(found)
        last = (residuals, num_steps - 1)
        codes.append(operator.advance(last, codes[-1], norms, lam, None, (image, 0), inverse))
        y = image.values(0)
        kept = [x.maps, x.prefix, residuals.maps, residuals.prefix, norms, y, *(features or ())]
        kept += [t for code in codes for t in code if t is not None]
        ctx.save_for_backward(values, kernel, rows, norm, queries, projection, query_norms, *kept)
        ctx.layout, ctx.lam, ctx.num_steps = layout, lam, num_steps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if not by_hand(grad):
            form = functools.partial(_plain, grid=ctx.layout.grid, lam=ctx.lam, num_steps=ctx.num_steps)
            return (*again(form, ctx.saved_tensors[:6], ctx.needs_input_grad, grad), *4 * [None])
        with full_precision(grad):
            return (*_backward(ctx, grad), *4 * [None])


def _plain(
    values: Tensor,
    kernel: Tensor,
    rows: Tensor | None,
    norm: Tensor,
    queries: Tensor | None,
    projection: Tensor | None,
    grid: tuple[int, int],
    lam: float,
    num_steps: int,
) -> Tensor:
    if queries is None or projection is None:
        heads, width = values.shape[1], values.shape[-1]
        tokens = values.transpose(1, 2).flatten(2)
        y = plain.on_grid(tokens, kernel, rows, norm, grid, lam, num_steps)
        return y.unflatten(-1, (heads, width)).transpose(1, 2)
    return plain.on_union(queries, projection, values, kernel, rows, norm, grid, lam, num_steps)


def _backward(ctx: FunctionCtx, grad: Tensor) -> list[Tensor | None]:
    _, kernel, rows, _, _, projection, query_norms, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
    layout, needs = ctx.layout, ctx.needs_input_grad  # type: ignore[attr-defined]
    x, residuals = (Signals(kept[i], kept[i + 1], layout) for i in (0, 2))
    norms, y, *kept = kept[4:]
    features = None
    if projection is not None:
        features, kept = Features(*kept[:5]), kept[5:]
    parts = 2 if features is None else 3
    codes = [Codes(*kept[i : i + parts], *([None] if parts == 2 else [])) for i in range(0, len(kept), parts)]
    steps, inverse, operator = len(codes) - 1, norms.reciprocal(), Operator(layout, kernel, rows, features)
    onward, start = (Signals.empty(layout, n, grad) for n in (steps + 2, 1))
    onward.put(0, Signals.of(layout, grad), inverse)
    # y = P (L a_k) / L
    grad_norm = (grad * y).sum(2).permute(1, 2, 0).flatten(0, 1) * -inverse
    value, before = None, list[Tensor]()
    for i in range(steps):
        j = steps - 1 - i
        residual, following = (residuals, j), (onward, i + 1)
        value = operator.retreat((onward, i), codes[j + 1], value, True, residual, following, -inverse)
        grad_norm -= onward.dot(i + 1, x, 0) - onward.dot(i + 1, residuals, j)
        before += [] if value.dense is None else [value.dense]
    # L a_0 = L P^T x
    onward.put(steps + 1, x, norms)
    value = operator.retreat((onward, steps), codes[0], value, False, (onward, steps + 1), (start, 0), norms)
    grad_norm += start.dot(0, x, 0) * inverse
    start.take_off(onward, range(1, steps + 1), norms)
    by_head = grad_norm.unflatten(0, (layout.heads, layout.width))
    found = [start.values(0), operator.slopes, operator.row_slopes, grad_norm.sum(1), None, None]
    if features is None or value.dense is None or projection is None or not (needs[4] or needs[5]):
        return found
    forth = [code.dense for code in reversed(codes) if code.dense is not None]
    pairs = [(residuals, torch.stack(before[::-1], 3)), (onward, torch.stack([*forth, value.dense], 3))]
    slope = features.slopes(pairs, by_head.sum(1))
    if needs[4] and query_norms is not None:
        found[4] = features.to_queries(slope, projection, query_norms, layout)
    if needs[5]:
        found[5] = features.to_projection(slope)
    return found
