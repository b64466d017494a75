"""Reference solutions in plain NumPy, SciPy, scikit-learn and Clarabel, one signal at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import clarabel
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet

import vars_dyn as vd

Array = NDArray[Any]


def interior_point(
    squares: Sequence[tuple[float, Array, Array]],
    level: Array,
    bias: Array,
    nonnegative: bool,
    ridge: float = 0.0,
) -> Array | None:
    """The argmin of sum_k c_k/2 |t_k - A_k a|^2 + sum_i level_i |a_i| - bias.a + ridge/2 |a|^2 by Clarabel.

    `squares` are (c_k, A_k, t_k). A coefficient whose `level` is infinite is zero. None where Clarabel finds that there
    is no minimum, which it tells from a direction in which the objective falls for ever. The variables of the program
    are the residuals, with the equation that defines them, and the coefficients: as p - m with p, m >= 0, or as they
    are where no penalty and no sign concerns them.
    """
    kept = np.flatnonzero(np.isfinite(level))
    # Each variable adds `sign` times itself to its coefficient, and costs `cost`.
    parts = [(i, 1.0, level[i] - bias[i], nonnegative or level[i] > 0) for i in kept]
    if not nonnegative:
        parts += [(i, -1.0, level[i] + bias[i], True) for i in kept if level[i] > 0]
    spread = np.zeros((len(level), len(parts)))
    for k, (i, sign, _, _) in enumerate(parts):
        spread[i, k] = sign
    stacked = np.vstack([A for _, A, _ in squares])
    target = np.concatenate([t for _, _, t in squares])
    weights = np.concatenate([np.full(len(t), c) for c, _, t in squares])
    held = np.array([k for k, part in enumerate(parts) if part[3]], dtype=int)
    rows = [np.hstack([stacked @ spread, np.eye(len(target))])]
    rows.append(np.hstack([-np.eye(len(parts))[held], np.zeros((len(held), len(target)))]))
    form = scipy.linalg.block_diag(ridge * spread.T @ spread, np.diag(weights))
    program = (
        scipy.sparse.csc_matrix(np.triu(form)),
        np.concatenate([[cost for _, _, cost, _ in parts], np.zeros(len(target))]),
        scipy.sparse.csc_matrix(np.vstack(rows)),
        np.concatenate([target, np.zeros(len(held))]),
        [clarabel.ZeroConeT(len(target)), clarabel.NonnegativeConeT(len(held))],
    )
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    # Now and then the factorisation is not good enough for the last digits.
    for tolerance in (1e-13, 1e-11, 1e-9):
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
        found = clarabel.DefaultSolver(*program, settings).solve()
        if found.status == clarabel.SolverStatus.DualInfeasible:
            return None
        if found.status == clarabel.SolverStatus.Solved:
            return spread @ np.array(found.x)[: len(parts)]
    raise ArithmeticError(f"Clarabel ended with {found.status}")


class One(NamedTuple):
    """The problem of one signal: 1/2 |P a - x|^2 + lam sum_i w_i |a_i| - q.a + ridge/2 |a|^2.

    Without weights or a bias, w = 1 and q = 0.
    """

    P: Array
    x: Array
    lam: float
    ridge: float
    nonnegative: bool
    weights: Array | None = None
    bias: Array | None = None

    @property
    def threshold(self) -> Array:
        """lam w_i; infinite for a silenced atom."""
        if self.weights is None:
            return np.full(self.P.shape[1], self.lam)
        return np.where(np.isinf(self.weights), np.inf, self.lam * np.where(np.isinf(self.weights), 0, self.weights))

    def objective(self, a: Array) -> float:
        residual, size = self.x - self.P @ a, np.abs(a)
        paid = (self.threshold[size > 0] * size[size > 0]).sum()
        linear = 0.0 if self.bias is None else self.bias @ a
        return 0.5 * residual @ residual + paid - linear + 0.5 * self.ridge * a @ a

    def pull(self, a: Array) -> Array:
        """The negative gradient of the smooth part."""
        bias = 0.0 if self.bias is None else self.bias
        return self.P.T @ (self.x - self.P @ a) + bias - self.ridge * a

    def rescaled_argmin(self) -> Array:
        """scikit-learn's solution with columns P_i / w_i; for weights above zero, no ridge and no bias."""
        busy = np.isfinite(self.weights)
        scale = np.where(busy, self.weights, 1.0)
        P = np.where(busy, self.P / scale, 0.0)
        return One(P, self.x, self.lam, 0.0, self.nonnegative).argmin() / scale

    def descended(self, sweeps: int = 20_000) -> Array:
        """The argmin by cyclic coordinate descent."""
        a, r, level = np.zeros(self.P.shape[1]), self.x.copy(), self.threshold
        curvature = (self.P**2).sum(0) + self.ridge
        bias = np.zeros_like(a) if self.bias is None else self.bias
        for _ in range(sweeps):
            moved = 0.0
            for i in np.flatnonzero(np.isfinite(level) & (curvature > 0)):
                aim = self.P[:, i] @ r + bias[i] - self.ridge * a[i] + curvature[i] * a[i]
                low = 0.0 if self.nonnegative else max(-aim - level[i], 0)
                step = (max(aim - level[i], 0) - low) / curvature[i] - a[i]
                r -= self.P[:, i] * step
                a[i] += step
                moved = max(moved, abs(step))
            if moved < 1e-15:
                break
        return a

    def programmed(self) -> Array | None:
        """Clarabel's argmin; None where there is no minimum."""
        bias = np.zeros(self.P.shape[1]) if self.bias is None else self.bias
        return interior_point([(1.0, self.P, self.x)], self.threshold, bias, self.nonnegative, self.ridge)

    def gap(self, a: Array) -> float:
        """E(a) minus the dual at the scaled residual, which is feasible. A ridge adds rows to the dictionary."""
        eye = np.sqrt(self.ridge) * np.eye(len(a))
        P, x = np.vstack([self.P, eye]), np.concatenate([self.x, np.zeros(len(a))])
        r = x - P @ a
        pull = P.T @ r
        norm = max(pull.max(), 0) if self.nonnegative else np.abs(pull).max()
        point = r * (min(1, self.lam / norm) if norm else 1)
        return self.objective(a) - 0.5 * (x @ x - (x - point) @ (x - point))

    def kkt(self, a: Array) -> float:
        worst = 0.0
        for a_i, c_i, level in zip(a, self.pull(a), self.threshold, strict=True):
            if a_i != 0:
                worst = max(worst, abs(c_i - level * np.sign(a_i)))
            else:
                worst = max(worst, (c_i if self.nonnegative else abs(c_i)) - level)
            if self.nonnegative:
                worst = max(worst, -a_i)
        return worst

    def argmin(self) -> Array:
        """scikit-learn's solution, or SciPy's if lam = 0."""
        d, atoms = self.P.shape
        if self.lam == 0:
            P = np.vstack([self.P, np.sqrt(self.ridge) * np.eye(atoms)])
            x = np.concatenate([self.x, np.zeros(atoms)])
            return scipy.optimize.nnls(P, x)[0] if self.nonnegative else np.linalg.lstsq(P, x)[0]
        weight = (self.lam + self.ridge) / d
        model = ElasticNet(
            alpha=weight,
            l1_ratio=self.lam / d / weight,
            fit_intercept=False,
            positive=self.nonnegative,
            tol=1e-15,
            max_iter=50_000,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(self.P, self.x).coef_

    def curvature(self, a: Array) -> float:
        """The smallest eigenvalue of the smooth part on all atoms that are, or are near to being, active."""
        near = np.abs(self.pull(a)) >= (1 - 1e-3) * self.lam
        near |= a != 0
        if not near.any():
            return np.inf
        P = self.P[:, near]
        return np.linalg.eigvalsh(P.T @ P + self.ridge * np.eye(P.shape[1]))[0]


def matrices(dictionary: vd.Dictionary) -> Array:
    """The matrix P of every batch element, (elements, d, d'). Its columns are what `decode` makes of unit codes."""
    return dictionary.matrix().detach().numpy().reshape(-1, dictionary.signal_size, dictionary.code_size)


def ones(problem: vd.SparseProblem) -> Iterator[One]:
    """The problems of all signals, in row-major order."""
    written = matrices(problem.dictionary)
    x = problem.x.detach().numpy().reshape(-1, problem.dictionary.signal_size)
    lam = problem.lam.detach().numpy().reshape(-1)
    each = max(len(x) // len(written), 1)
    weights, bias = (_per_signal(value, problem, len(x)) for value in (problem.weights, problem.bias))
    for i in range(len(x)):
        parts = written[i // each], x[i], float(lam[i]), float(problem.ridge), problem.nonnegative
        yield One(*parts, weights[i] if weights else None, bias[i] if bias else None)


def _per_signal(value: torch.Tensor | None, problem: vd.SparseProblem, count: int) -> list[Array] | None:
    """Weights or a bias, one flattened row for every signal."""
    if value is None:
        return None
    whole = value.detach().expand(*problem.batch_shape, *problem.dictionary.code_shape)
    return list(whole.numpy().reshape(count, -1))


def rows(value: torch.Tensor, problem: vd.SparseProblem) -> Array:
    """The codes, with one flattened row for every signal."""
    return value.detach().numpy().reshape(-1, problem.dictionary.code_size)
