"""Functions that the kernels share: loading and storing tokens, their features, and the pieces of the iteration.

Names in capitals are compile-time constants. C is the head's width and M its number of features, each padded with zeros
to a power of two. A program holds BLOCK tokens at a time. Sums are float32. PRODUCTS names the precision of the factors
of matrix products. A pair is one head of one image.
"""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl

__all__ = ["Kept", "Rows", "Sizes"]

#: The least number that `torch.nn.functional.normalize` divides by.
EPS = tl.constexpr(1e-12)
#: The power iteration ends when the relative distance of the bounds on L is below SPREAD, or after MOST products.
SPREAD = tl.constexpr(4e-6)
MOST = tl.constexpr(512)


class Rows(NamedTuple):
    """A tensor (B, heads, N, c) whose last stride is 1: its pointer and its other three strides."""

    pointer: Any
    image: int
    head: int
    token: int


class Sizes(NamedTuple):
    """The numbers of heads and tokens, and the sizes c and m before padding; `root` is the square root of m."""

    heads: int
    tokens: int
    c: int
    m: int
    root: float


class Kept(NamedTuple):
    """What the derivative needs from the forward pass, float32, with the pairs as first dimension.

    For each pair: `gram` is Phi's Gram matrix (M, M), `codes` are a_0 to a_k (k + 1, C, M), `scale` is 1 over the
    features' norms (M,), `largest` is L, and `vector` is the eigenvector of L (M,).
    """

    gram: Any
    codes: Any
    scale: Any
    largest: Any
    vector: Any


@triton.jit
@no_type_check
def pair_id():
    """The index of the pair that this program works on, image by image."""
    return tl.program_id(0).to(tl.int64)


@triton.jit
@no_type_check
def places(HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """The offsets of the entries of a matrix (HEIGHT, WIDTH) that is stored row by row."""
    return tl.arange(0, HEIGHT)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
@no_type_check
def row_places(x, rows, sizes, C: tl.constexpr):
    """Pointers to the entries of a block (BLOCK, C) of a `Rows`, and a mask of those that are not padding."""
    pair, cols = pair_id(), tl.arange(0, C)
    first = x.pointer + pair // sizes.heads * x.image + pair % sizes.heads * x.head
    inside = (rows[:, None] < sizes.tokens) & (cols[None, :] < sizes.c)
    return first + rows.to(tl.int64)[:, None] * x.token + cols[None, :], inside


@triton.jit
@no_type_check
def load_rows(x, rows, sizes, C: tl.constexpr):
    """Read a block (BLOCK, C) of a `Rows` as float32, with zeros as padding."""
    pointers, inside = row_places(x, rows, sizes, C)
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def store_rows(x, rows, sizes, value, C: tl.constexpr):
    """Write a block (BLOCK, C) of a `Rows`."""
    pointers, inside = row_places(x, rows, sizes, C)
    tl.store(pointers, value.to(x.pointer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def load_projection(projection, first, sizes, C: tl.constexpr, WIDTH: tl.constexpr):
    """WIDTH random vectors of this pair's head, (C, WIDTH), from number `first` on; `projection` is (heads, c, m)."""
    rows, cols = tl.arange(0, C)[:, None], first + tl.arange(0, WIDTH)[None, :]
    inside = (rows < sizes.c) & (cols < sizes.m)
    start = projection + pair_id() % sizes.heads * sizes.c * sizes.m
    return tl.load(start + rows * sizes.m + cols, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def features(q, w, rows, first, sizes, PRODUCTS: tl.constexpr):
    """The normalised queries (BLOCK, C), the norms before (BLOCK,), and F = exp(w.q - |q|^2 / 2), (BLOCK, WIDTH).

    q in the formula is normalised. w (C, WIDTH) holds the random vectors from number `first` on.
    """
    norm = tl.sqrt(tl.sum(q * q, 1))
    unit = q / tl.maximum(norm, EPS)[:, None]
    exponent = tl.dot(unit, w, input_precision=PRODUCTS) - (tl.sum(unit * unit, 1) / 2)[:, None]
    inside = (rows[:, None] < sizes.tokens) & (first + tl.arange(0, w.shape[1])[None, :] < sizes.m)
    return unit, norm, tl.where(inside, tl.exp(exponent), 0.0)


@triton.jit
@no_type_check
def smallest_norm(sizes):
    """The least number that normalisation divides a column of F by; a smaller norm is replaced by it."""
    return sizes.root * EPS


@triton.jit
@no_type_check
def normalised(gram, drive, sizes, M: tl.constexpr):
    """Phi^T Phi and v^T Phi, computed from F^T F and v^T F, and the factors 1 / n of Phi = F diag(1 / n)."""
    index = tl.arange(0, M)
    square = tl.sum(tl.where(index[:, None] == index[None, :], gram, 0.0), 0)
    scale = tl.where(index < sizes.m, 1 / tl.maximum(tl.sqrt(square), smallest_norm(sizes)), 0.0)
    return gram * scale[:, None] * scale[None, :], drive * scale[None, :], scale


@triton.jit
@no_type_check
def largest_eigenpair(gram, sizes, M: tl.constexpr):
    """L and its unit eigenvector, found by a power iteration.

    Features are positive, so all entries of G are positive, and so is the eigenvector. The iteration starts from equal
    entries, whose inner product with the eigenvector is therefore at least 1 / sqrt(m). The smallest and the largest of
    the ratios (G x)_i / x_i bound L from below and above (Collatz and Wielandt). The iteration ends when these bounds
    are close. The value returned is the Rayleigh quotient, whose error is of second order in the bounds' distance.
    """
    inside = tl.arange(0, M) < sizes.m
    vector = tl.where(inside, 1 / sizes.root, 0.0)
    value, low, high, count = 0.0, 0.0, 1.0, 0
    while (count < MOST) & (high - low > high * SPREAD):
        image = tl.sum(gram * vector[None, :], 1)
        known = inside & (vector > 0)
        ratio = image / tl.where(known, vector, 1.0)
        low = tl.min(tl.where(known, ratio, float("inf")))
        high = tl.max(tl.where(known, ratio, 0.0))
        value = tl.sum(image * vector)
        vector = image / tl.sqrt(tl.sum(image * image))
        count += 1
    return value, vector


@triton.jit
@no_type_check
def step(code, gram, drive, inverse, lam, PRODUCTS: tl.constexpr):
    """One step of ISTA: soft(a - (a G - b) / L, lam / L) with `inverse` = 1 / L."""
    v = code - (tl.dot(code, gram, input_precision=PRODUCTS) - drive) * inverse
    return v - tl.minimum(tl.maximum(v, -lam * inverse), lam * inverse)
