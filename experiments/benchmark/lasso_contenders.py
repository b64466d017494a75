"""Who solves the LASSO problems of the benchmark: a function of P, x and lam that gives the call to be timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vars_dyn as vd

__all__ = ["PEERS", "ours", "spams"]

#: The relative KKT residual that is asked of peers with a tolerance.
_ASKED = 1e-8


def ours(weight: Tensor, x: Tensor, lam: float) -> Callable[[], Tensor]:
    """The call that solves with this package."""
    return lambda: vd.solve(vd.SparseProblem(vd.DenseDictionary(weight), x, lam)).code


def spams(weight: Tensor, x: Tensor, lam: float) -> Callable[[], Tensor]:
    """The call that solves with SPAMS, by LARS."""
    import spams as peer  # deferred: a peer that need not be installed

    signals, atoms = np.asfortranarray(x.numpy().T), np.asfortranarray(weight.numpy())
    work = partial(peer.lasso, signals, D=atoms, lambda1=lam, mode=2, numThreads=1)
    return lambda: torch.from_numpy(work().toarray().T)


def _sklearn(weight: Tensor, x: Tensor, lam: float) -> Callable[[], Tensor]:
    from sklearn.decomposition import sparse_encode  # deferred: a peer that need not be installed

    atoms, signals = weight.numpy().T.copy(), x.numpy()
    # Its Gram matrix is not counted, since it would serve all signals of the cell.
    work = partial(
        sparse_encode, signals, atoms, gram=atoms @ atoms.T, algorithm="lasso_lars", alpha=lam, max_iter=10_000
    )
    return lambda: torch.from_numpy(work())


def _one_by_one(estimator: Any, weight: Tensor, x: Tensor) -> Callable[[], Tensor]:
    matrix, signals = np.asfortranarray(weight.numpy()), x.numpy()
    return lambda: torch.from_numpy(np.stack([estimator.fit(matrix, signal).coef_ for signal in signals]))


def _celer(weight: Tensor, x: Tensor, lam: float) -> Callable[[], Tensor]:
    from celer import Lasso  # deferred: a peer that need not be installed

    # Its gap is of the second order in the KKT residual.
    return _one_by_one(Lasso(alpha=lam / len(weight), fit_intercept=False, tol=1e-14, max_iter=1000), weight, x)


def _skglm(weight: Tensor, x: Tensor, lam: float) -> Callable[[], Tensor]:
    from skglm import Lasso  # deferred: a peer that need not be installed

    tol = _ASKED * float((x @ weight).abs().amax(-1).min()) / len(weight)
    return _one_by_one(Lasso(alpha=lam / len(weight), fit_intercept=False, tol=tol, max_iter=1000), weight, x)


#: The other peers, which need not be installed; they solve in double precision.
PEERS: dict[str, Callable[[Tensor, Tensor, float], Callable[[], Tensor]]] = {
    "scikit-learn": _sklearn,
    "celer": _celer,
    "skglm": _skglm,
}
