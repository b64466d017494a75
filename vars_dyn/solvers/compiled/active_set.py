"""An active set for each signal by compiled loops, on a dictionary that all signals share.

Where few atoms are active, solving one signal after the other in a processor's cache is faster than any step for all
signals at once. The loops need numba, the extra `fast`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vars_dyn.certificates import Sums
from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.penalties import L1, NonNegativeL1
from vars_dyn.problems import SparseProblem
from vars_dyn.raw_problems import Residuals
from vars_dyn.solvers.compiled import calls
from vars_dyn.solvers.compiled.values import (
    DONE,
    FULL,
    MOVED,
    STUCK,
    Array,
    Held,
    Index,
    Signals,
    Supports,
)
from vars_dyn.solvers.compiled.work import ACCURACY, FEWEST, SHARES, Work, available, grown, kernels
from vars_dyn.solvers.methods import Found, Goal
from vars_dyn.solvers.proposals import Proposal, Proposing
from vars_dyn.solvers.support_systems import is_small

__all__ = ["CompiledActiveSet", "available"]

#: How many numbers of codes are worked on at once, so that they stay in a processor's cache.
_CHUNK = 1 << 18
#: There is a Gram matrix if there are at least this many signals for each atom.
_SIGNALS_PER_ATOM = 0.25
#: Fewer signals than this are solved one after the other, and so are those whose P^T x takes few multiply-adds. Others
#: without a Gram matrix are solved in rounds of all together.
_FEW, _SMALL = 8, 1 << 20
#: The room for a support at first.
_ROOM = 32
#: The most numbers in the factors of signals that are worked on at once.
_FACTORS = 1 << 24


class CompiledActiveSet(Proposing):
    """An active set for each signal: atoms join and leave, and E falls, until the optimality conditions hold.

    FISTA goes on from there for signals that fall short of their certificates.

    Args:
        run: how many signals on end are the same one with a smaller lam each, so that each starts from the last.
    """

    def __init__(self, run: int = 1) -> None:
        self.run = run

    def suits(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> bool:
        """True with numba, for codes that are to be polished and a dictionary that all share, on the CPU."""
        dictionary = problem.dictionary
        return (
            start is None
            and goal.polish
            and available()
            and not dictionary.batch_shape
            and (isinstance(dictionary, DenseDictionary) or is_small(dictionary))
            and type(problem.penalty) in (L1, NonNegativeL1)
            and problem.x.dtype in (torch.float32, torch.float64)
            and problem.x.device.type == "cpu"
            and bool((problem.lam > 0).all())
        )

    def at_once(self, problem: SparseProblem, goal: Goal) -> Found | None:
        """Codes of a LASSO of few signals, where the fixed costs of other ways would be most of the time."""
        if not (goal.polish and available() and calls.suits(problem)):
            return None
        (d, atoms), n = problem.dictionary.tensors()[0].shape, problem.lam.numel()
        if n >= _SIGNALS_PER_ATOM * atoms:
            return calls.with_gram(problem, goal, self.run) if n * atoms <= _CHUNK else None
        return calls.few(problem, goal, self.run) if n < _FEW or n * d * atoms <= _SMALL else None

    def propose(self, problem: SparseProblem, goal: Goal) -> Proposal:
        """Codes for every signal, some signals at a time. Single precision is worked on in double precision."""
        if problem.x.dtype != torch.float64:
            wide = self.propose(problem.to(dtype=torch.float64), goal)
            code = wide.found.code.to(problem.x.dtype)
            return Proposal(Found.certified(problem, code, wide.found.iterations), wide.scale.to(code.dtype))
        n, dictionary = len(problem.x), problem.dictionary
        weight = dictionary.matrix().reshape(dictionary.signal_size, -1).contiguous()
        gram = n >= _SIGNALS_PER_ATOM * dictionary.code_size
        ridged = bool(torch.as_tensor(problem.ridge).any())
        work = Work.of(weight, problem.nonnegative, goal.max_iterations, with_gram=gram, ridged=ridged, run=self.run)
        rows = max(_CHUNK // dictionary.code_size, FEWEST * torch.get_num_threads())
        rows = -(-rows // self.run) * self.run
        if rows >= n:
            return _solved(problem, work)
        pieces = torch.arange(n).split(rows)
        code = torch.empty(n, *dictionary.code_shape, dtype=torch.float64)
        done = [_solved(problem.select(index), work, code[index[0] : index[-1] + 1]) for index in pieces]
        found = Found(code, *(torch.cat(parts) for parts in zip(*(one.found[1:] for one in done), strict=True)))
        final = torch.cat([one.final for one in done if one.final is not None])
        return Proposal(found, torch.cat([one.scale for one in done]), final)


class _State(NamedTuple):
    """Signals with their supports, and with x - P a and c in `signals`; `bias` is q, or None."""

    signals: Signals
    found: Supports
    bias: Tensor | None

    def select(self, rows: Index) -> _State:
        """The signals `rows`, copied."""
        signals = Signals(*(part[rows] if len(part) else part for part in self.signals))
        bias = None if self.bias is None else self.bias[torch.from_numpy(rows)]
        return _State(signals, self.found.select(rows), bias)

    def put(self, rows: Index, other: _State) -> _State:
        """These signals, with `other` in the place of `rows`."""
        self.signals.r[rows], self.signals.c[rows] = other.signals.r, other.signals.c
        found = self.found.widened(other.found.atoms.shape[1])
        for part, new in zip(found, other.found, strict=True):
            part[(rows, slice(0, new.shape[1])) if new.ndim > 1 else rows] = new
        return self._replace(found=found)

    def evaluate(self, rows: Index, work: Work) -> Array:
        """Compute r and c of the signals `rows` again from their supports, and return their c."""
        r = np.empty((len(rows), self.signals.x.shape[1]))
        kernels().residual(rows, self.signals.x, self.found, work.matrices.atoms, r)
        c = torch.from_numpy(r) @ work.weight
        if self.bias is not None:
            c += self.bias[torch.from_numpy(rows)]
        ridge = torch.from_numpy(self.signals.ridge[rows])
        if bool(ridge.any()):
            code = torch.zeros_like(c)
            kernels().scatter(rows, self.found, code.numpy())
            c.addcmul_(ridge, code, value=-1)
        self.signals.r[rows], self.signals.c[rows] = r, c.numpy()
        return c.numpy()


def _solved(problem: SparseProblem, work: Work, code: Tensor | None = None) -> Proposal:
    """The proposal for signals that are worked on together; their codes are written to `code`, where it is given."""
    loops, n, (d, atoms) = kernels(), len(problem.x), work.weight.shape
    x = problem.x.reshape(n, d).contiguous()
    drive = x @ work.weight

    def per_atom(value: Tensor) -> Tensor:
        return value.expand(*problem.batch_shape, *problem.dictionary.code_shape).reshape(n, atoms).contiguous()

    bias = None if problem.bias is None else per_atom(problem.bias)
    drive = drive if bias is None else drive + bias
    if problem.weights is None:
        lam, scale = problem.lam[:, None].contiguous(), drive.abs().amax(-1) + problem.lam
    else:
        lam, scale = per_atom(problem.weight), problem.size_of_descent()
    ridge = torch.as_tensor(problem.ridge, dtype=torch.float64)
    each = ridge.ndim > 0 and math.prod(ridge.shape[-len(problem.dictionary.code_shape) :]) > 1
    ridge = per_atom(ridge) if each else ridge.reshape(-1, 1).expand(n, 1).contiguous()
    tol = ACCURACY * scale
    r, c = torch.empty_like(x), torch.empty_like(drive)
    own = (torch.empty(0, 0, dtype=torch.float64) if bias is None else bias).numpy()
    signals = Signals(x.numpy(), drive.numpy(), own, lam.numpy(), ridge.numpy(), tol.numpy(), r.numpy(), c.numpy())
    every, with_gram = np.arange(n), len(work.matrices.gram) > 0
    alone = with_gram or n < _FEW or n * d * atoms <= _SMALL or work.run > 1
    state = _State(signals, Supports.empty(n, work.widest if alone else min(_ROOM, work.widest)), bias)
    if alone:
        grown(signals, work, state.found)
    # Without a Gram matrix r and c are known already, except where no support was found.
    unknown = every if with_gram or not alone else (state.found.sizes == 0).nonzero()[0]
    if len(unknown):
        state.evaluate(unknown, work)
    sums = np.empty((n, 5))
    loops.measure(signals, work.nonnegative, state.found, work.scratch, sums)
    left = (sums[:, 4] > signals.tol).nonzero()[0]
    if len(left):
        state = _settled(state, work, left, state.found.atoms.shape[1])
        loops.measure(signals, work.nonnegative, state.found, work.scratch, sums)
    code = torch.empty(n, *problem.dictionary.code_shape, dtype=torch.float64) if code is None else code
    code.zero_()
    loops.scatter(every, state.found, code.view(n, atoms).numpy())
    residuals = Residuals(r.reshape(problem.x.shape), c.reshape(code.shape))
    of = Sums(*torch.from_numpy(np.ascontiguousarray(sums.T)))
    _, gap, kkt, rounding = problem.certify(code, residuals, sums=of)
    return Proposal(Found(code, gap, kkt, torch.from_numpy(state.found.rounds)), scale, kkt <= 2 * rounding)


def _settled(state: _State, work: Work, rows: Index, room: int) -> _State:
    """Rounds of the signals `rows` from where they stand, with c computed from x - P a in each.

    Supports that outgrow `room` go on in twice the room, with fewer signals at a time where the factors get large.
    """
    for some in np.array_split(rows, max(1, -(-len(rows) * room * room // _FACTORS))):
        if len(some):
            state = state.put(some, _rounds(state.select(some), work, room))
    return state


def _rounds(state: _State, work: Work, room: int) -> _State:
    loops, n = kernels(), len(state.signals.x)
    held, signals = Held.of(room, n), state.signals
    own = min(room, state.found.atoms.shape[1])
    held.atoms[:, :own], held.code[:, :own] = state.found.atoms[:, :own], state.found.code[:, :own]
    state = state._replace(found=state.found._replace(atoms=held.atoms, code=held.code))
    rows, status, rebuild, c = np.arange(n), np.zeros(n, dtype=np.int64), True, signals.c.copy()
    while True:
        going = state.found.rounds[rows] < work.limit
        rows, c = rows[going], c[going]
        if not len(rows):
            break
        loops.advance(
            rows, c, signals, work.nonnegative, SHARES, work.matrices, held, rebuild, work.scratch, state.found, status
        )
        rebuild, rows = False, rows[status[rows] != DONE]
        if not len(rows):
            break
        c = state.evaluate(rows, work)
        now = status[rows]
        if room < work.widest and (now == FULL).any():
            return _settled(state, work, rows[now != STUCK], min(2 * room, work.widest))
        if (now != MOVED).any():
            rows, c = rows[now == MOVED], c[now == MOVED]
    return state
