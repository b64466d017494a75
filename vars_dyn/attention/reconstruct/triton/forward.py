"""The reconstruction's kernels: sums over tokens, the steps, and the values written out.

`whole` does all of it for one pair of image and head, which keeps G and the code on chip. Where there are fewer pairs
than the GPU has processors, `gather` and `decode` share each pair's tokens among several programs, with `iterate`
between them.
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
    """F^T F and v^T F over the tokens from `start` to `stop`."""
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
    """The code (C, M) over the features' norms, from the sums over all tokens; what the derivative needs is kept."""
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
    """Write F a^T for the tokens from `start` to `stop`."""
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
    """The reconstruction of one pair of image and head; grid (pairs,). `tokens` are q and v."""
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
    """The sums of one share of the tokens, into (pairs, shares, M, M) and (pairs, shares, C, M); grid their sizes."""
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
    """The steps, from what `gather` wrote, and the scaled code into (pairs, C, M); grid (pairs,)."""
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
    """The values of one share of the tokens from what `iterate` wrote; grid (pairs, shares)."""
    w = load_projection(projection, 0, sizes, C, M)
    code = tl.load(scaled + pair_id() * C * M + places(C, M))
    start = tl.program_id(1) * share
    _decoded(q, y, w, code, start, tl.minimum(start + share, sizes.tokens), sizes, C, M, BLOCK, PRODUCTS)
