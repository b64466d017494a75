"""What the compiled active set needs for all signals of a dictionary, and the threads that it works in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vars_dyn.solvers.compiled.values import Held, Matrices, Scratch, Signals, Supports
from vars_dyn.solvers.proposals import ENOUGH

__all__ = ["ACCURACY", "FEWEST", "SHARES", "Work", "available", "grown", "kernels", "room", "round_limit"]

#: An atom joins if its violation is at least a share of the worst one; the share of each round, and of all after them.
SHARES = np.array([0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
#: How far the conditions may fail, relative to |P^T x| + lam: a fifth of what `Proposing` asks for, since rounding is
#: added.
ACCURACY = 0.2 * ENOUGH * torch.finfo(torch.float64).eps
#: The fewest signals that are worth a thread.
FEWEST = 64


@cache
def available() -> bool:
    """Whether numba is installed."""
    try:
        return find_spec("numba") is not None
    except ValueError:  # its import is blocked
        return False


@cache
def kernels() -> Any:
    """The compiled loops."""
    # deferred: needs numba, which is optional and takes time to import
    from vars_dyn.solvers.compiled import rounds

    return rounds


def room(d: int, atoms: int, *, ridged: bool = False) -> int:
    """Room for the atoms of any support of signals with d entries."""
    # Independent atoms are no more than a signal has entries. One more is seen to depend on them once it is there.
    return atoms if ridged else min(d + 1, atoms)


def round_limit(widest: int, limit: int) -> int:
    """The most rounds, where callers allow `limit`."""
    return min(limit, 50 + 4 * widest)


class Work(NamedTuple):
    """What all signals share.

    Attributes:
        weight: P, (d, d').
        matrices: P and G for the compiled loops.
        nonnegative: whether codes must not be negative.
        limit: the most rounds.
        widest: room for the atoms of any support.
        scratch: room to work on one signal.
        run: how many signals on end are the same one with a smaller lam each, whose search goes on from the last.
    """

    weight: Tensor
    matrices: Matrices
    nonnegative: bool
    limit: int
    widest: int
    scratch: Scratch
    run: int = 1

    @classmethod
    def of(
        cls, weight: Tensor, nonnegative: bool, limit: int, *, with_gram: bool, ridged: bool = False, run: int = 1
    ) -> Work:
        """What signals share for P = `weight`, (d, d'), and at most `limit` rounds; G is computed if `with_gram`."""
        d, atoms = weight.shape
        gram = weight.new_empty(0, 0)
        if with_gram:
            gram = weight.mT @ weight
            diagonal = gram.diagonal().contiguous()
        else:
            diagonal = weight.square().sum(0)
        columns, known = weight.mT.contiguous().numpy(), np.empty(0, dtype=np.bool_)
        matrices = Matrices(weight.numpy(), columns, gram.numpy(), diagonal.numpy(), known)
        widest = room(d, atoms, ridged=ridged)
        scratch = Scratch.of(widest, d, atoms)
        return cls(weight, matrices, nonnegative, round_limit(widest, limit), widest, scratch, run)


def grown(signals: Signals, work: Work, found: Supports) -> None:
    """Solve the signals from nothing, in as many threads as torch uses; the compiled loops hold no lock."""

    def solve(rows: slice) -> None:
        own, to = Signals(*(part[rows] for part in signals)), found.select(rows)
        scratch, held = Scratch.of(work.widest, *work.weight.shape), Held.of(work.widest)
        kernels().grow(own, work.nonnegative, SHARES, work.limit, work.run, work.matrices, held, scratch, to)

    n = len(signals.x) // work.run
    threads = min(torch.get_num_threads(), n // FEWEST)
    if threads < 2:
        solve(slice(None))
        return
    ends = [n * i // threads * work.run for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(solve, map(slice, ends[:-1], ends[1:])):
            pass  # an error in a thread is raised here
