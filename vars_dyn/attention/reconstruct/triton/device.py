"""What the kernels share on the device: features of a block of tokens, sums over tokens, the iteration's pieces.

In capitals are the compile-time sizes: C and M are the head's width and its number of features, padded to powers of
two, and BLOCK tokens are held at a time. What pads is zero. Sums are float32; PRODUCTS names the precision of the
factors of matrix products.
"""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl

__all__ = ["Kept", "Rows", "Sizes"]

#: What `torch.nn.functional.normalize` divides by at least.
EPS = tl.constexpr(1e-12)
#: The power iteration ends where the bounds on L are this close, relatively, or after so many products.
SPREAD = tl.constexpr(4e-6)
MOST = tl.constexpr(512)


class Rows(NamedTuple):
    """A tensor (B, heads, N, c) of unit last stride: its pointer and its other strides."""

    pointer: Any
    image: int
    head: int
    token: int


class Sizes(NamedTuple):
    """The number of heads, of tokens, and what C and M hold; `root` is the root of m."""

    heads: int
    tokens: int
    c: int
    m: int
    root: float


class Kept(NamedTuple):
    """What the derivative needs of each pair of image and head, float32.

    Phi's Gram matrix (M, M), a_0 to a_k (C, M) each, 1 over the features' norms (M,), L, and L's eigenvector (M,).
    """

    gram: Any
    codes: Any
    scale: Any
    largest: Any
    vector: Any


@triton.jit
@no_type_check
def pair_id():
    """Which image and head this program works on."""
    return tl.program_id(0).to(tl.int64)


@triton.jit
@no_type_check
def places(HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets of a matrix stored row by row."""
    return tl.arange(0, HEIGHT)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
@no_type_check
def row_places(x, rows, sizes, C: tl.constexpr):
    """Pointers to a block (BLOCK, C) of a `Rows`, and which of them exist."""
    pair, cols = pair_id(), tl.arange(0, C)
    first = x.pointer + pair // sizes.heads * x.image + pair % sizes.heads * x.head
    inside = (rows[:, None] < sizes.tokens) & (cols[None, :] < sizes.c)
    return first + rows.to(tl.int64)[:, None] * x.token + cols[None, :], inside


@triton.jit
@no_type_check
def load_rows(x, rows, sizes, C: tl.constexpr):
    """A block (BLOCK, C) of a `Rows`."""
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
    """The head's random vectors from number `first` on (C, WIDTH), of (heads, c, m)."""
    rows, cols = tl.arange(0, C)[:, None], first + tl.arange(0, WIDTH)[None, :]
    inside = (rows < sizes.c) & (cols < sizes.m)
    start = projection + pair_id() % sizes.heads * sizes.c * sizes.m
    return tl.load(start + rows * sizes.m + cols, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def features(q, w, rows, first, sizes, PRODUCTS: tl.constexpr):
    """Of a block of tokens (BLOCK, C): normalised, their norms, and F = exp(w.q - |q|^2 / 2), (BLOCK, WIDTH).

    `first` is the number of the first random vector in w (C, WIDTH).
    """
    norm = tl.sqrt(tl.sum(q * q, 1))
    unit = q / tl.maximum(norm, EPS)[:, None]
    exponent = tl.dot(unit, w, input_precision=PRODUCTS) - (tl.sum(unit * unit, 1) / 2)[:, None]
    inside = (rows[:, None] < sizes.tokens) & (first + tl.arange(0, w.shape[1])[None, :] < sizes.m)
    return unit, norm, tl.where(inside, tl.exp(exponent), 0.0)


@triton.jit
@no_type_check
def smallest_norm(sizes):
    """The norm of F's columns below which normalisation divides by this instead."""
    return sizes.root * EPS


@triton.jit
@no_type_check
def normalised(gram, drive, sizes, M: tl.constexpr):
    """Phi^T Phi and v^T Phi from F^T F and v^T F, with the factors 1 / n in Phi = F diag(1 / n)."""
    index = tl.arange(0, M)
    square = tl.sum(tl.where(index[:, None] == index[None, :], gram, 0.0), 0)
    scale = tl.where(index < sizes.m, 1 / tl.maximum(tl.sqrt(square), smallest_norm(sizes)), 0.0)
    return gram * scale[:, None] * scale[None, :], drive * scale[None, :], scale


@triton.jit
@no_type_check
def largest_eigenpair(gram, sizes, M: tl.constexpr):
    """L and its unit eigenvector by a power iteration.

    All entries of G are positive, as features are. So the eigenvector is positive, the iteration's start of equal
    entries has a share of at least 1 / sqrt(m) in it, and the ratios (G x)_i / x_i bound L from both sides (Collatz and
    Wielandt). The Rayleigh quotient's error is of the second order in their spread, at which the iteration ends.
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
    """soft(a - (a G - b) / L, lam / L) with `inverse` = 1 / L."""
    v = code - (tl.dot(code, gram, input_precision=PRODUCTS) - drive) * inverse
    return v - tl.minimum(tl.maximum(v, -lam * inverse), lam * inverse)
