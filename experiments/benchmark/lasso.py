"""The rows "sparse-coding" and "ill-conditioned": LASSO problems that share a dictionary, against libraries."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import vars_dyn as vd
from experiments.benchmark.contract import Contender, Goal, Row

__all__ = ["ill_conditioned", "sparse_coding"]

OURS = "vars_dyn.solve"


class _Data(NamedTuple):
    """P (d, d'), the signals (n, d) and lam, float64."""

    weight: Tensor
    x: Tensor
    lam: float

    def problem(self) -> vd.SparseProblem:
        return vd.SparseProblem(vd.DenseDictionary(self.weight), self.x, self.lam)


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@cache
def _planted() -> _Data:
    """The data of "sparse-coding": codes of 20 standard normal entries, and .01 of noise."""
    generator = torch.Generator().manual_seed(0)
    weight = _draw(generator, 256, 512)
    weight = weight / weight.norm(dim=0)
    order = torch.rand(256, 512, generator=generator, dtype=torch.float64).argsort(-1)
    codes = torch.where(order < 20, _draw(generator, 256, 512), 0.0)
    return _Data(weight, codes @ weight.mT + 0.01 * _draw(generator, 256, 256), 0.05)


@cache
def _hard() -> _Data:
    """The data of "ill-conditioned": signals that are not sparse, and a small lam."""
    generator = torch.Generator().manual_seed(0)
    weight = _draw(generator, 64, 128)
    return _Data(weight / weight.norm(dim=0), _draw(generator, 64, 64), 0.1)


def _ours(data: Callable[[], _Data]) -> Callable[[], Tensor]:
    given = data()
    return lambda: vd.solve(given.problem()).code


def _spams(data: Callable[[], _Data]) -> Callable[[], Tensor]:
    import spams  # deferred: a peer that need not be installed

    weight, x, lam = data()
    signals, atoms = np.asfortranarray(x.numpy().T), np.asfortranarray(weight.numpy())
    work = partial(spams.lasso, signals, D=atoms, lambda1=lam, mode=2, numThreads=1)
    return lambda: torch.from_numpy(work().toarray().T)


def _scikit_learn(data: Callable[[], _Data]) -> Callable[[], Tensor]:
    from sklearn.decomposition import sparse_encode  # deferred: a peer that need not be installed

    weight, x, lam = data()
    atoms, signals = np.ascontiguousarray(weight.numpy().T), x.numpy()
    work = partial(sparse_encode, signals, atoms, algorithm="lasso_cd", alpha=lam, max_iter=100_000)
    return lambda: torch.from_numpy(work())


def _one_by_one(estimator: Any, data: _Data) -> Callable[[], Tensor]:
    """An estimator with scikit-learn's interface, signal by signal. It divides the squares by the signal's size."""
    atoms, signals = np.asfortranarray(data.weight.numpy()), data.x.numpy()

    def work() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the accuracy in the table shows tolerances that are not reached
            return torch.from_numpy(np.stack([estimator.fit(atoms, one).coef_ for one in signals]))

    return work


def _celer(data: Callable[[], _Data]) -> Callable[[], Tensor]:
    import celer  # deferred: a peer that need not be installed

    given = data()
    return _one_by_one(celer.Lasso(alpha=given.lam / given.x.shape[1], fit_intercept=False, tol=1e-12), given)


def _skglm(data: Callable[[], _Data]) -> Callable[[], Tensor]:
    import skglm  # deferred: a peer that need not be installed

    given = data()
    return _one_by_one(skglm.Lasso(alpha=given.lam / given.x.shape[1], fit_intercept=False, tol=1e-10), given)


def _fista(data: Callable[[], _Data], done: Callable[[Tensor], bool]) -> Callable[[], Tensor]:
    """FISTA with restart, plainly in torch: the Gram matrix once, then steps until `done`, asked every 10 steps."""
    weight, x, lam = data()

    def work() -> Tensor:
        gram, drive = weight.mT @ weight, x @ weight
        largest = torch.linalg.eigvalsh(gram)[-1]
        a = y = torch.zeros_like(drive)
        momentum = torch.ones(len(x), 1, dtype=x.dtype)
        for step in range(1, 100_001):
            new = torch.nn.functional.softshrink(y + (drive - y @ gram) / largest, lam / float(largest))
            uphill = ((y - new) * (new - a)).sum(-1, keepdim=True) > 0
            momentum = torch.where(uphill, 1.0, momentum)
            following = 0.5 * (1 + torch.sqrt(1 + 4 * momentum.square()))
            y = new + torch.where(uphill, 0.0, (momentum - 1) / following) * (new - a)
            a, momentum = new, following
            if step % 10 == 0 and done(a):
                break
        return a

    return work


def _admm(data: Callable[[], _Data], done: Callable[[Tensor], bool], rho: float) -> Callable[[], Tensor]:
    """ADMM, plainly in torch: G + rho inverted once, then steps until `done`, asked every 10 steps."""
    weight, x, lam = data()

    def work() -> Tensor:
        gram, drive = weight.mT @ weight, x @ weight
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + rho * torch.eye(len(gram), dtype=x.dtype)))
        a = dual = torch.zeros_like(drive)
        for step in range(1, 100_001):
            smooth = (drive + rho * (a - dual)) @ inverse
            a = torch.nn.functional.softshrink(smooth + dual, lam / rho)
            dual = dual + smooth - a
            if step % 10 == 0 and done(a):
                break
        return a

    return work


def sparse_coding() -> Row:
    """The row "sparse-coding"."""

    def kkt(a: Tensor) -> float:
        return float(_planted().problem().kkt_residual(a).max())

    return Row(
        "sparse-coding",
        "LASSO of 256 signals, d = 256, d' = 512, 20 non-zeros and .01 noise, lam = .05, float64",
        "largest KKT residual",
        1e-8,
        (
            Contender(OURS, partial(_ours, _planted), ours=True),
            Contender("SPAMS (LARS)", partial(_spams, _planted)),
            Contender("scikit-learn lasso_cd", partial(_scikit_learn, _planted)),
            Contender("celer", partial(_celer, _planted)),
            Contender("skglm", partial(_skglm, _planted)),
            Contender("FISTA with restart (torch)", partial(_fista, _planted, lambda a: kkt(a) <= 1e-8)),
        ),
        lambda code: {"accuracy": kkt(code)},
        (Goal(OURS, "SPAMS (LARS)", 1.0), Goal(OURS, "scikit-learn lasso_cd", 1 / 3)),
    )


@cache
def _hard_solution() -> Tensor:
    """The solution, found without this package: by scikit-learn's LARS, signal by signal, and again on its support."""
    from sklearn.linear_model import LassoLars  # deferred: a peer that need not be installed

    weight, x, lam = _hard().weight.numpy(), _hard().x.numpy(), _hard().lam
    found = np.zeros((len(x), weight.shape[1]))
    for code, signal in zip(found, x, strict=True):
        code[:] = LassoLars(alpha=lam / len(signal), fit_intercept=False, max_iter=10_000).fit(weight, signal).coef_
        support = np.abs(code) > 1e-9
        P = weight[:, support]
        code[support] = np.linalg.solve(P.T @ P, P.T @ signal - lam * np.sign(code[support]))
    return torch.from_numpy(found)


def ill_conditioned() -> Row:
    """The row "ill-conditioned". An oracle stops the peers as soon as they are near enough."""

    def distance(a: Tensor) -> float:
        return float((a - _hard_solution()).norm(dim=-1).max())

    def near(a: Tensor) -> bool:
        return distance(a) <= 1e-6

    return Row(
        "ill-conditioned",
        "LASSO of 64 signals x ~ N(0, I), d = 64, d' = 128, lam = .1, supports of about 58, float64",
        "largest distance to the solution",
        1e-6,
        (
            Contender(OURS, partial(_ours, _hard), ours=True),
            Contender("FISTA with restart (torch)", partial(_fista, _hard, near)),
            Contender("ADMM (torch)", partial(_admm, _hard, near, 0.1)),
            Contender("SPAMS (LARS)", partial(_spams, _hard)),
            Contender("scikit-learn lasso_cd", partial(_scikit_learn, _hard)),
        ),
        lambda code: {"accuracy": distance(code)},
        (Goal(OURS, "FISTA with restart (torch)", 0.06),),
    )
