"""The reconstruction of a dynamic dictionary with its derivative written out: the layer's fast form on the CPU.

It computes what `FeatureDictionary` and `solvers.ista` do, and what autograd makes of them, in fewer passes over the
tokens: the features F = exp(w.q) stay unnormalised, their norms n come from the diagonal of F^T F, and the derivative's
share of those norms is folded into a small matrix. With Phi = F diag(1 / n), P = [Phi, S] and M = I - G / L:

    b = x P,  a_0 = b,  a_{j+1} = soft(a_j M + b / L, lam / L),  y = a_k P^T.

The iterates are kept as L a_j, whose threshold is lam for all problems: L a_{j+1} = soft(L a_j M + b, lam).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vars_dyn.attention.autograd import again, by_hand, plain_tensors
from vars_dyn.attention.dictionaries.features import FeatureDictionary
from vars_dyn.attention.precision import full_precision, working
from vars_dyn.attention.reconstruct import triton as kernels
from vars_dyn.attention.spectral import largest_eigenpair
from vars_dyn.dictionaries import random_features

__all__ = ["reconstruct"]

#: The plain form: dictionary and signals (B, heads, c, N) -> P a, (B, heads, N, c).
Plain = Callable[[FeatureDictionary, Tensor], Tensor]
#: Norms below which `torch.nn.functional.normalize` divides by this instead.
_EPS = 1e-12


class Steps(NamedTuple):
    """The iteration: `num_steps` steps at `lam` > 0."""

    lam: float
    num_steps: int


def reconstruct(
    q: Tensor, projection: Tensor, static: Tensor | None, v: Tensor, steps: Steps | tuple[float, int], plain: Plain
) -> Tensor:
    """P a of shape (B, heads, N, c) for queries q and values v of that shape, by `plain` where it has to be.

    `projection` is (heads, c, m), `static` (heads, N, m') with normalised columns or None. On a GPU, without a static
    matrix, `vars_dyn.attention.reconstruct.triton` compute it where they suit, in the type of v; else it is float32 at least. The
    plain form is taken for inputs that `plain_tensors` refuses, for tokens or atoms whose norm is below what
    normalisation divides by, and for derivatives of derivatives.
    """
    if static is None and kernels.suit(q, projection, v):
        return kernels.reconstruct(q, projection, v, steps, functools.partial(_from_any, plain))
    q, projection, v = working(q), working(projection), working(v)
    given = (q, projection, v) if static is None else (q, projection, v, static)
    if not plain_tensors(*given):
        return _plainly(plain, q, projection, static, v)
    with torch.no_grad():
        norm = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
        longest = float(torch.linalg.vector_norm(projection, dim=-2).max())
    smallest = -longest - 0.5 - math.log(projection.shape[-1]) / 2
    # Tokens that are NaN pass: they are NaN in either form, and the other images' numbers stay what they are.
    if bool((norm < _EPS).any()) or not smallest > math.log(_EPS):
        return _plainly(plain, q, projection, static, v)
    result: Tensor = _Reconstruct.apply(q, projection, static, v, norm, Steps(*steps), plain)
    return result


def _from_any(plain: Plain, q: Tensor, projection: Tensor, v: Tensor) -> Tensor:
    """What the kernels compute, by `plain`."""
    with full_precision(v):
        return _plainly(plain, working(q), working(projection), None, working(v)).to(v.dtype)


def _plainly(plain: Plain, q: Tensor, projection: Tensor, static: Tensor | None, v: Tensor) -> Tensor:
    features = torch.nn.functional.normalize(random_features(q, projection.mT), dim=-2)
    return plain(FeatureDictionary(features, static), v.mT)


def _flat(x: Tensor) -> Tensor:
    """(B, heads, N, c) as contiguous (B heads, N, c)."""
    return x.reshape(-1, *x.shape[-2:]).contiguous()


class _Reconstruct(torch.autograd.Function):
    """`reconstruct`, with its derivative in every tensor."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        projection: Tensor,
        static: Tensor | None,
        v: Tensor,
        norm: Tensor,
        steps: Steps,
        plain: Plain,
    ) -> Tensor:
        batch, heads, _, c = q.shape
        m = projection.shape[-1]
        unit = torch.div(q, norm, out=torch.empty(q.shape, dtype=q.dtype)).flatten(0, 1)
        # Powers of two are computed in a fraction of the exponential's time.
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
        codes = _codes(drive, move, largest, steps)
        code = codes[:, -c:] * inverse
        y = torch.bmm(features, (code[..., :m] * scale).mT)
        if static is not None:
            for part in _images(batch, heads):
                y[part].baddbmm_(static, code[part, :, m:].mT)
        ctx.save_for_backward(
            q, projection, static, v, norm, unit, features, values, scale, gram, move, inverse, codes, code, vector
        )
        ctx.steps, ctx.plain = steps, plain
        return y.unflatten(0, (batch, heads))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if not by_hand(grad):
            plain = functools.partial(_plainly, ctx.plain)
            return (*again(plain, ctx.saved_tensors[:4], ctx.needs_input_grad, grad), None, None, None)
        with full_precision(grad):
            return (*_backward(ctx, grad), None, None, None)


def _repeated(matrix: Tensor, batch: int) -> Tensor:
    """One matrix per head, (heads, ...), as one per image and head."""
    return matrix.expand(batch, *matrix.shape).flatten(0, 1)


def _images(batch: int, heads: int) -> Iterator[slice]:
    """Where each image's heads are in (B heads, ...): products with one matrix per head are taken image by image, as a
    batched product would copy the matrices for every image.
    """
    return (slice(i * heads, (i + 1) * heads) for i in range(batch))


def _with_static(
    gram: Tensor, drive: Tensor, features: Tensor, scale: Tensor, static: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """G and b of [Phi, S] from those of Phi; the block S^T S is formed once for all images."""
    m, size = gram.shape[-1], gram.shape[-1] + static.shape[-1]
    whole, both = gram.new_empty(len(gram), size, size), drive.new_empty(*drive.shape[:-1], size)
    whole[:, :m, :m], both[..., :m] = gram, drive
    own = torch.bmm(static.mT, static)
    for part in _images(len(gram) // len(static), len(static)):
        cross = torch.bmm(features[part].mT, static).mul_(scale[part].mT)
        whole[part, :m, m:], whole[part, m:, :m], whole[part, m:, m:] = cross, cross.mT, own
        both[part, :, m:] = torch.bmm(values[part].mT, static)
    return whole, both


def _codes(drive: Tensor, move: Tensor, largest: Tensor, steps: Steps) -> Tensor:
    """All iterates, times L, below one another, (n, (k + 1) c, d')."""
    n, c, atoms = drive.shape
    codes = drive.new_empty(n, (steps.num_steps + 1) * c, atoms)
    torch.mul(drive, largest[:, None, None], out=codes[:, :c])
    for j in range(steps.num_steps):
        v = torch.baddbmm(drive, codes[:, j * c : (j + 1) * c], move)
        torch.sub(v, v.clamp(-steps.lam, steps.lam), out=codes[:, (j + 1) * c : (j + 2) * c])
    return codes


def _backward(ctx: FunctionCtx, grad: Tensor) -> list[Tensor | None]:
    q, projection, static, _, norm, unit, features, values, scale, gram, move, inverse, codes, code, vector = (
        ctx.saved_tensors  # type: ignore[attr-defined]
    )
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    shape, batch, (c, m) = q.shape, len(q), projection.shape[-2:]
    grad = _flat(grad)
    drive = codes[:, :c] * inverse
    of_code = torch.empty_like(code)
    of_code[..., :m] = torch.bmm(grad.mT, features).mul_(scale)
    if static is not None:
        for part in _images(batch, len(static)):
            of_code[part, :, m:] = torch.bmm(grad[part].mT, static)
    of_drive, of_gram = _through_steps(_Solved(drive, gram, move, inverse, codes, code, vector), of_code)
    # Phi^T times Phi's derivative has this diagonal, which normalisation takes out of it.
    entries = gram * of_gram
    radial = (entries.sum(-1) + entries.sum(-2) + (drive * of_drive).sum(-2) + (of_code * code).sum(-2))[:, :m]
    small = of_gram[:, :m, :m] + of_gram[:, :m, :m].mT
    across = None if static is None else of_gram[:, m:, :m] + of_gram[:, :m, m:].mT
    to_drive, from_code = of_drive[..., :m] * scale, code[..., :m] * scale
    of_query = of_projection = None
    if needs[0] or needs[1]:
        small.diagonal(dim1=-2, dim2=-1).sub_(radial)
        of_exponent = torch.bmm(features, small.mul_(scale.mT * scale))
        of_exponent.baddbmm_(values, to_drive).baddbmm_(grad, from_code)
        if static is not None and across is not None:
            scaled = across * scale
            for part in _images(batch, len(static)):
                of_exponent[part].baddbmm_(static, scaled[part])
        of_exponent.mul_(features)
        if needs[0]:
            turned = torch.bmm(of_exponent, _repeated(projection, batch).mT)
            turned.addcmul_(unit, (unit * turned).sum(-1, keepdim=True), value=-1)
            of_query = turned.view(shape).div_(norm)
        if needs[1]:
            of_projection = torch.bmm(unit.mT, of_exponent).unflatten(0, shape[:2]).sum(0)
    of_values = None
    if needs[3]:
        of_values = torch.bmm(features, to_drive.mT)
        if static is not None:
            for part in _images(batch, len(static)):
                of_values[part].baddbmm_(static, of_drive[part, :, m:].mT)
        of_values = of_values.view(shape)
    of_static = None
    if static is not None and across is not None and needs[2]:
        heads = len(static)
        own = of_gram[:, m:, m:].unflatten(0, (batch, heads)).sum(0)
        of_static = torch.bmm(static, own + own.mT)
        scaled = across.mT * scale.mT
        for part in _images(batch, heads):
            of_static.baddbmm_(features[part], scaled[part])
            of_static.baddbmm_(values[part], of_drive[part, :, m:]).baddbmm_(grad[part], code[part, :, m:])
    return [of_query, of_projection, of_static, of_values]


class _Solved(NamedTuple):
    """What the derivative of the steps needs: b, G, M, 1 / L, L a_j, a_k and the eigenvector."""

    drive: Tensor
    gram: Tensor
    move: Tensor
    inverse: Tensor
    codes: Tensor
    code: Tensor
    vector: Tensor


def _through_steps(solved: _Solved, of_code: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives in b and in G, of which L's is along the eigenvector: dL = vector^T dG vector."""
    drive, gram, move, inverse, codes, code, vector = solved
    c = of_code.shape[-2]
    before, after = codes[:, :-c], codes[:, c:]
    pushed, value = torch.empty_like(before), of_code * inverse
    of_norm = -(value * code).sum((-2, -1), keepdim=True)
    for j in reversed(range(before.shape[-2] // c)):
        rows = slice(j * c, (j + 1) * c)
        # Zero is a code's value exactly where the threshold holds it, and there nothing passes.
        torch.mul(value, after[:, rows].sign().square_(), out=pushed[:, rows])
        value = torch.bmm(pushed[:, rows], move)
    of_norm += (value * drive).sum((-2, -1), keepdim=True)
    of_drive = torch.addcdiv(pushed.unflatten(-2, (-1, c)).sum(1), value, inverse)
    # M = I - G / L
    of_gram = torch.bmm(before.mT, pushed).mul_(-inverse)
    of_norm -= (of_gram * gram).sum((-2, -1), keepdim=True).mul_(inverse)
    return of_drive, of_gram.addcmul_(vector.unsqueeze(-1) * of_norm, vector.unsqueeze(-2))
