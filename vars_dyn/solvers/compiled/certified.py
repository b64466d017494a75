"""Certificates by compiled loops, and a whole call for few signals: search, residuals and certificates at once.

For a few small signals the fixed cost of some hundred tensor operations is many times that of the arithmetic. The
certificate is that of `vars_dyn.certificates` for a problem without weights, bias and ridge, term by term, with the
largest of the atoms' norms in the place of each.
"""

from __future__ import annotations

import numpy as np

from vars_dyn.certificates import DENSE, LOST, SLACK
from vars_dyn.solvers.compiled.loops import compiled, copy, exactly, inlined, square
from vars_dyn.solvers.compiled.rounds import each_grown, evaluate, largest_bits, measured
from vars_dyn.solvers.compiled.values import BLOCK, Array, Call, Held, Index, Matrices, Scratch, Signals, Supports

__all__ = ["certify", "narrow", "solve_few"]

#: The unit roundoff.
_U = 2.0**-53
#: Squared norms of atoms outside this range, or further apart than the factor, are left to the general certificate.
_LEAST, _MOST, _APART = 2.0**-24, 2.0**24, 4.0
#: So is a lam outside of two to the plus or minus this.
_LAM = 300
#: The bits of one, and how many of them precede the exponent.
_ONE, _MANTISSA = np.int64(1023 << 52), np.int64(52)


@exactly
def _bounds(
    k: int, length: float, most: float, pulled: float, violation: float, residual: float, signal: float, lam: float,
    norm: float, d: int, atoms: int,
) -> tuple[float, float, float]:  # fmt: skip
    """The relative gap, the KKT residual and its rounding of one signal; `vars_dyn.certificates.certify` names them."""
    some = k > 0
    lost = d * LOST if residual > 0 or some else 0.0
    reach, paid = length * norm, lam * length
    off = SLACK * _U * ((min(k, atoms) + 2) * reach + residual) + lost * (atoms + length)
    loose = SLACK * (_U * (d + 2) * residual + off) * norm + lost * (1 + residual + length)
    norm_of_c, s = max(most + loose, 0.0), 1.0
    if norm_of_c > lam:
        s = (1 - 4 * _U) * lam / norm_of_c
        if s < DENSE or lam < DENSE:
            s = 0.0
    square_of_r = ((1 + (d + 4) * _U) * residual + off) ** 2 + lost
    drawn = s * pulled
    linear = max(paid - drawn, 0.0) + 2 * _U * (k + 8) * (3 * paid + abs(drawn)) + LOST * length
    linear += s * length * loose
    if some:
        linear += lost
    gap = (0.5 * (1 - s) ** 2 * square_of_r + linear) * (1 + 64 * _U)
    if gap > 0:
        gap = gap / (0.5 * signal * (1 - (d + 8) * _U)) * (1 + 4 * _U) if signal > 0 else np.inf
    return gap, max((violation + loose) * (1 + 4 * _U), 0.0), loose


@inlined
def _certified(
    signals: Signals, norm: float, call: Call, found: Supports, scratch: Scratch, code: Array, values: Array
) -> int:
    """Certify the codes of the supports `found`, whose r and c are in `signals`, and write them to `code` (n, d').

    `norm` is at least the norm of every atom. `code` must hold zeros. The rows of `values`, (2, n), receive the
    relative gap and the KKT residual. Returns how many signals fall short of the goals of `call`. In double precision a
    KKT residual that consists of rounding is small enough, too.
    """
    sums, short = np.empty((len(code), 5)), 0
    measured(signals, call.nonnegative, found, scratch, sums)
    d, atoms = signals.x.shape[1], code.shape[1]
    for i in range(len(code)):
        k, lam = found.sizes[i], signals.lam[i, 0]
        gap, kkt, rounding = _bounds(
            k, sums[i, 1], sums[i, 2], sums[i, 3], sums[i, 4], np.sqrt(square(signals.r[i])), square(signals.x[i]),
            lam, norm, d, atoms,
        )  # fmt: skip
        values[0, i], values[1, i] = gap, kkt
        scale = _number(largest_bits(signals.drive[i], 0, atoms, False)) + lam
        if not (gap <= call.tol and kkt <= call.enough * scale) and (call.single or not kkt <= 2 * rounding):
            short += 1
        for m in range(k):
            code[i, found.atoms[i, m]] = found.code[i, m]
    return short


@inlined
def _narrowed(found: Supports) -> None:
    """Round the codes to single precision. A support of which an entry becomes zero is emptied."""
    short = np.empty(1, dtype=np.float32)
    for i in range(len(found.sizes)):
        for m in range(found.sizes[i]):
            short[0] = found.code[i, m]
            found.code[i, m] = short[0]
            if short[0] == 0:
                found.sizes[i] = 0
                break


@inlined
def _number(bits: np.int64) -> float:
    """The number that has these bits."""
    one = np.empty(1, dtype=np.int64)
    one[0] = bits
    return one.view(np.float64)[0]


@inlined
def _within(bits: np.int64, reach: int) -> bool:
    """Whether the number of these bits is zero, or between two to the -`reach` and two to the `reach`."""
    return bool(bits == 0 or abs((bits - _ONE) >> _MANTISSA) <= reach)


@exactly
def _norm(rows: Array, diagonal: Array) -> float:
    """The largest norm of an atom; zero where one of them is out of range. `diagonal` receives the squares."""
    for j in range(len(diagonal)):
        diagonal[j] = 0.0
    for i in range(len(rows)):
        row = rows[i]
        for j in range(len(diagonal)):
            diagonal[j] += row[j] * row[j]
    # Integers have the order of non-negative numbers, and NaN counts as large.
    bits = diagonal.view(np.int64)
    low = high = bits[0]
    for j in range(len(bits)):
        low, high = min(low, bits[j]), max(high, bits[j])
    least, most = _number(low), _number(high)
    if high >= _bits(_MOST) or low <= _bits(_LEAST) or most > _APART * least:
        return 0.0
    return np.sqrt(most)


@inlined
def _bits(number: float) -> np.int64:
    one = np.empty(1)
    one[0] = number
    return one.view(np.int64)[0]


@compiled
def certify(
    signals: Signals, norm: float, call: Call, found: Supports, scratch: Scratch, code: Array, values: Array
) -> int:
    """`_certified`, to be called from Python."""
    return _certified(signals, norm, call, found, scratch, code, values)


@compiled
def narrow(found: Supports) -> None:
    """`_narrowed`, to be called from Python."""
    _narrowed(found)


@compiled
def solve_few(
    x: Array, rows: Array, lam: Array, call: Call, shares: Array, code: Array, values: Array, rounds: Index
) -> int:
    """Solve and certify signals x (n, d) one after the other, for P = `rows` (d, d'); returns how many fall short.

    It returns -1, and writes nothing, where numbers lie outside a range in which nothing overflows or underflows. A
    signal that is not solved has a code of zeros. The other arguments are those of `grow` and `certify`.
    """
    n, (d, atoms) = len(x), rows.shape
    diagonal = np.empty(atoms)
    norm = _norm(rows, diagonal)
    if norm == 0:
        return -1
    for i in range(n):
        weight = _bits(lam[i, 0])
        if weight <= 0 or not _within(weight, _LAM) or not _within(largest_bits(x[i], 0, d, False), call.reach):
            return -1
    none = np.empty((0, 0))
    known = np.zeros(atoms, dtype=np.bool_)
    matrices = Matrices(rows, np.empty((atoms, d)), none, diagonal, known)
    drive, within = np.empty((n, atoms)), np.empty(n)
    signals = Signals(x, drive, none, lam, np.zeros((n, 1)), within, np.empty((n, d)), np.empty((n, atoms)))
    room = (np.empty(call.widest), np.empty(call.widest), np.empty(call.widest), np.empty(call.widest))
    scratch = Scratch(
        room[0], room[1], room[2], room[3], np.empty(d), np.empty(atoms), np.empty(atoms, dtype=np.int64),
        np.empty(-(-atoms // BLOCK)), np.arange(d),
    )  # fmt: skip
    held = Held(
        np.empty(call.widest, dtype=np.int64), np.empty(call.widest), np.empty(call.widest), np.empty(call.widest),
        np.empty((call.widest, call.widest)), np.empty(call.widest),
    )  # fmt: skip
    found = Supports(
        np.zeros(n, dtype=np.int64), np.empty((n, call.widest), dtype=np.int64), np.empty((n, call.widest)), rounds
    )
    for i in range(n):
        evaluate(i, signals, held.code, held.atoms, 0, matrices, scratch)
        copy(signals.c[i], drive[i])
        within[i] = call.accuracy * (_number(largest_bits(drive[i], 0, atoms, False)) + lam[i, 0])
    each_grown(signals, call.nonnegative, shares, call.limit, call.run, matrices, held, scratch, found)
    if call.single:
        _narrowed(found)
    for i in range(n):
        if call.single or found.sizes[i] == 0:
            evaluate(i, signals, found.code[i], found.atoms[i], found.sizes[i], matrices, scratch)
    return _certified(signals, norm, call, found, scratch, code, values)
