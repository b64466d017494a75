"""Rounds of the active set: the atoms that violate their conditions most join, and the code goes to its new minimum."""

from __future__ import annotations

import numpy as np

from vars_dyn.solvers.compiled.loops import compiled, copy, inlined, subtract, weight
from vars_dyn.solvers.compiled.supports import DEPENDENT, append, descend, entries, exchange
from vars_dyn.solvers.compiled.values import (
    BLOCK,
    DONE,
    FULL,
    MOVED,
    STUCK,
    Array,
    Held,
    Index,
    Matrices,
    Scratch,
    Signals,
    Supports,
)

__all__ = ["advance", "each_grown", "evaluate", "grow", "largest_bits", "measure", "measured", "residual", "scatter"]

#: The rounding of c that is expected, relative to sum_i |a_i| |P_i|^2 over the support.
_ROUNDING = 4 * 2.0**-52
#: As many atoms as a support has join at once, or this many. Of coherent atoms nearly all violate their conditions.
_NEW = 8
#: All bits of a number but that of its sign.
_NO_SIGN = (1 << 63) - 1


@inlined
def largest_bits(c: Array, start: int, stop: int, nonnegative: bool) -> np.int64:
    """The largest of c or |c|, at least zero. Non-negative numbers have the order of their bits, as integers have."""
    bits, most, mask = c.view(np.int64), np.int64(0), np.int64(-1 if nonnegative else _NO_SIGN)
    for j in range(start, stop):
        value = bits[j] & mask
        most = value if value > most else most
    return most


@inlined
def _worst(c: Array, lam: Array, nonnegative: bool, blocks: Array) -> float:
    """The largest violation of the conditions of idle atoms; `blocks` receives that of each block of atoms."""
    worst, n = -np.inf, len(c)
    as_bits = blocks.view(np.int64)
    for b in range(len(blocks)):
        start, stop = b * BLOCK, min((b + 1) * BLOCK, n)
        if len(lam) > 1:
            most = -np.inf
            for j in range(start, stop):
                excess = (c[j] if nonnegative else abs(c[j])) - lam[j]
                most = excess if excess > most else most
            blocks[b] = most
        else:
            as_bits[b] = largest_bits(c, start, stop, nonnegative)
            blocks[b] -= lam[0]
        worst = max(worst, blocks[b])
    return worst


@inlined
def _choose(c: Array, lam: Array, nonnegative: bool, floor: float, scratch: Scratch) -> int:
    """The idle atoms that violate their conditions by more than `floor`, the worst first; returns their number."""
    blocks, found = scratch.blocks, scratch.found
    count, worst, n = 0, -np.inf, len(c)
    for b in range(len(blocks)):
        if blocks[b] <= floor:
            continue
        for j in range(b * BLOCK, min((b + 1) * BLOCK, n)):
            excess = (c[j] if nonnegative else abs(c[j])) - (lam[j] if len(lam) > 1 else lam[0])
            if excess > floor:
                found[count] = j
                if excess > worst:
                    worst = excess
                    found[count], found[0] = found[0], j
                count += 1
    return count


@inlined
def _join(
    c: Array, lam: Array, ridge: Array, nonnegative: bool, floor: float, held: Held, k: int, scratch: Scratch,
    matrices: Matrices,
) -> tuple[int, int]:  # fmt: skip
    """Take in the atoms that violate their conditions by more than `floor`."""
    before, most, worst = k, max(k, _NEW), 0.0
    count = _choose(c, lam, nonnegative, floor, scratch)
    if count > most:
        first = scratch.found[0]
        worst = (c[first] if nonnegative else abs(c[first])) - weight(lam, first)
    for _ in range(40):
        if count <= most:
            break
        floor = 0.5 * (floor + worst)
        count = _choose(c, lam, nonnegative, floor, scratch)
    count = min(count, most)
    for number in range(count):
        if k == len(held.atoms):
            return k, FULL if k == before else MOVED
        atom = scratch.found[number]
        sign = 1.0 if c[atom] > 0 else -1.0
        entries(matrices, held, k, atom, scratch.row)
        diagonal = matrices.diagonal[atom] + weight(ridge, atom)
        share = append(held, k, scratch.row, diagonal)
        value = 0.0
        if share <= DEPENDENT:
            if number > 0:
                continue
            k, value = exchange(held, k, lam, sign, scratch)
            if value == 0:
                return k, STUCK
            entries(matrices, held, k, atom, scratch.row)
            if append(held, k, scratch.row, diagonal) <= DEPENDENT:
                return k, STUCK
        held.atoms[k], held.code[k], held.sign[k], held.descent[k] = atom, value, sign, c[atom]
        k += 1
        if value != 0:
            break
    return k, MOVED


@inlined
def _advance(
    c: Array, lam: Array, ridge: Array, nonnegative: bool, share: float, tol: float, held: Held, k: int,
    scratch: Scratch, matrices: Matrices,
) -> tuple[int, int]:  # fmt: skip
    """One round: the worst violators join, and the code goes to the minimum over its support.

    c is P^T (x - P a) + q - ridge a of the code, for all atoms. Those with a violation above `share` of the worst join.
    """
    off = reach = 0.0
    for m in range(k):
        atom = held.atoms[m]
        held.descent[m] = c[atom]
        off = max(off, abs(c[atom] - weight(lam, atom) * held.sign[m]))
        reach += abs(held.code[m]) * (matrices.diagonal[atom] + weight(ridge, atom))
        c[atom] = 0.0
    # Large entries that cancel one another leave c with their rounding.
    tol = max(tol, _ROUNDING * reach)
    worst = _worst(c, lam, nonnegative, scratch.blocks)
    if worst <= tol and off <= tol:
        for m in range(k):
            c[held.atoms[m]] = held.descent[m]
        return k, DONE
    if worst > tol and worst > off:
        k, status = _join(c, lam, ridge, nonnegative, max(share * worst, tol), held, k, scratch, matrices)
        if status != MOVED:
            return k, status
    k, settled = descend(held, k, lam, nonnegative, scratch)
    return k, MOVED if settled else STUCK


@inlined
def _shrink(c: Array, ridge: Array, atoms: Index, code: Array, k: int) -> None:
    """Take ridge a from c, for a code on `atoms`."""
    for m in range(k):
        c[atoms[m]] -= weight(ridge, atoms[m]) * code[m]


@inlined
def evaluate(i: int, signals: Signals, code: Array, atoms: Index, k: int, matrices: Matrices, scratch: Scratch) -> None:
    """r = x - P a and c = P^T r + q - ridge a of the signal i, for its code on `atoms`."""
    r, c, minus = signals.r[i], signals.c[i], scratch.residual
    copy(signals.x[i], r)
    subtract(code, atoms, k, matrices.atoms, r)
    for j in range(len(r)):
        minus[j] = -r[j]
    if len(signals.bias):
        copy(signals.bias[i], c)
    else:
        for j in range(len(c)):
            c[j] = 0.0
    subtract(minus, scratch.entries, len(r), matrices.rows, c)
    _shrink(c, signals.ridge[i], atoms, code, k)


@inlined
def each_grown(
    signals: Signals, nonnegative: bool, shares: Array, limit: int, run: int, matrices: Matrices, held: Held,
    scratch: Scratch, found: Supports,
) -> None:  # fmt: skip
    """Solve signal after signal; each `run` of them is one signal with several lam, and starts from nothing.

    With a Gram matrix c is computed from it, and `signals` stays as it is. Without one it is computed from x - P a, and
    r and c of `signals` are left at what they are for the code that was found. `held` and `scratch` serve one signal
    after the other. A signal that is not solved within `limit` rounds, or whose support has no room in `found`, is left
    with an empty support there.
    """
    last, with_gram, status = len(shares) - 1, len(matrices.gram) > 0, MOVED
    # A size that is a literal at first would have everything compiled twice.
    k = int(found.sizes[0]) if len(found.sizes) else len(found.sizes)
    for i in range(len(signals.x)):
        c = scratch.descent if with_gram else signals.c[i]
        found.sizes[i] = found.rounds[i] = 0
        # The support of the lam before is a start, and c is known there.
        warm = i % run > 0 and status == DONE
        lam, ridge, tol = signals.lam[i], signals.ridge[i], signals.tol[i]
        while True:
            if not warm:
                copy(signals.drive[i], c)
                k = int(found.sizes[i])
            elif not with_gram:
                copy(signals.c[i - 1], c)
                copy(signals.r[i - 1], signals.r[i])
            status = MOVED
            while found.rounds[i] < limit:
                share = shares[min(found.rounds[i], last)]
                k, status = _advance(c, lam, ridge, nonnegative, share, tol, held, k, scratch, matrices)
                found.rounds[i] += 1
                if status != MOVED:
                    break
                if with_gram:
                    copy(signals.drive[i], c)
                    subtract(held.code, held.atoms, k, matrices.gram, c)
                    _shrink(c, ridge, held.atoms, held.code, k)
                else:
                    evaluate(i, signals, held.code, held.atoms, k, matrices, scratch)
            if status == DONE or not warm:
                break
            warm, found.rounds[i] = False, 0
        if status == DONE and k <= found.atoms.shape[1]:
            found.sizes[i] = k
            for m in range(k):
                found.atoms[i, m], found.code[i, m] = held.atoms[m], held.code[m]


@compiled
def grow(
    signals: Signals, nonnegative: bool, shares: Array, limit: int, run: int, matrices: Matrices, held: Held,
    scratch: Scratch, found: Supports,
) -> None:  # fmt: skip
    """`each_grown`, to be called from Python."""
    each_grown(signals, nonnegative, shares, limit, run, matrices, held, scratch, found)


@inlined
def _rebuild(held: Held, k: int, ridge: Array, scratch: Scratch, matrices: Matrices) -> bool:
    """Factor H_A for a support whose atoms and entries are given; False where it is singular."""
    for m in range(k):
        held.sign[m] = 1.0 if held.code[m] > 0 else -1.0
        atom = held.atoms[m]
        entries(matrices, held, m, atom, scratch.row)
        if append(held, m, scratch.row, matrices.diagonal[atom] + weight(ridge, atom)) <= DEPENDENT:
            return False
    return True


@compiled
def advance(
    rows: Index, c: Array, signals: Signals, nonnegative: bool, shares: Array, matrices: Matrices, held: Held,
    rebuild: bool, scratch: Scratch, found: Supports, status: Index,
) -> None:  # fmt: skip
    """One round of the signals `rows`; the rows of c belong to them. With `rebuild` the factors are made first.

    The arrays of `held` have the signals in front; its atoms and entries are those of `found`, which has their sizes.
    c is overwritten unless the signal is done.
    """
    last = len(shares) - 1
    for at in range(len(rows)):
        i = rows[at]
        own = Held(held.atoms[i], held.code[i], held.sign[i], held.descent[i], held.factor[i], held.inverse[i])
        k, ridge = found.sizes[i], signals.ridge[i]
        if rebuild and not _rebuild(own, k, ridge, scratch, matrices):
            status[i] = STUCK
            continue
        share, lam, tol = shares[min(found.rounds[i], last)], signals.lam[i], signals.tol[i]
        found.sizes[i], status[i] = _advance(c[at], lam, ridge, nonnegative, share, tol, own, k, scratch, matrices)
        found.rounds[i] += 1


@inlined
def measured(signals: Signals, nonnegative: bool, found: Supports, scratch: Scratch, out: Array) -> None:
    """The sums of `vars_dyn.certificates.Sums` of each signal, (n, 5), from its support and its c."""
    for i in range(len(out)):
        off, length, pulled, largest = -np.inf, 0.0, 0.0, 0.0
        lam, c = signals.lam[i], signals.c[i]
        for m in range(found.sizes[i]):
            atom, value = found.atoms[i, m], found.code[i, m]
            here = c[atom]
            scratch.row[m] = here
            off = max(off, abs(here - weight(lam, atom) * (1.0 if value > 0 else -1.0)))
            length += abs(value)
            pulled += value * here
            largest = max(largest, here if nonnegative else abs(here))
            c[atom] = 0.0
        if len(lam) > 1:
            idle = _worst(c, lam, nonnegative, scratch.blocks)
        else:
            scratch.blocks.view(np.int64)[0] = largest_bits(c, 0, len(c), nonnegative)
            largest, idle = max(largest, scratch.blocks[0]), scratch.blocks[0] - lam[0]
        out[i, 0], out[i, 1], out[i, 2], out[i, 3], out[i, 4] = found.sizes[i], length, largest, pulled, max(off, idle)
        for m in range(found.sizes[i]):
            c[found.atoms[i, m]] = scratch.row[m]


@compiled
def measure(signals: Signals, nonnegative: bool, found: Supports, scratch: Scratch, out: Array) -> None:
    """`measured`, to be called from Python."""
    measured(signals, nonnegative, found, scratch, out)


@compiled
def residual(rows: Index, x: Array, found: Supports, matrix: Array, out: Array) -> None:
    """x - P a of the signals `rows`; `matrix` is P^T."""
    for at in range(len(rows)):
        i = rows[at]
        copy(x[i], out[at])
        subtract(found.code[i], found.atoms[i], found.sizes[i], matrix, out[at])


@compiled
def scatter(rows: Index, found: Supports, out: Array) -> None:
    """Write the entries of the signals `rows` to the codes `out`, (len(rows), d'), which hold zeros."""
    for at in range(len(rows)):
        i = rows[at]
        for m in range(found.sizes[i]):
            out[at, found.atoms[i, m]] = found.code[i, m]
