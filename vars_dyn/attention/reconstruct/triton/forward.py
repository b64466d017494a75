"""The kernels of the reconstruction: they sum over the tokens, take the steps, and write the reconstructed values.

A pair is one head of one image. In `whole` one program does all the work of a pair, so G and the code stay on chip. If
the pairs are fewer than the GPU's processors, or their matrices too large for this, three kernels run in turn. `gather`
sums over the tokens, `iterate` takes the steps, and `decode` writes the values. In `gather` and `decode` several
programs can share the tokens of a pair.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from vars_dyn.attention.reconstruct.triton.device import (
    features,
    largest_eigenpair,
    load_projection,
    load_rows,
    normalised,
    pair_id,
    places,
    step,
    store_rows,
)

__all__ = ["decode", "gather", "iterate", "whole"]


@triton.jit
@no_type_check
def _gathered(
    q, v, w, start, stop, sizes, C: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, PRODUCTS: tl.constexpr
):
    """F^T F (M, M) and v^T F (C, M), summed over the tokens from `start` to `stop`."""
    gram, drive = tl.zeros((M, M), tl.float32), tl.zeros((C, M), tl.float32)
    for first in range(start, stop, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        _, _, f = features(load_rows(q, rows, sizes, C), w, rows, 0, sizes, PRODUCTS)
        gram = tl.dot(tl.trans(f), f, gram, input_precision=PRODUCTS)
        drive = tl.dot(tl.trans(load_rows(v, rows, sizes, C)), f, drive, input_precision=PRODUCTS)
    return gram, drive


@triton.jit
@no_type_check
def _iterated(
    gram,
    drive,
    kept,
    sizes,
    lam,
    num_steps,
    C: tl.constexpr,
    M: tl.constexpr,
    PRODUCTS: tl.constexpr,
    KEEP: tl.constexpr,
):
    """The code (C, M) divided by the features' norms, from the sums over all tokens.

    If KEEP, what the derivative needs is stored in `kept`.
    """
    gram, drive, scale = normalised(gram, drive, sizes, M)
    largest, vector = largest_eigenpair(gram, sizes, M)
    inverse, pair = 1 / largest, pair_id()
    codes = kept.codes + pair * (num_steps + 1) * C * M + places(C, M)
    code = drive
    if KEEP:
        index = tl.arange(0, M)
        tl.store(kept.gram + pair * M * M + places(M, M), gram)
        tl.store(kept.scale + pair * M + index, scale)
        tl.store(kept.vector + pair * M + index, vector)
        tl.store(kept.largest + pair, largest)
        tl.store(codes, code)
    for j in range(num_steps):
        code = step(code, gram, drive, inverse, lam, PRODUCTS)
        if KEEP:
            tl.store(codes + (j + 1) * C * M, code)
    return code * scale[None, :]


@triton.jit
@no_type_check
def _decoded(
    q, y, w, code, start, stop, sizes, C: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, PRODUCTS: tl.constexpr
):
    """Write F code^T to y for the tokens from `start` to `stop`."""
    turned = tl.trans(code)
    for first in range(start, stop, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        _, _, f = features(load_rows(q, rows, sizes, C), w, rows, 0, sizes, PRODUCTS)
        store_rows(y, rows, sizes, tl.dot(f, turned, input_precision=PRODUCTS), C)


@triton.jit
@no_type_check
def whole(
    tokens,
    y,
    projection,
    kept,
    sizes,
    lam,
    num_steps,
    C: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Write the reconstruction of a pair to y. `tokens` are q and v. Grid: (pairs,)."""
    q, v = tokens
    w = load_projection(projection, 0, sizes, C, M)
    gram, drive = _gathered(q, v, w, 0, sizes.tokens, sizes, C, M, BLOCK, PRODUCTS)
    code = _iterated(gram, drive, kept, sizes, lam, num_steps, C, M, PRODUCTS, KEEP)
    _decoded(q, y, w, code, 0, sizes.tokens, sizes, C, M, BLOCK, PRODUCTS)


@triton.jit
@no_type_check
def gather(
    q,
    v,
    projection,
    grams,
    drives,
    sizes,
    share,
    C: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """Store the sums over one share of the tokens in `grams` (pairs, shares, M, M) and `drives` (pairs, shares, C, M).

    Grid: (pairs, shares).
    """
    w = load_projection(projection, 0, sizes, C, M)
    start = tl.program_id(1) * share
    stop = tl.minimum(start + share, sizes.tokens)
    gram, drive = _gathered(q, v, w, start, stop, sizes, C, M, BLOCK, PRODUCTS)
    place = pair_id() * tl.num_programs(1) + tl.program_id(1)
    tl.store(grams + place * M * M + places(M, M), gram)
    tl.store(drives + place * C * M + places(C, M), drive)


@triton.jit
@no_type_check
def iterate(
    grams,
    drives,
    scaled,
    kept,
    sizes,
    lam,
    num_steps,
    shares,
    C: tl.constexpr,
    M: tl.constexpr,
    PRODUCTS: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Take the steps from the sums of `gather`, and store the code over the features' norms in `scaled` (pairs, C, M).

    Grid: (pairs,).
    """
    gram, drive = tl.zeros((M, M), tl.float32), tl.zeros((C, M), tl.float32)
    for share in range(shares):
        place = pair_id() * shares + share
        gram += tl.load(grams + place * M * M + places(M, M))
        drive += tl.load(drives + place * C * M + places(C, M))
    code = _iterated(gram, drive, kept, sizes, lam, num_steps, C, M, PRODUCTS, KEEP)
    tl.store(scaled + pair_id() * C * M + places(C, M), code)


@triton.jit
@no_type_check
def decode(
    q,
    y,
    projection,
    scaled,
    sizes,
    share,
    C: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """Write the reconstructed values of one share of the tokens, from the code of `iterate`. Grid: (pairs, shares)."""
    w = load_projection(projection, 0, sizes, C, M)
    code = tl.load(scaled + pair_id() * C * M + places(C, M))
    start = tl.program_id(1) * share
    _decoded(q, y, w, code, start, tl.minimum(start + share, sizes.tokens), sizes, C, M, BLOCK, PRODUCTS)
