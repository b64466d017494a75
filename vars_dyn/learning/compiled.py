"""Loops of the online method that numba compiles; they need the extra `fast`."""

from __future__ import annotations

import numpy as np

from vars_dyn.solvers.compiled.loops import compiled
from vars_dyn.solvers.compiled.values import Array

__all__ = ["add_products", "turn"]


@compiled
def add_products(code: Array, x: Array, gram: Array, cross: Array) -> None:
    """Add a^T a and a^T x over the rows of the codes (n, K) and signals (n, F), skipping the zeros of the codes."""
    count, size = code.shape
    width = x.shape[1]
    active = np.empty(size, np.int64)
    for i in range(count):
        k = 0
        for j in range(size):
            if code[i, j] != 0:
                active[k] = j
                k += 1
        for m in range(k):
            j = active[m]
            value = code[i, j]
            for other in range(k):
                gram[j, active[other]] += value * code[i, active[other]]
            for f in range(width):
                cross[j, f] += value * x[i, f]


@compiled
def turn(rows: Array, slope: Array, within: Array, moved: Array, floor: float, ball: bool, nonnegative: bool) -> None:
    """Let the atoms in `rows` (k, F) go to their minima one after the other, and overwrite them.

    `slope` (k, F) is minus the gradient at the atoms before, `within` (k, k) their part of the Gram matrix, and `moved`
    (k, F) receives what each moved by. Atoms whose entry of the diagonal is at most `floor` stay.
    """
    count, width = rows.shape
    for j in range(count):
        own, step = slope[j], moved[j]
        if within[j, j] <= floor:
            for f in range(width):
                step[f] = 0.0
            continue
        for other in range(j):
            factor = within[j, other]
            if factor != 0:
                past = moved[other]
                for f in range(width):
                    own[f] -= factor * past[f]
        square, scale = 0.0, 1.0 / within[j, j]
        for f in range(width):
            value = rows[j, f] + scale * own[f]
            value = max(value, 0.0) if nonnegative else value
            step[f] = value
            square += value * value
        norm = np.sqrt(square)
        if norm == 0 and not ball:
            for f in range(width):
                step[f] = 0.0  # the sphere has no point nearest to zero
            continue
        size = 1.0 if ball and norm <= 1 else 1.0 / norm
        for f in range(width):
            new = step[f] * size
            step[f] = new - rows[j, f]
            rows[j, f] = new
