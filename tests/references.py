"""Reference solutions in plain NumPy, SciPy and scikit-learn, one signal at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet

import vars_dyn as vd

Array = NDArray[Any]


class One(NamedTuple):
    """The problem of one signal: 1/2 |P a - x|^2 + lam |a|_1 + ridge/2 |a|^2."""

    P: Array
    x: Array
    lam: float
    ridge: float
    nonnegative: bool

    def objective(self, a: Array) -> float:
        residual = self.x - self.P @ a
        return 0.5 * residual @ residual + self.lam * np.abs(a).sum() + 0.5 * self.ridge * a @ a

    def pull(self, a: Array) -> Array:
        """The negative gradient of the smooth part."""
        return self.P.T @ (self.x - self.P @ a) - self.ridge * a

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
        for a_i, c_i in zip(a, self.pull(a), strict=True):
            if a_i != 0:
                worst = max(worst, abs(c_i - self.lam * np.sign(a_i)))
            else:
                worst = max(worst, (c_i if self.nonnegative else abs(c_i)) - self.lam)
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
    for i in range(len(x)):
        yield One(written[i // each], x[i], float(lam[i]), float(problem.ridge), problem.nonnegative)


def rows(value: torch.Tensor, problem: vd.SparseProblem) -> Array:
    """The codes, with one flattened row for every signal."""
    return value.detach().numpy().reshape(-1, problem.dictionary.code_size)
