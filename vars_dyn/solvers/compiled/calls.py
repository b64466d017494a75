"""Whole calls for a LASSO of few signals by compiled loops: from what the caller gives to codes with certificates."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.penalties import L1, NonNegativeL1
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.compiled.values import Call, Signals, Supports
from vars_dyn.solvers.compiled.work import ACCURACY, SHARES, Work, grown, kernels, room, round_limit
from vars_dyn.solvers.methods import Found, Goal
from vars_dyn.solvers.proposals import ENOUGH
from vars_dyn.units import narrowed

__all__ = ["few", "suits", "with_gram"]

#: The exponents of two between which signals must lie: those that need no units of their own.
_REACH = {torch.float64: 100, torch.float32: 16}
#: The same for the squared norms of the atoms, which must not be further apart than the factor, and for lam.
_LEAST, _MOST, _APART, _LAM = 2.0**-24, 2.0**24, 4.0, 2.0**300


@cache
def _loops() -> Any:
    # deferred: needs numba, which is optional and takes time to import
    from vars_dyn.solvers.compiled import certified

    return certified


def suits(problem: SparseProblem) -> bool:
    """Whether it is a LASSO of signals on the CPU that share one dense dictionary, without weights, bias and ridge."""
    dictionary, x, ridge = problem.dictionary, problem.x, problem.ridge
    return (
        type(dictionary) is DenseDictionary
        and not dictionary.batch_shape
        and problem.weights is None
        and problem.bias is None
        and not isinstance(ridge, Tensor)
        and ridge == 0
        and type(problem.penalty) in (L1, NonNegativeL1)
        and x.dtype in _REACH
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _wide(problem: SparseProblem) -> tuple[Tensor, Tensor, Tensor]:
    """P, x (n, d) and lam (n, 1) in double precision."""
    weight = problem.dictionary.tensors()[0].detach()
    x, lam = problem.x.detach().reshape(-1, len(weight)), problem.lam.detach().reshape(-1, 1)
    if weight.dtype != torch.float64:
        weight, x, lam = weight.double(), x.double(), lam.double()
    return weight.contiguous(), x.contiguous(), lam.contiguous()


def _call(problem: SparseProblem, goal: Goal, run: int) -> Call:
    dtype, (d, atoms) = problem.x.dtype, problem.dictionary.tensors()[0].shape
    widest = room(d, atoms)
    # In double precision the longer way refines codes to this, so a call that falls short of it is left to it.
    enough = ACCURACY if dtype == torch.float64 else ENOUGH * torch.finfo(dtype).eps
    limit = round_limit(widest, goal.max_iterations)
    single, reach = dtype == torch.float32, _REACH[dtype]
    return Call(problem.nonnegative, single, reach, limit, widest, run, ACCURACY, float(goal.tol), enough)


def few(problem: SparseProblem, goal: Goal, run: int = 1) -> Found | None:
    """Codes of signals that are solved one after the other; None where that falls short of the goal."""
    weight, x, lam = _wide(problem)
    n, atoms = len(x), weight.shape[1]
    code, values, rounds = np.zeros((n, atoms)), np.empty((2, n)), np.zeros(n, dtype=np.int64)
    call = _call(problem, goal, run)
    short = _loops().solve_few(x.numpy(), weight.numpy(), lam.numpy(), call, SHARES, code, values, rounds)
    return _found(problem, torch.from_numpy(code), values, rounds) if short == 0 else None


def with_gram(problem: SparseProblem, goal: Goal, run: int = 1) -> Found | None:
    """Codes of signals that share a Gram matrix; None where that falls short of the goal."""
    weight, x, lam = _wide(problem)
    n, (d, atoms), dtype = len(x), weight.shape, problem.x.dtype
    size, reach = x.abs().amax(-1), 2.0 ** _REACH[dtype]
    inside = ((size >= 1 / reach) & (size <= reach)) | (size == 0)
    if not bool((inside & (lam >= 1 / _LAM).squeeze(-1) & (lam <= _LAM).squeeze(-1)).all()):
        return None
    work = Work.of(weight, problem.nonnegative, goal.max_iterations, with_gram=True, run=run)
    least, most = float(work.matrices.diagonal.min()), float(work.matrices.diagonal.max())
    if not (least >= _LEAST and most <= min(_MOST, _APART * least)):
        return None
    drive, r = x @ weight, np.empty((n, d))
    tol = ACCURACY * (drive.abs().amax(-1, keepdim=True) + lam).squeeze(-1)
    none, found = np.empty((0, 0)), Supports.empty(n, work.widest)
    ridge = np.zeros((n, 1))
    signals = Signals(x.numpy(), drive.numpy(), none, lam.numpy(), ridge, tol.numpy(), r, drive.numpy())
    grown(signals, work, found)
    if dtype == torch.float32:
        _loops().narrow(found)
    kernels().residual(np.arange(n), signals.x, found, work.matrices.atoms, r)
    signals = signals._replace(c=(torch.from_numpy(r) @ weight).numpy())
    code, values = torch.zeros(n, atoms, dtype=torch.float64), np.empty((2, n))
    call, code_of = _call(problem, goal, run), code.numpy()
    short = _loops().certify(signals, most**0.5, call, found, work.scratch, code_of, values)
    return _found(problem, code, values, found.rounds) if short == 0 else None


def _found(problem: SparseProblem, code: Tensor, values: NDArray[np.float64], rounds: NDArray[np.int64]) -> Found:
    """The codes with their certificates, in the shapes and the dtype of the problem."""
    dtype, shape = problem.x.dtype, problem.batch_shape
    gap, kkt = torch.from_numpy(values[0]), torch.from_numpy(values[1])
    if dtype != torch.float64:
        gap, kkt, code = narrowed(gap, gap, dtype), narrowed(kkt, kkt, dtype), code.to(dtype)
    count = torch.from_numpy(rounds)
    if len(shape) == 1:
        return Found(code, gap, kkt, count)
    return Found(code.reshape(*shape, -1), gap.reshape(shape), kkt.reshape(shape), count.reshape(shape))
