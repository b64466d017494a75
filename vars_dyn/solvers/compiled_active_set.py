"""An active set for each signal by compiled loops, on a dictionary that all signals share.

Where few atoms are active, solving one signal after the other in a processor's cache is faster than any step for all
signals at once. `vars_dyn.solvers.active_set_kernels` holds the loops. They need numba, the extra `fast`.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.penalties import L1, NonNegativeL1
from vars_dyn.problems import SparseProblem
from vars_dyn.raw_problems import Residuals
from vars_dyn.solvers.methods import Found, Goal
from vars_dyn.solvers.proposals import ENOUGH, Proposal, Proposing
from vars_dyn.solvers.support_systems import is_small

__all__ = ["CompiledActiveSet", "available"]

#: An atom joins if its violation is at least a share of the worst one; the share of each round, and of all after them.
_SHARES = np.array([0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
#: The conditions are to hold within this share of what `Proposing` asks for, since rounding is added to them.
_SHARE = 0.2
#: How many numbers of codes are worked on at once, so that they stay in a processor's cache, and the fewest signals.
_CHUNK, _FEWEST = 1 << 16, 64
#: There is a Gram matrix if there are at least this many signals for each atom.
_SIGNALS_PER_ATOM = 0.25
#: The room for a support at first.
_ROOM = 32
#: The most numbers in the factors of signals that are worked on at once.
_FACTORS = 1 << 24

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@cache
def available() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


@cache
def _kernels() -> Any:
    # deferred: needs numba, which is optional and takes time to import
    from vars_dyn.solvers import active_set_kernels

    return active_set_kernels


class CompiledActiveSet(Proposing):
    """An active set for each signal: atoms join and leave, and E falls, until the optimality conditions hold.

    FISTA goes on from there for signals that fall short of their certificates.
    """

    def suits(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> bool:
        """True with numba, for codes that are to be polished and shared dictionaries in double precision on the CPU."""
        dictionary, ridge = problem.dictionary, problem.ridge
        return (
            start is None
            and goal.polish
            and available()
            and not dictionary.batch_shape
            and (isinstance(dictionary, DenseDictionary) or is_small(dictionary))
            and not (isinstance(ridge, Tensor) and ridge.ndim)
            and type(problem.penalty) in (L1, NonNegativeL1)
            and problem.x.dtype == torch.float64
            and problem.x.device.type == "cpu"
            and bool((problem.lam > 0).all())
        )

    def propose(self, problem: SparseProblem, goal: Goal) -> Proposal:
        """Codes for every signal, some signals at a time."""
        work = _Work.of(problem, goal.max_iterations)
        rows = max(_CHUNK // problem.dictionary.code_size, _FEWEST)
        if rows >= len(problem.x):
            return _solved(problem, work)
        pieces = torch.arange(len(problem.x)).split(rows)
        done = [_solved(problem.select(index), work) for index in pieces]
        found = Found(*(torch.cat(parts) for parts in zip(*(one.found for one in done), strict=True)))
        scale, final = (torch.cat(parts) for parts in zip(*((one.scale, one.final) for one in done), strict=True))
        return Proposal(found, scale, final)


class _Work(NamedTuple):
    """What all signals share: P, the kernels' matrices, the ridge, the room for the widest support, and the penalty.

    Attributes:
        weight: P, (d, d').
        matrices: the kernels' `Matrices`.
        ridge: the ridge.
        widest: room for the atoms of any support.
        nonnegative: whether codes must not be negative.
        limit: the most rounds.
    """

    weight: Tensor
    matrices: Any
    ridge: float
    widest: int
    nonnegative: bool
    limit: int

    @classmethod
    def of(cls, problem: SparseProblem, limit: int) -> _Work:
        """What the signals of a flat problem share."""
        weight = problem.dictionary.matrix().reshape(problem.dictionary.signal_size, -1)
        d, atoms = weight.shape
        ridge = float(problem.ridge)
        diagonal = weight.square().sum(0) + ridge
        gram = weight.new_empty(0, 0)
        if len(problem.x) >= _SIGNALS_PER_ATOM * atoms:
            gram = weight.mT @ weight
            gram.diagonal().copy_(diagonal)
        own = _kernels().Matrices(weight.mT.contiguous().numpy(), gram.numpy(), diagonal.numpy())
        # Independent atoms are no more than a signal has entries. One more is seen to depend on them once it is there.
        widest = min(d + 1, atoms) if ridge == 0 else atoms
        return cls(weight, own, ridge, widest, problem.nonnegative, min(limit, 50 + 4 * widest))

    def scratch(self) -> Any:
        """Room to work on one signal at a time."""
        return _kernels().Scratch(*np.empty((4, self.widest)), np.empty(self.weight.shape[1], dtype=np.int64))

    def held(self, room: int, *lead: int) -> Any:
        """Room for supports of up to `room` atoms."""
        parts = [np.empty((*lead, *shape)) for shape in ((room,), (room,), (room,), (room, room), (room,))]
        return _kernels().Held(np.empty((*lead, room), dtype=np.int64), *parts)


class _Signals(NamedTuple):
    """Signals, and where they stand; the tensors share their memory with the kernels' arrays.

    Attributes:
        x: (n, d).
        drive: P^T x + q, (n, d').
        bias: q, (n, d'), or None.
        lam: lam w, (n, d'), or (n, 1) without weights.
        tol: within which the conditions are to hold, (n,).
        found: the supports, as the kernels' `Supports`.
        r, c: x - P a, and P^T (x - P a) + q - ridge a.
    """

    x: Tensor
    drive: Tensor
    bias: Tensor | None
    lam: Tensor
    tol: Tensor
    found: Any
    r: Tensor
    c: Tensor

    def select(self, rows: Index) -> _Signals:
        """The signals `rows`, copied."""
        index = torch.from_numpy(rows)
        x, drive, bias, lam, tol = (None if t is None else t[index] for t in self[:5])
        found = type(self.found)(*(part[rows] for part in self.found))
        return _Signals(x, drive, bias, lam, tol, found, self.r[index], self.c[index])

    def put(self, rows: Index, other: _Signals) -> _Signals:
        """These signals, with `other` in the place of `rows`."""
        index = torch.from_numpy(rows)
        self.r[index], self.c[index] = other.r, other.c
        more = other.found.atoms.shape[1] - self.found.atoms.shape[1]
        wide = [np.pad(p, ((0, 0), (0, max(more, 0)))) if p.ndim > 1 else p for p in self.found]
        for part, new in zip(wide, other.found, strict=True):
            part[(rows, slice(0, new.shape[1])) if new.ndim > 1 else rows] = new
        return self._replace(found=type(self.found)(*wide))

    def evaluate(self, rows: Index, work: _Work) -> Tensor:
        """Compute r and c of the signals `rows` again from their supports, and return their c."""
        kernels, index = _kernels(), torch.from_numpy(rows)
        r = torch.empty(len(rows), self.x.shape[1], dtype=torch.float64)
        kernels.residual(rows, self.x.numpy(), self.found, work.matrices.atoms, r.numpy())
        c = r @ work.weight
        if self.bias is not None:
            c += self.bias[index]
        if work.ridge:
            c.sub_(self.codes(rows), alpha=work.ridge)
        self.r[index], self.c[index] = r, c
        return c

    def codes(self, rows: Index) -> Tensor:
        """The codes of the signals `rows`, (len(rows), d')."""
        out = torch.zeros(len(rows), self.drive.shape[1], dtype=torch.float64)
        _kernels().scatter(rows, self.found, out.numpy())
        return out


def _solved(problem: SparseProblem, work: _Work) -> Proposal:
    """The proposal for signals that are worked on together."""
    kernels, n = _kernels(), len(problem.x)
    x = problem.x.reshape(n, -1).contiguous()
    drive = x @ work.weight

    def per_atom(value: Tensor) -> Tensor:
        return value.expand(*problem.batch_shape, *problem.dictionary.code_shape).reshape(drive.shape).contiguous()

    bias = None if problem.bias is None else per_atom(problem.bias)
    drive = drive if bias is None else drive + bias
    if problem.weights is None:
        lam, scale = problem.lam[:, None].contiguous(), drive.abs().amax(-1) + problem.lam
    else:
        lam, scale = per_atom(problem.weight), problem.size_of_descent()
    tol = (_SHARE * ENOUGH * torch.finfo(torch.float64).eps) * scale
    every, with_gram = np.arange(n), len(work.matrices.gram) > 0
    room = work.widest if with_gram else min(_ROOM, work.widest)
    found = kernels.Supports(
        np.zeros(n, dtype=np.int64), np.empty((n, room), dtype=np.int64), np.empty((n, room)), np.zeros(n, np.int64)
    )
    signals = _Signals(x, drive, bias, lam, tol, found, x.clone(), drive.clone())
    if with_gram:
        kernels.grow(
            drive.numpy(), lam.numpy(), tol.numpy(), work.nonnegative, _SHARES, work.limit, work.matrices,
            work.held(work.widest), work.scratch(), found,
        )  # fmt: skip
        signals.evaluate(every, work)
    settled = kernels.settled(signals.c.numpy(), lam.numpy(), tol.numpy(), work.nonnegative, found)
    signals = _settled(signals, work, every[~settled], room)
    code = signals.codes(every).reshape(n, *problem.dictionary.code_shape)
    residuals = Residuals(signals.r.reshape(problem.x.shape), signals.c.reshape(code.shape))
    _, gap, kkt, rounding = problem.certify(code, residuals)
    return Proposal(Found(code, gap, kkt, torch.from_numpy(signals.found.rounds)), scale, kkt <= 2 * rounding)


def _settled(signals: _Signals, work: _Work, rows: Index, room: int) -> _Signals:
    """Rounds of the signals `rows` from where they stand, with c computed from x - P a in each.

    Supports that outgrow `room` go on in twice the room, with fewer signals at a time where the factors get large.
    """
    for some in np.array_split(rows, max(1, -(-len(rows) * room * room // _FACTORS))):
        if len(some):
            signals = signals.put(some, _rounds(signals.select(some), work, room))
    return signals


def _rounds(signals: _Signals, work: _Work, room: int) -> _Signals:
    kernels, scratch, n = _kernels(), work.scratch(), len(signals.x)
    held = work.held(room, n)
    own = min(room, signals.found.atoms.shape[1])
    held.atoms[:, :own], held.code[:, :own] = signals.found.atoms[:, :own], signals.found.code[:, :own]
    signals = signals._replace(found=signals.found._replace(atoms=held.atoms, code=held.code))
    rows, status, rebuild, c = np.arange(n), np.zeros(n, dtype=np.int64), True, signals.c.clone()
    lam, tol = signals.lam.numpy(), signals.tol.numpy()
    for _ in range(work.limit):
        kernels.advance(
            rows, c.numpy(), lam, tol, work.nonnegative, _SHARES, work.matrices, held, rebuild, scratch,
            signals.found, status,
        )  # fmt: skip
        rebuild, rows = False, rows[status[rows] != kernels.DONE]
        if not len(rows):
            break
        c = signals.evaluate(rows, work)
        state = status[rows]
        if room < work.widest and (state == kernels.FULL).any():
            return _settled(signals, work, rows[state != kernels.STUCK], min(2 * room, work.widest))
        going = state == kernels.MOVED
        if not going.all():
            rows, c = rows[going], c[torch.from_numpy(going)]
    return signals
