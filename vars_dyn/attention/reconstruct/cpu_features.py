"""The fast form on the CPU for features of tokens, with its derivative written out by hand.

It computes what `plain.on_tokens` and its derivative by autograd compute, in fewer passes over the tokens. The features
F = exp(w.q) stay unnormalised. Their norms n come from the diagonal of F^T F, and the derivative of the normalisation
is folded into a small matrix. With Phi = F diag(1 / n), P = [Phi, S] and M = I - G / L:

    b = x P,  a_0 = b,  a_{j+1} = soft(a_j M + b / L, lam / L),  y = a_k P^T.

The iterates are stored as L a_j, because their threshold is then lam for all problems:

    L a_{j+1} = soft(L a_j M + b, lam).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vars_dyn.attention.autograd import again, by_hand, plain_tensors
from vars_dyn.attention.precision import full_precision
from vars_dyn.attention.reconstruct import plain
from vars_dyn.attention.reconstruct.values import FeatureInputs, Steps
from vars_dyn.attention.spectral import largest_eigenpair

__all__ = ["query_norms", "reconstruct"]

#: The least number that `torch.nn.functional.normalize` divides by.
_EPS = 1e-12


def query_norms(inputs: FeatureInputs) -> Tensor | None:
    """The queries' norms (B, heads, N, 1), which `reconstruct` needs, or None if only the plain form will do.

    This is so for tensors that `plain_tensors` refuses. It is also so if a token or an atom may have a norm below the
    least number that normalisation divides by.
    """
    q, projection, static, v = inputs[:4]
    if not plain_tensors(*((q, projection, v) if static is None else (q, projection, v, static))):
        return None
    with torch.no_grad():
        norm = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
        longest = float(torch.linalg.vector_norm(projection, dim=-2).max())
    smallest = -longest - 0.5 - math.log(projection.shape[-1]) / 2
    # Tokens that are NaN pass this check. They give NaN in either form and do not change the other images' results.
    if bool((norm < _EPS).any()) or not smallest > math.log(_EPS):
        return None
    return norm


def reconstruct(inputs: FeatureInputs, norms: Tensor, steps: Steps) -> Tensor:
    """P a of shape (B, heads, N, c) by the paper's steps, from normalised features in float32 or float64.

    `norms` are the `query_norms`. A derivative that will itself be differentiated is computed by the plain form.
    """
    q, projection, static, v = inputs[:4]
    result: Tensor = _Reconstruct.apply(q, projection, static, v, norms, float(steps.lam), steps.num_steps)
    return result


def _flat(x: Tensor) -> Tensor:
    """(B, heads, N, c) as contiguous (B heads, N, c)."""
    return x.reshape(-1, *x.shape[-2:]).contiguous()


class _Reconstruct(torch.autograd.Function):
    """`reconstruct` and its derivatives with respect to the queries, the projection, the static part and the values."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        projection: Tensor,
        static: Tensor | None,
        v: Tensor,
        norm: Tensor,
        lam: float,
        num_steps: int,
    ) -> Tensor:
        batch, heads, _, c = q.shape
        m = projection.shape[-1]
        unit = torch.div(q, norm, out=torch.empty(q.shape, dtype=q.dtype)).flatten(0, 1)
        # torch computes powers of two in a fraction of the time of exponentials.
        features = torch.bmm(unit, _repeated(projection / math.log(2), batch)).exp2_()
        values = _flat(v)
        gram = torch.bmm(features.mT, features)
        scale = gram.diagonal(dim1=-2, dim2=-1).rsqrt().unsqueeze(-2)
        gram *= scale.mT * scale
        drive = torch.bmm(values.mT, features).mul_(scale)
        if static is not None:
            gram, drive = _with_static(gram, drive, features, scale, static, values)
        largest, vector = largest_eigenpair(gram)
        inverse = largest.reciprocal()[:, None, None]
        move = gram * -inverse
        move.diagonal(dim1=-2, dim2=-1).add_(1)
        codes = _codes(drive, move, largest, lam, num_steps)
        code = codes[:, -c:] * inverse
        y = torch.bmm(features, (code[..., :m] * scale).mT)
        if static is not None:
            for part in _images(batch, heads):
                y[part].baddbmm_(static, code[part, :, m:].mT)
        ctx.save_for_backward(
            q, projection, static, v, norm, unit, features, values, scale, gram, move, inverse, codes, code, vector
        )
        ctx.lam, ctx.num_steps = lam, num_steps
        return y.unflatten(0, (batch, heads))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if not by_hand(grad):
            form = functools.partial(plain.on_tokens, lam=ctx.lam, num_steps=ctx.num_steps)
            return (*again(form, ctx.saved_tensors[:4], ctx.needs_input_grad, grad), None, None, None)
        with full_precision(grad):
            return (*_backward(ctx, grad), None, None, None)


def _repeated(matrix: Tensor, batch: int) -> Tensor:
    """One matrix per head (heads, ...), repeated for every image: (B heads, ...)."""
    return matrix.expand(batch, *matrix.shape).flatten(0, 1)


def _images(batch: int, heads: int) -> Iterator[slice]:
    """The slice of (B heads, ...) that holds the heads of each image.

    Products with one matrix per head go image by image, because a batched product would copy the matrices for every
    image.
    """
    return (slice(i * heads, (i + 1) * heads) for i in range(batch))


def _with_static(
    gram: Tensor, drive: Tensor, features: Tensor, scale: Tensor, static: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """G and b of [Phi, S] from those of Phi. The block S^T S is formed once for all images."""
    m, size = gram.shape[-1], gram.shape[-1] + static.shape[-1]
    whole, both = gram.new_empty(len(gram), size, size), drive.new_empty(*drive.shape[:-1], size)
    whole[:, :m, :m], both[..., :m] = gram, drive
    own = torch.bmm(static.mT, static)
    for part in _images(len(gram) // len(static), len(static)):
        cross = torch.bmm(features[part].mT, static).mul_(scale[part].mT)
        whole[part, :m, m:], whole[part, m:, :m], whole[part, m:, m:] = cross, cross.mT, own
        both[part, :, m:] = torch.bmm(values[part].mT, static)
    return whole, both


def _codes(drive: Tensor, move: Tensor, largest: Tensor, lam: float, num_steps: int) -> Tensor:
    """All iterates, multiplied by L and stacked along the rows, (n, (k + 1) c, d')."""
    n, c, atoms = drive.shape
    codes = drive.new_empty(n, (num_steps + 1) * c, atoms)
    torch.mul(drive, largest[:, None, None], out=codes[:, :c])
    for j in range(num_steps):
        v = torch.baddbmm(drive, codes[:, j * c : (j + 1) * c], move)
        torch.sub(v, v.clamp(-lam, lam), out=codes[:, (j + 1) * c : (j + 2) * c])
    return codes


def _backward(ctx: FunctionCtx, grad: Tensor) -> list[Tensor | None]:
    q, projection, static, _, norm, unit, features, values, scale, gram, move, inverse, codes, code, vector = (
        ctx.saved_tensors  # type: ignore[attr-defined]
    )
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    shape, batch, (c, m) = q.shape, len(q), projection.shape[-2:]
    grad = _flat(grad)
    drive = codes[:, :c] * inverse
    grad_code = torch.empty_like(code)
    grad_code[..., :m] = torch.bmm(grad.mT, features).mul_(scale)
    if static is not None:
        for part in _images(batch, len(static)):
            grad_code[part, :, m:] = torch.bmm(grad[part].mT, static)
    grad_drive, grad_gram = _through_steps(_Solved(drive, gram, move, inverse, codes, code, vector), grad_code)
    # `radial` is the diagonal of Phi^T times Phi's derivative. Normalisation removes this part of the derivative,
    # because it fixes the atoms' lengths.
    entries = gram * grad_gram
    radial = (entries.sum(-1) + entries.sum(-2) + (drive * grad_drive).sum(-2) + (grad_code * code).sum(-2))[:, :m]
    small = grad_gram[:, :m, :m] + grad_gram[:, :m, :m].mT
    across = None if static is None else grad_gram[:, m:, :m] + grad_gram[:, :m, m:].mT
    to_drive, from_code = grad_drive[..., :m] * scale, code[..., :m] * scale
    grad_query = grad_projection = None
    if needs[0] or needs[1]:
        small.diagonal(dim1=-2, dim2=-1).sub_(radial)
        grad_exponent = torch.bmm(features, small.mul_(scale.mT * scale))
        grad_exponent.baddbmm_(values, to_drive).baddbmm_(grad, from_code)
        if static is not None and across is not None:
            scaled = across * scale
            for part in _images(batch, len(static)):
                grad_exponent[part].baddbmm_(static, scaled[part])
        grad_exponent.mul_(features)
        if needs[0]:
            turned = torch.bmm(grad_exponent, _repeated(projection, batch).mT)
            turned.addcmul_(unit, (unit * turned).sum(-1, keepdim=True), value=-1)
            grad_query = turned.view(shape).div_(norm)
        if needs[1]:
            grad_projection = torch.bmm(unit.mT, grad_exponent).unflatten(0, shape[:2]).sum(0)
    grad_values = None
    if needs[3]:
        grad_values = torch.bmm(features, to_drive.mT)
        if static is not None:
            for part in _images(batch, len(static)):
                grad_values[part].baddbmm_(static, grad_drive[part, :, m:].mT)
        grad_values = grad_values.view(shape)
    grad_static = None
    if static is not None and across is not None and needs[2]:
        heads = len(static)
        own = grad_gram[:, m:, m:].unflatten(0, (batch, heads)).sum(0)
        grad_static = torch.bmm(static, own + own.mT)
        scaled = across.mT * scale.mT
        for part in _images(batch, heads):
            grad_static.baddbmm_(features[part], scaled[part])
            grad_static.baddbmm_(values[part], grad_drive[part, :, m:]).baddbmm_(grad[part], code[part, :, m:])
    return [grad_query, grad_projection, grad_static, grad_values]


class _Solved(NamedTuple):
    """What the derivative of the steps needs: b, G, M, 1 / L, all L a_j, a_k and the eigenvector of L."""

    drive: Tensor
    gram: Tensor
    move: Tensor
    inverse: Tensor
    codes: Tensor
    code: Tensor
    vector: Tensor


def _through_steps(solved: _Solved, grad_code: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives in b and in G. The one in G includes the way through L, by dL = vector^T dG vector."""
    drive, gram, move, inverse, codes, code, vector = solved
    c = grad_code.shape[-2]
    before, after = codes[:, :-c], codes[:, c:]
    pushed, value = torch.empty_like(before), grad_code * inverse
    grad_norm = -(value * code).sum((-2, -1), keepdim=True)
    for j in reversed(range(before.shape[-2] // c)):
        rows = slice(j * c, (j + 1) * c)
        # An entry of a code is zero exactly where the threshold cuts it off. No derivative passes through it there.
        torch.mul(value, after[:, rows].sign().square_(), out=pushed[:, rows])
        value = torch.bmm(pushed[:, rows], move)
    grad_norm += (value * drive).sum((-2, -1), keepdim=True)
    grad_drive = torch.addcdiv(pushed.unflatten(-2, (-1, c)).sum(1), value, inverse)
    # M = I - G / L
    grad_gram = torch.bmm(before.mT, pushed).mul_(-inverse)
    grad_norm -= (grad_gram * gram).sum((-2, -1), keepdim=True).mul_(inverse)
    return grad_drive, grad_gram.addcmul_(vector.unsqueeze(-1) * grad_norm, vector.unsqueeze(-2))
