"""A support with the Cholesky factor of its system: atoms join and leave, and the code goes to the support's minimum.

A support A with signs s turns the problem into a quadratic one, whose minimum solves H_A a = P_A^T x + q_A - lam w_A s,
H = G + ridge I. Each step goes towards that minimum, as far along it as E itself falls, with the kinks where entries
change their sign taken into account (feature-sign search; Lee, Battle, Raina and Ng, NIPS 2006). So E falls with every
step, and no support comes twice. The Cholesky factor of H_A follows the support by rank-one changes. Unlike there,
several atoms join at once; those that the common step would send the wrong way leave again before it is taken.
"""

from __future__ import annotations

import numpy as np

from vars_dyn.solvers.compiled.loops import inlined, weight
from vars_dyn.solvers.compiled.values import Array, Held, Matrices, Scratch

__all__ = ["DEPENDENT", "append", "descend", "entries", "exchange"]

#: An atom of which no more than this share of |P_i|^2 + ridge is independent of the support counts as dependent on it.
DEPENDENT = 1e-13


@inlined
def entries(matrices: Matrices, held: Held, k: int, atom: int, out: Array) -> None:
    """The row of H that belongs to `atom`, which is not on the support, on the support."""
    if len(matrices.gram):
        row = matrices.gram[atom]
        for m in range(k):
            out[m] = row[held.atoms[m]]
        return
    own = matrices.atoms[atom]
    if len(matrices.known) and not matrices.known[atom]:
        for i in range(len(own)):
            own[i] = matrices.rows[i, atom]
        matrices.known[atom] = True
    for m in range(k):
        other = matrices.atoms[held.atoms[m]]
        total = 0.0
        for i in range(len(own)):
            total += own[i] * other[i]
        out[m] = total


@inlined
def append(held: Held, k: int, row: Array, diagonal: float) -> float:
    """Make `row` the factor's row k; returns the share of `diagonal` that is independent of the support."""
    factor, inverse = held.factor, held.inverse
    new, left = factor[k], diagonal
    for i in range(k):
        own = factor[i]
        total = row[i]
        for m in range(i):
            total -= own[m] * new[m]
        total *= inverse[i]
        new[i] = total
        left -= total * total
    share = left / diagonal if diagonal > 0 else 0.0
    if share > DEPENDENT:
        new[k] = np.sqrt(left)
        inverse[k] = 1 / new[k]
    return share


@inlined
def _backward(held: Held, k: int, out: Array) -> None:
    """Solve L^T y = `out` in place."""
    for i in range(k - 1, -1, -1):
        row = held.factor[i]
        value = out[i] * held.inverse[i]
        out[i] = value
        for m in range(i):
            out[m] -= row[m] * value


@inlined
def _solve(held: Held, k: int, right: Array, out: Array) -> None:
    """Solve H_A y = right."""
    for i in range(k):
        row = held.factor[i]
        total = right[i]
        for m in range(i):
            total -= row[m] * out[m]
        out[i] = total * held.inverse[i]
    _backward(held, k, out)


@inlined
def _remove(held: Held, k: int, gone: int, scratch: Scratch) -> int:
    """Take the entry `gone` out of the support; rotations make the factor's rows below it triangular again."""
    factor, cosine, sine = held.factor, scratch.cosine, scratch.row
    for r in range(gone + 1, k):
        row, to = factor[r], factor[r - 1]
        for m in range(gone):
            to[m] = row[m]
        ahead = row[gone]
        # cosine[m] and sine[m] belong to the rotation of columns m and m + 1.
        for m in range(gone, r - 1):
            following = row[m + 1]
            to[m] = cosine[m] * ahead + sine[m] * following
            ahead = cosine[m] * following - sine[m] * ahead
        last = row[r]
        length = np.sqrt(ahead * ahead + last * last)
        cosine[r - 1], sine[r - 1] = ahead / length, last / length
        to[r - 1] = length
        held.inverse[r - 1] = 1 / length
    for m in range(gone, k - 1):
        held.atoms[m] = held.atoms[m + 1]
        held.code[m] = held.code[m + 1]
        held.sign[m] = held.sign[m + 1]
        held.descent[m] = held.descent[m + 1]
    return k - 1


@inlined
def _line(held: Held, k: int, lam: Array, nonnegative: bool, scratch: Scratch) -> tuple[float, int, bool]:
    """How far E falls along `step`, the entry that becomes zero there, and whether others changed their sign.

    Where no entry becomes zero, k is returned for it. The slope of E along the step rises linearly, and jumps by
    2 lam w_i |step_i| where entry i changes its sign.
    """
    step, right = scratch.step, scratch.right
    curvature = 0.0
    for m in range(k):
        curvature += right[m] * step[m]
    jumps, flipped = 0.0, False
    while True:
        first, at = k, 1.0
        for m in range(k):
            # Entries that have changed their sign already move away from zero.
            if held.code[m] * step[m] < 0 and held.sign[m] * held.code[m] > 0:
                ratio = -held.code[m] / step[m]
                if ratio < at:
                    first, at = m, ratio
        if first == k:
            break
        if jumps >= (1 - at) * curvature:
            break
        jumps += 2 * weight(lam, held.atoms[first]) * abs(step[first])
        if nonnegative or jumps >= (1 - at) * curvature:
            return at, first, flipped
        held.sign[first] = -held.sign[first]
        flipped = True
    return 1 - jumps / curvature if jumps > 0 else 1.0, k, flipped


@inlined
def descend(held: Held, k: int, lam: Array, nonnegative: bool, scratch: Scratch) -> tuple[int, bool]:
    """Go to the minimum over the support, from which entries may leave; False where it takes too many steps."""
    right, step = scratch.right, scratch.step
    for _ in range(6 * k + 50):
        for m in range(k):
            right[m] = held.descent[m] - weight(lam, held.atoms[m]) * held.sign[m]
        _solve(held, k, right, step)
        before = k
        for m in range(k - 1, -1, -1):
            if held.code[m] == 0 and step[m] * held.sign[m] <= 0:
                k = _remove(held, k, m, scratch)
        if k < before:
            continue
        if k == 0:
            return k, True
        along, zero, flipped = _line(held, k, lam, nonnegative, scratch)
        for m in range(k):
            held.code[m] += along * step[m]
            held.descent[m] -= along * right[m]
        if zero < k:
            k = _remove(held, k, zero, scratch)
        elif not flipped and along == 1:
            return k, True
    return k, False


@inlined
def exchange(held: Held, k: int, lam: Array, sign: float, scratch: Scratch) -> tuple[int, float]:
    """Make room for an atom that depends on the support: P_j = P_A v, so a_A - t v with a_j = t gives the same P a.

    The penalty falls along t until an entry reaches zero, which leaves. Expects L v' in the factor's row k, and returns
    the new size with the entry that the atom gets, or zero where none leaves.
    """
    step = scratch.step
    for m in range(k):
        step[m] = held.factor[k, m]
    _backward(held, k, step)
    gone, most = k, np.inf
    for m in range(k):
        by = sign * step[m]
        if held.code[m] * by > 0 and held.code[m] / by < most:
            gone, most = m, held.code[m] / by
    if gone == k:
        return k, 0.0
    for m in range(k):
        held.code[m] -= most * sign * step[m]
    return _remove(held, k, gone, scratch), most * sign
