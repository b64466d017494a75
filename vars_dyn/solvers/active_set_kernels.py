"""The active set of one signal, compiled by numba: atoms join and leave until the optimality conditions hold.

A support A with signs s turns the problem into a quadratic one, whose minimum solves H_A a = P_A^T x + q_A - lam w_A s,
H = G + ridge I. Each step goes towards that minimum, as far along it as E itself falls, with the kinks where entries
change their sign taken into account (feature-sign search; Lee, Battle, Raina and Ng, NIPS 2006). So E falls with every
step, and no support comes twice. The Cholesky factor of H_A follows the support by rank-one changes. Unlike there,
several atoms join at once; those that the common step would send the wrong way leave again before it is taken.

Only `vars_dyn.solvers.compiled_active_set` imports this module, because numba is an optional dependency.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DONE",
    "FULL",
    "MOVED",
    "STUCK",
    "Held",
    "Matrices",
    "Scratch",
    "Supports",
    "advance",
    "grow",
    "residual",
    "scatter",
    "settled",
]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: What became of a signal: its conditions hold, its code moved, no atom has room to join, or no progress is possible.
DONE, MOVED, FULL, STUCK = 0, 1, 2, 3
#: An atom of which no more than this share of |P_i|^2 + ridge is independent of the support counts as dependent on it.
_DEPENDENT = 1e-13
#: The rounding of c that is expected, relative to sum_i |a_i| |P_i|^2 over the support.
_ROUNDING = 4 * 2.0**-52
#: How the kernels may reorder sums. Neither NaN nor infinity occurs in them.
_ORDER = {"reassoc", "contract", "nsz", "arcp", "nnan"}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled at its first call and kept on the disk; it holds no lock of the interpreter."""
    # A checker of types that wraps functions must stay outside.
    return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_ORDER)(inspect.unwrap(function))


class Held(NamedTuple):
    """A signal's support. Its first k entries are in use.

    Attributes:
        atoms: the numbers of the atoms.
        code, sign: their entries, and the signs that they have or are about to get.
        descent: c = P^T (x - P a) + q - ridge a on the support.
        factor: the lower Cholesky factor of H_A.
        inverse: one over its diagonal.
    """

    atoms: Index
    code: Array
    sign: Array
    descent: Array
    factor: Array
    inverse: Array


class Supports(NamedTuple):
    """The supports of n signals: `sizes` (n,), `atoms` and `code` (n, room), and the `rounds` that they took, (n,)."""

    sizes: Index
    atoms: Index
    code: Array
    rounds: Index


class Scratch(NamedTuple):
    """Room to work in: four arrays as long as a support, and one as long as a code."""

    right: Array
    step: Array
    row: Array
    cosine: Array
    found: Index


class Matrices(NamedTuple):
    """The dictionary.

    Attributes:
        atoms: P^T, (d', d).
        gram: H, (d', d'), or empty where entries of H are to be computed from `atoms`.
        diagonal: the diagonal of H, (d',).
    """

    atoms: Array
    gram: Array
    diagonal: Array


@_compiled
def _weight(lam: Array, atom: int) -> float:
    return lam[atom] if len(lam) > 1 else lam[0]


@_compiled
def _entries(matrices: Matrices, held: Held, k: int, atom: int, out: Array) -> None:
    """The row of H that belongs to `atom`, on the support."""
    if len(matrices.gram):
        row = matrices.gram[atom]
        for m in range(k):
            out[m] = row[held.atoms[m]]
        return
    own = matrices.atoms[atom]
    for m in range(k):
        other = matrices.atoms[held.atoms[m]]
        total = 0.0
        for i in range(len(own)):
            total += own[i] * other[i]
        out[m] = total


@_compiled
def _append(held: Held, k: int, row: Array, diagonal: float) -> float:
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
    if share > _DEPENDENT:
        new[k] = np.sqrt(left)
        inverse[k] = 1 / new[k]
    return share


@_compiled
def _backward(held: Held, k: int, out: Array) -> None:
    """Solve L^T y = `out` in place."""
    for i in range(k - 1, -1, -1):
        row = held.factor[i]
        value = out[i] * held.inverse[i]
        out[i] = value
        for m in range(i):
            out[m] -= row[m] * value


@_compiled
def _solve(held: Held, k: int, right: Array, out: Array) -> None:
    """Solve H_A y = right."""
    for i in range(k):
        row = held.factor[i]
        total = right[i]
        for m in range(i):
            total -= row[m] * out[m]
        out[i] = total * held.inverse[i]
    _backward(held, k, out)


@_compiled
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


@_compiled
def _line(held: Held, k: int, lam: Array, nonnegative: bool, scratch: Scratch) -> tuple[float, int, bool]:
    """How far E falls along `step`, the entry that becomes zero there, and whether others changed their sign.

    Where no entry becomes zero, k is returned for it. The slope of E along the step rises linearly, and jumps by 2 lam w_i |step_i| where entry i changes its sign.
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
        jumps += 2 * _weight(lam, held.atoms[first]) * abs(step[first])
        if nonnegative or jumps >= (1 - at) * curvature:
            return at, first, flipped
        held.sign[first] = -held.sign[first]
        flipped = True
    return 1 - jumps / curvature if jumps > 0 else 1.0, k, flipped


@_compiled
def _descend(held: Held, k: int, lam: Array, nonnegative: bool, scratch: Scratch) -> tuple[int, bool]:
    """Go to the minimum over the support, from which entries may leave; False where it takes too many steps."""
    right, step = scratch.right, scratch.step
    for _ in range(6 * k + 50):
        for m in range(k):
            right[m] = held.descent[m] - _weight(lam, held.atoms[m]) * held.sign[m]
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


@_compiled
def _exchange(held: Held, k: int, lam: Array, sign: float, scratch: Scratch) -> tuple[int, float]:
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


@_compiled
def _worst(c: Array, lam: Array, nonnegative: bool) -> float:
    """The largest violation of the conditions of idle atoms."""
    worst = -np.inf
    if len(lam) > 1:
        for j in range(len(c)):
            worst = max(worst, (c[j] if nonnegative else abs(c[j])) - lam[j])
        return worst
    high = low = 0.0
    for j in range(len(c)):
        high, low = max(high, c[j]), min(low, c[j])
    return (high if nonnegative else max(high, -low)) - lam[0]


@_compiled
def _choose(c: Array, lam: Array, nonnegative: bool, floor: float, found: Index) -> int:
    """The idle atoms that violate their conditions by more than `floor`, the worst first; returns their number."""
    count, worst = 0, -np.inf
    for j in range(len(c)):
        excess = (c[j] if nonnegative else abs(c[j])) - (lam[j] if len(lam) > 1 else lam[0])
        if excess > floor:
            found[count] = j
            if excess > worst:
                worst = excess
                found[count], found[0] = found[0], j
            count += 1
    return count


@_compiled
def _join(
    c: Array, lam: Array, nonnegative: bool, floor: float, held: Held, k: int, scratch: Scratch, matrices: Matrices
) -> tuple[int, int]:
    """Take in the atoms that violate their conditions by more than `floor`."""
    before = k
    count = _choose(c, lam, nonnegative, floor, scratch.found)
    for number in range(count):
        if k == len(held.atoms):
            return k, FULL if k == before else MOVED
        atom = scratch.found[number]
        sign = 1.0 if c[atom] > 0 else -1.0
        _entries(matrices, held, k, atom, scratch.row)
        share = _append(held, k, scratch.row, matrices.diagonal[atom])
        value = 0.0
        if share <= _DEPENDENT:
            if number > 0:
                continue
            k, value = _exchange(held, k, lam, sign, scratch)
            if value == 0:
                return k, STUCK
            _entries(matrices, held, k, atom, scratch.row)
            if _append(held, k, scratch.row, matrices.diagonal[atom]) <= _DEPENDENT:
                return k, STUCK
        held.atoms[k], held.code[k], held.sign[k], held.descent[k] = atom, value, sign, c[atom]
        k += 1
        if value != 0:
            break
    return k, MOVED


@_compiled
def _advance(
    c: Array, lam: Array, nonnegative: bool, share: float, tol: float, held: Held, k: int, scratch: Scratch,
    matrices: Matrices,
) -> tuple[int, int]:  # fmt: skip
    """One round: the worst violators join, and the code goes to the minimum over its support.

    c is P^T (x - P a) + q - ridge a of the code, for all atoms. Those join whose violation exceeds `share` of the worst.
    """
    off = reach = 0.0
    for m in range(k):
        atom = held.atoms[m]
        held.descent[m] = c[atom]
        off = max(off, abs(c[atom] - _weight(lam, atom) * held.sign[m]))
        reach += abs(held.code[m]) * matrices.diagonal[atom]
        c[atom] = 0.0
    # Large entries that cancel one another leave c with their rounding.
    tol = max(tol, _ROUNDING * reach)
    worst = _worst(c, lam, nonnegative)
    if worst <= tol and off <= tol:
        for m in range(k):
            c[held.atoms[m]] = held.descent[m]
        return k, DONE
    if worst > tol and worst > off:
        k, status = _join(c, lam, nonnegative, max(share * worst, tol), held, k, scratch, matrices)
        if status != MOVED:
            return k, status
    k, settled = _descend(held, k, lam, nonnegative, scratch)
    return k, MOVED if settled else STUCK


@_compiled
def _descent_at(drive: Array, held: Held, k: int, gram: Array, out: Array) -> None:
    """c = P^T x + q - H a; four rows of H at a time."""
    out[:] = drive
    n, m = len(out), 0
    while m + 4 <= k:
        i0, i1, i2, i3 = held.atoms[m], held.atoms[m + 1], held.atoms[m + 2], held.atoms[m + 3]
        g0, g1, g2, g3 = gram[i0], gram[i1], gram[i2], gram[i3]
        a0, a1, a2, a3 = held.code[m], held.code[m + 1], held.code[m + 2], held.code[m + 3]
        for j in range(n):
            out[j] -= a0 * g0[j] + a1 * g1[j] + (a2 * g2[j] + a3 * g3[j])
        m += 4
    while m < k:
        g0, a0 = gram[held.atoms[m]], held.code[m]
        for j in range(n):
            out[j] -= a0 * g0[j]
        m += 1


@_compiled
def grow(
    drive: Array, lam: Array, tol: Array, nonnegative: bool, shares: Array, limit: int, matrices: Matrices, held: Held,
    scratch: Scratch, found: Supports,
) -> None:  # fmt: skip
    """Solve signal after signal from nothing, with the Gram matrix.

    `held` and `scratch` serve one signal after the other. A signal that is not solved within `limit` rounds, or whose
    support has no room in `found`, is left with an empty support there.
    """
    c = np.empty(drive.shape[1])
    last = len(shares) - 1
    for i in range(len(drive)):
        found.sizes[i] = found.rounds[i] = 0
        # A size that is a literal at first would have everything compiled twice.
        k, status = int(found.sizes[i]), MOVED
        while status == MOVED and found.rounds[i] < limit:
            if k:
                _descent_at(drive[i], held, k, matrices.gram, c)
            else:
                c[:] = drive[i]
            share = shares[min(found.rounds[i], last)]
            k, status = _advance(c, lam[i], nonnegative, share, tol[i], held, k, scratch, matrices)
            found.rounds[i] += 1
        if status == DONE and k <= found.atoms.shape[1]:
            found.sizes[i] = k
            for m in range(k):
                found.atoms[i, m], found.code[i, m] = held.atoms[m], held.code[m]


@_compiled
def _rebuild(held: Held, k: int, scratch: Scratch, matrices: Matrices) -> bool:
    """Factor H_A for a support whose atoms and entries are given; False where it is singular."""
    for m in range(k):
        held.sign[m] = 1.0 if held.code[m] > 0 else -1.0
        _entries(matrices, held, m, held.atoms[m], scratch.row)
        if _append(held, m, scratch.row, matrices.diagonal[held.atoms[m]]) <= _DEPENDENT:
            return False
    return True


@_compiled
def advance(
    rows: Index, c: Array, lam: Array, tol: Array, nonnegative: bool, shares: Array, matrices: Matrices,
    held: Held, rebuild: bool, scratch: Scratch, found: Supports, status: Index,
) -> None:  # fmt: skip
    """One round of the signals `rows`; the rows of c belong to them. With `rebuild` the factors are made first.

    The arrays of `held` have the signals in front; its atoms and entries are those of `found`, which has their sizes.
    c is overwritten unless the signal is done.
    """
    last = len(shares) - 1
    for at in range(len(rows)):
        i = rows[at]
        own = Held(held.atoms[i], held.code[i], held.sign[i], held.descent[i], held.factor[i], held.inverse[i])
        k = found.sizes[i]
        if rebuild and not _rebuild(own, k, scratch, matrices):
            status[i] = STUCK
            continue
        share = shares[min(found.rounds[i], last)]
        found.sizes[i], status[i] = _advance(c[at], lam[i], nonnegative, share, tol[i], own, k, scratch, matrices)
        found.rounds[i] += 1


@_compiled
def settled(c: Array, lam: Array, tol: Array, nonnegative: bool, found: Supports) -> NDArray[np.bool_]:
    """Whether the conditions of each signal hold within its `tol`, for c = P^T (x - P a) + q - ridge a."""
    out = np.empty(len(c), dtype=np.bool_)
    kept = np.empty(found.atoms.shape[1])
    for i in range(len(c)):
        off, own = 0.0, c[i]
        for m in range(found.sizes[i]):
            atom = found.atoms[i, m]
            kept[m] = own[atom]
            off = max(off, abs(own[atom] - _weight(lam[i], atom) * (1.0 if found.code[i, m] > 0 else -1.0)))
            own[atom] = 0.0
        out[i] = off <= tol[i] and _worst(own, lam[i], nonnegative) <= tol[i]
        for m in range(found.sizes[i]):
            own[found.atoms[i, m]] = kept[m]
    return out


@_compiled
def residual(rows: Index, x: Array, found: Supports, matrix: Array, out: Array) -> None:
    """x - P a of the signals `rows`; `matrix` is P^T."""
    for at in range(len(rows)):
        i, own = rows[at], out[at]
        own[:] = x[i]
        for m in range(found.sizes[i]):
            row, value = matrix[found.atoms[i, m]], found.code[i, m]
            for j in range(len(row)):
                own[j] -= value * row[j]


@_compiled
def scatter(rows: Index, found: Supports, out: Array) -> None:
    """Write the entries of the signals `rows` to the codes `out`, (len(rows), d'), which hold zeros."""
    for at in range(len(rows)):
        i = rows[at]
        for m in range(found.sizes[i]):
            out[at, found.atoms[i, m]] = found.code[i, m]
