"""The kernels of the reconstruction's derivative, by the formulas of `cpu_features`.

A pair is one head of one image. In `whole` one program does all the work of a pair. Otherwise three kernels run in
turn. `gather` sums over the tokens, `iterate` goes back through the steps, and `spread` writes the derivatives of the
tokens. In `gather` and `spread` several programs can share the tokens of a pair. The features are not kept from the
forward pass but computed again.
"""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl

from vars_dyn.attention.reconstruct.triton.device import (
    EPS,
    features,
    load_projection,
    load_rows,
    pair_id,
    places,
    smallest_norm,
    store_rows,
)

__all__ = ["Small", "gather", "iterate", "spread", "whole"]


class Small(NamedTuple):
    """The small matrices of each pair, (M, M), (C, M) and (C, M), that turn tokens into their derivatives.

    The derivative in F is F @ gram + v @ drive + grad @ code. The derivative in v is F @ drive^T.
    """

    gram: Any
    drive: Any
    code: Any


@triton.jit
@no_type_check
def _gathered(
    q, grad, w, start, stop, sizes, C: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, PRODUCTS: tl.constexpr
):
    """grad^T F (C, M), summed over the tokens from `start` to `stop`."""
    total = tl.zeros((C, M), tl.float32)
    for first in range(start, stop, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        _, _, f = features(load_rows(q, rows, sizes, C), w, rows, 0, sizes, PRODUCTS)
        total = tl.dot(tl.trans(load_rows(grad, rows, sizes, C)), f, total, input_precision=PRODUCTS)
    return total


@triton.jit
@no_type_check
def _iterated(raw, kept, sizes, num_steps, C: tl.constexpr, M: tl.constexpr, PRODUCTS: tl.constexpr):
    """The matrices of a `Small`, from `raw` = grad^T F over all tokens, by going back through the steps."""
    pair, index = pair_id(), tl.arange(0, M)
    # G is loaded anew at each use, because its derivative takes its room on chip.
    gram = kept.gram + pair * M * M + places(M, M)
    scale = tl.load(kept.scale + pair * M + index)
    vector = tl.load(kept.vector + pair * M + index)
    inverse = 1 / tl.load(kept.largest + pair)
    codes = kept.codes + pair * (num_steps + 1) * C * M + places(C, M)
    code = tl.load(codes + num_steps * C * M)
    grad_code = raw * scale[None, :]
    after, value, total, grad_norm = code, grad_code, tl.zeros((C, M), tl.float32), 0.0
    grad_gram = tl.zeros((M, M), tl.float32)
    for j in range(num_steps):
        before = tl.load(codes + (num_steps - 1 - j) * C * M)
        # An entry of a code is zero exactly where the threshold cuts it off. No derivative passes through it there.
        pushed = tl.where(after != 0, value, 0.0)
        total += pushed
        grad_norm += tl.sum((before - after) * pushed)
        grad_gram = tl.dot(tl.trans(before), pushed, grad_gram, input_precision=PRODUCTS)
        value = pushed - tl.dot(pushed, tl.load(gram), input_precision=PRODUCTS) * inverse
        after = before
    grad_drive = total * inverse + value
    both = -inverse * (grad_gram + tl.trans(grad_gram)) + 2 * grad_norm * inverse * vector[:, None] * vector[None, :]
    # The loop has left a_0 = b in `after`.
    radial = tl.sum(tl.load(gram) * both, 0) + tl.sum(after * grad_drive, 0) + tl.sum(grad_code * code, 0)
    # An atom shorter than `smallest_norm` is divided by a constant, so its norm has no derivative.
    radial = tl.where(scale * smallest_norm(sizes) < 1, radial, 0.0)
    both -= tl.where(index[:, None] == index[None, :], radial[None, :], 0.0)
    return both * scale[:, None] * scale[None, :], grad_drive * scale[None, :], code * scale[None, :]


@triton.jit
@no_type_check
def _through(unit, f, own, v, grad, w, small, PRODUCTS: tl.constexpr):
    """The derivatives in `unit`, v and the features' exponents that come from some of the features.

    `f` holds all features, `own` those in question. `w` and the matrices of `small` hold only the columns of `own`.
    """
    gram, drive, code = small
    grad_own = tl.dot(f, gram, input_precision=PRODUCTS)
    grad_own = tl.dot(v, drive, grad_own, input_precision=PRODUCTS)
    grad_own = tl.dot(grad, code, grad_own, input_precision=PRODUCTS)
    grad_exponent = grad_own * own
    grad_unit = tl.dot(grad_exponent, tl.trans(w), input_precision=PRODUCTS) - unit * tl.sum(grad_exponent, 1)[:, None]
    return grad_unit, tl.dot(own, tl.trans(drive), input_precision=PRODUCTS), grad_exponent


@triton.jit
@no_type_check
def _store(outputs, rows, sizes, unit, norm, grad_unit, grad_v, C: tl.constexpr):
    """Write the derivatives in q and v. The one in q is `grad_unit`, passed back through the normalisation."""
    along = tl.where(norm >= EPS, tl.sum(unit * grad_unit, 1), 0.0)
    store_rows(outputs[0], rows, sizes, (grad_unit - unit * along[:, None]) / tl.maximum(norm, EPS)[:, None], C)
    store_rows(outputs[1], rows, sizes, grad_v, C)


@triton.jit
@no_type_check
def _spread(
    inputs,
    outputs,
    w,
    grad_w,
    small,
    span,
    sizes,
    C: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PROJECTION: tl.constexpr,
):
    """Write the derivatives in q and v for the tokens of `span`, (start, stop), and add those in w to `grad_w`."""
    for first in range(span[0], span[1], BLOCK):
        rows = first + tl.arange(0, BLOCK)
        v, grad = load_rows(inputs[1], rows, sizes, C), load_rows(inputs[2], rows, sizes, C)
        unit, norm, f = features(load_rows(inputs[0], rows, sizes, C), w, rows, 0, sizes, PRODUCTS)
        grad_unit, grad_v, grad_exponent = _through(unit, f, f, v, grad, w, small, PRODUCTS)
        _store(outputs, rows, sizes, unit, norm, grad_unit, grad_v, C)
        if PROJECTION:
            tl.atomic_add(grad_w + places(C, M), tl.dot(tl.trans(unit), grad_exponent, input_precision=PRODUCTS))


@triton.jit
@no_type_check
def _spread_in_parts(
    inputs,
    outputs,
    projections,
    small,
    span,
    sizes,
    C: tl.constexpr,
    M: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PROJECTION: tl.constexpr,
):
    """The work of `_spread` for matrices that are too large to be on chip as a whole.

    PART of their columns are on chip at a time. They are read again for every block of tokens.
    """
    projection, grad_w = projections
    w = load_projection(projection, 0, sizes, C, M)
    cols = tl.arange(0, PART)[None, :]
    tall, wide = tl.arange(0, M)[:, None] * M + cols, tl.arange(0, C)[:, None] * M + cols
    for first in range(span[0], span[1], BLOCK):
        rows = first + tl.arange(0, BLOCK)
        q = load_rows(inputs[0], rows, sizes, C)
        v, grad = load_rows(inputs[1], rows, sizes, C), load_rows(inputs[2], rows, sizes, C)
        unit, norm, f = features(q, w, rows, 0, sizes, PRODUCTS)
        grad_unit, grad_v = tl.zeros((BLOCK, C), tl.float32), tl.zeros((BLOCK, C), tl.float32)
        for part in range(0, M, PART):
            w_part = load_projection(projection, part, sizes, C, PART)
            _, _, own = features(q, w_part, rows, part, sizes, PRODUCTS)
            matrices = (
                tl.load(small.gram + part + tall),
                tl.load(small.drive + part + wide),
                tl.load(small.code + part + wide),
            )
            unit_share, v_share, grad_exponent = _through(unit, f, own, v, grad, w_part, matrices, PRODUCTS)
            grad_unit += unit_share
            grad_v += v_share
            if PROJECTION:
                tl.atomic_add(grad_w + part + wide, tl.dot(tl.trans(unit), grad_exponent, input_precision=PRODUCTS))
        _store(outputs, rows, sizes, unit, norm, grad_unit, grad_v, C)


@triton.jit
@no_type_check
def whole(
    inputs,
    outputs,
    projection,
    grad_projection,
    kept,
    sizes,
    num_steps,
    C: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PROJECTION: tl.constexpr,
):
    """The derivative of the reconstruction of one pair. Grid: (pairs,).

    `inputs` are q, v and grad. `outputs` take the derivatives in q and v. If PROJECTION, the derivative in the
    projection is added to `grad_projection` (pairs, C, M).
    """
    w = load_projection(projection, 0, sizes, C, M)
    raw = _gathered(inputs[0], inputs[2], w, 0, sizes.tokens, sizes, C, M, BLOCK, PRODUCTS)
    small = _iterated(raw, kept, sizes, num_steps, C, M, PRODUCTS)
    grad_w = grad_projection + pair_id() * C * M
    _spread(inputs, outputs, w, grad_w, small, (0, sizes.tokens), sizes, C, M, BLOCK, PRODUCTS, PROJECTION)


@triton.jit
@no_type_check
def gather(
    q,
    grad,
    projection,
    raws,
    sizes,
    share,
    C: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """Store grad^T F, summed over one share of the tokens, in `raws` (pairs, shares, C, M). Grid: (pairs, shares)."""
    w = load_projection(projection, 0, sizes, C, M)
    start = tl.program_id(1) * share
    stop = tl.minimum(start + share, sizes.tokens)
    raw = _gathered(q, grad, w, start, stop, sizes, C, M, BLOCK, PRODUCTS)
    tl.store(raws + (pair_id() * tl.num_programs(1) + tl.program_id(1)) * C * M + places(C, M), raw)


@triton.jit
@no_type_check
def iterate(raws, small, kept, sizes, num_steps, shares, C: tl.constexpr, M: tl.constexpr, PRODUCTS: tl.constexpr):
    """Go back through the steps from the sums of `gather`, and store the result in `small`. Grid: (pairs,)."""
    raw, pair = tl.zeros((C, M), tl.float32), pair_id()
    for share in range(shares):
        raw += tl.load(raws + (pair * shares + share) * C * M + places(C, M))
    gram, drive, code = _iterated(raw, kept, sizes, num_steps, C, M, PRODUCTS)
    tl.store(small.gram + pair * M * M + places(M, M), gram)
    tl.store(small.drive + pair * C * M + places(C, M), drive)
    tl.store(small.code + pair * C * M + places(C, M), code)


@triton.jit
@no_type_check
def spread(
    inputs,
    outputs,
    projections,
    small,
    sizes,
    share,
    C: tl.constexpr,
    M: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PROJECTION: tl.constexpr,
):
    """Write the derivatives in q and v for one share of the tokens, from the `Small` that `iterate` stored.

    `projections` are the projection and its derivative (pairs, shares, C, M). If PROJECTION, this share's part is added
    to the latter. Grid: (pairs, shares).
    """
    projection, grad_projection = projections
    pair = pair_id()
    start = tl.program_id(1) * share
    stop = tl.minimum(start + share, sizes.tokens)
    grad_w = grad_projection + (pair * tl.num_programs(1) + tl.program_id(1)) * C * M
    own = Small(small.gram + pair * M * M, small.drive + pair * C * M, small.code + pair * C * M)
    if PART == M:
        w = load_projection(projection, 0, sizes, C, M)
        gram = tl.load(own.gram + places(M, M))
        matrices = (gram, tl.load(own.drive + places(C, M)), tl.load(own.code + places(C, M)))
        _spread(inputs, outputs, w, grad_w, matrices, (start, stop), sizes, C, M, BLOCK, PRODUCTS, PROJECTION)
    else:
        _spread_in_parts(
            inputs, outputs, (projection, grad_w), own, (start, stop), sizes, C, M, PART, BLOCK, PRODUCTS, PROJECTION
        )
