"""What the compiled loops work on. It can be imported without numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "DONE",
    "FULL",
    "MOVED",
    "STUCK",
    "Array",
    "Call",
    "Held",
    "Index",
    "Matrices",
    "Scratch",
    "Signals",
    "Supports",
]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: What became of a signal: its conditions hold, its code moved, no atom has room to join, or no progress is possible.
DONE, MOVED, FULL, STUCK = 0, 1, 2, 3
#: How many atoms are looked at together.
BLOCK = 32


class Call(NamedTuple):
    """What a whole call asks for.

    Attributes:
        nonnegative: whether codes must not be negative.
        single: whether codes are rounded to single precision, and certified as such.
        reach: signals lie between two to the minus and to the plus this, or the call cannot be taken.
        limit: the most rounds of a signal.
        widest: room for the atoms of any support.
        run: how many signals on end are the same one with a smaller lam each.
        accuracy: how far the search may let the conditions fail, relative to max |P^T x| + lam.
        tol, enough: the relative gap, and the KKT residual relative to max |P^T x| + lam, that are short of no goal.
    """

    nonnegative: bool
    single: bool
    reach: int
    limit: int
    widest: int
    run: int
    accuracy: float
    tol: float
    enough: float


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

    @classmethod
    def of(cls, room: int, *lead: int) -> Held:
        """Room for supports of up to `room` atoms."""
        shapes = (room,), (room,), (room,), (room, room), (room,)
        return cls(np.empty((*lead, room), dtype=np.int64), *(np.empty((*lead, *shape)) for shape in shapes))


class Supports(NamedTuple):
    """The supports of n signals: `sizes` (n,), `atoms` and `code` (n, room), and the `rounds` that they took, (n,)."""

    sizes: Index
    atoms: Index
    code: Array
    rounds: Index

    @classmethod
    def empty(cls, n: int, room: int) -> Supports:
        """Empty supports with room for `room` atoms each."""
        sizes, rounds = np.zeros((2, n), dtype=np.int64)
        return cls(sizes, np.empty((n, room), dtype=np.int64), np.empty((n, room)), rounds)

    def select(self, rows: Index | slice) -> Supports:
        """The supports of the signals `rows`; with a slice they share the memory of these."""
        return Supports(self.sizes[rows], self.atoms[rows], self.code[rows], self.rounds[rows])

    def widened(self, room: int) -> Supports:
        """These supports with room for `room` atoms at least."""
        old = self.atoms.shape[1]
        if room <= old:
            return self
        wide = Supports.empty(len(self.sizes), room)
        wide.atoms[:, :old], wide.code[:, :old] = self.atoms, self.code
        return wide._replace(sizes=self.sizes, rounds=self.rounds)


class Signals(NamedTuple):
    """n signals.

    Attributes:
        x: (n, d).
        drive: P^T x + q, (n, d').
        bias: q, (n, d'), or empty.
        lam: lam w, (n, d'), or (n, 1) without weights.
        ridge: (n, d'), or (n, 1) where it is the same for all atoms.
        tol: within which the conditions are to hold, (n,).
        r, c: x - P a, and P^T (x - P a) + q - ridge a.
    """

    x: Array
    drive: Array
    bias: Array
    lam: Array
    ridge: Array
    tol: Array
    r: Array
    c: Array


class Scratch(NamedTuple):
    """Room to work in: four arrays as long as a support, and others; `entries` counts the entries of a signal."""

    right: Array
    step: Array
    row: Array
    cosine: Array
    residual: Array
    descent: Array
    found: Index
    blocks: Array
    entries: Index

    @classmethod
    def of(cls, room: int, d: int, atoms: int) -> Scratch:
        """Room for supports of up to `room` atoms."""
        blocks, found = np.empty(-(-atoms // BLOCK)), np.empty(atoms, dtype=np.int64)
        right, step, row, cosine = np.empty((4, room))
        return cls(right, step, row, cosine, np.empty(d), np.empty(atoms), found, blocks, np.arange(d))


class Matrices(NamedTuple):
    """The dictionary.

    Attributes:
        rows, atoms: P, (d, d'), and P^T, (d', d).
        gram: G, (d', d'), or empty where entries of G are to be computed from `atoms`.
        diagonal: the diagonal of G, (d',).
        known: which rows of `atoms` are filled in, (d',); the others are when their atoms join. Empty: all are.
    """

    rows: Array
    atoms: Array
    gram: Array
    diagonal: Array
    known: NDArray[np.bool_]
