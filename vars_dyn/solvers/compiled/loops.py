"""The compiler, and loops over whole rows. Only this package's compiled loops import it, because it needs numba."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba

from vars_dyn.solvers.compiled.values import Array, Index

__all__ = ["compiled", "copy", "exactly", "inlined", "square", "subtract", "weight"]

#: How the kernels may reorder sums. Neither NaN nor infinity occurs in them.
_ORDER = {"reassoc", "contract", "nsz", "arcp", "nnan"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled at its first call and kept on the disk; it holds no lock of the interpreter.

    It must call `inlined` functions only. A call of another compiled function is bound to whichever copy of that a
    process happens to load first, and the copies round differently: the process that compiles would give other last
    bits than those after it.

    What is kept counts as current while the function's own file stays the same. After a change to another file that it
    calls, delete the package's `__pycache__`.
    """
    return numba.njit(inspect.unwrap(function), cache=True, nogil=True, error_model="numpy", fastmath=_ORDER)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, for functions inside loops: each array among the arguments of a real call costs seven words."""
    # A checker of types that wraps functions must stay outside.
    return numba.njit(
        inspect.unwrap(function), cache=True, nogil=True, error_model="numpy", fastmath=_ORDER, forceinline=True
    )


def exactly(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `inlined`, but in the order in which it is written, and with NaN and infinity as they are."""
    return numba.njit(inspect.unwrap(function), cache=True, nogil=True, error_model="numpy", forceinline=True)


@inlined
def square(values: Array) -> float:
    """The sum of squares."""
    total = 0.0
    for i in range(len(values)):
        total += values[i] * values[i]
    return total


@inlined
def copy(values: Array, to: Array) -> None:
    """Copy by a loop, since an assignment of a slice would take memory."""
    for i in range(len(to)):
        to[i] = values[i]


@inlined
def weight(lam: Array, atom: int) -> float:
    """lam w of an atom."""
    return lam[atom] if len(lam) > 1 else lam[0]


@inlined
def subtract(values: Array, atoms: Index, k: int, rows: Array, out: Array) -> None:
    """Subtract sum_m values_m rows_atoms_m from `out`, four rows at a time."""
    n, m = len(out), 0
    while m + 4 <= k:
        i0, i1, i2, i3 = atoms[m], atoms[m + 1], atoms[m + 2], atoms[m + 3]
        g0, g1, g2, g3 = rows[i0], rows[i1], rows[i2], rows[i3]
        a0, a1, a2, a3 = values[m], values[m + 1], values[m + 2], values[m + 3]
        for j in range(n):
            out[j] -= a0 * g0[j] + a1 * g1[j] + (a2 * g2[j] + a3 * g3[j])
        m += 4
    while m < k:
        g0, a0 = rows[atoms[m]], values[m]
        for j in range(n):
            out[j] -= a0 * g0[j]
        m += 1
