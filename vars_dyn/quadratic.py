"""Problems 1/2 a.Q a - b.a + lam sum_i w_i |a_i| for a given Q, as sparse reconstruction: Q = R^T R, signal R^-T b.

`SparseProblem` itself takes any Q that a dictionary gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vars_dyn.dictionaries.factored import FactoredForm
from vars_dyn.dictionaries.identity import ScaledIdentity
from vars_dyn.dictionaries.reweighted import Reweighted
from vars_dyn.penalties import Penalty
from vars_dyn.problems import SparseProblem

__all__ = ["identity_problem", "matrix_problem"]


def identity_problem(
    scale: float | Tensor,
    b: Tensor,
    shape: tuple[int, ...],
    lam: float | Tensor,
    penalty: Penalty | None = None,
    weights: Tensor | None = None,
) -> SparseProblem:
    """The problem with Q = scale I, scale > 0, and codes of event shape `shape`.

    `scale` is a number, or one per entry, of the shape `shape`, or one per signal, (*batch, 1, ..). In the last case
    the problem is divided by it.
    """
    scale = torch.as_tensor(scale, dtype=b.dtype, device=b.device)
    if scale.ndim > len(shape):
        lead = scale.shape[: -len(shape)]
        lam = lam / scale.reshape(lead)
        return SparseProblem(
            ScaledIdentity(scale.new_ones(()), shape), b / scale, lam, penalty=penalty, weights=weights
        )
    root, dictionary = scale.sqrt(), ScaledIdentity(scale.new_ones(()), shape)
    each = Reweighted(dictionary, root, root.new_ones(shape)) if scale.ndim else ScaledIdentity(root, shape)
    return SparseProblem(each, b / root, lam, penalty=penalty, weights=weights)


def matrix_problem(
    q: Tensor,
    b: Tensor,
    shape: tuple[int, ...],
    lam: float | Tensor,
    penalty: Penalty | None = None,
    weights: Tensor | None = None,
    ridge: float | Tensor = 0.0,
) -> SparseProblem:
    """The problem with positive definite Q of shape (*batch, n, n); b has the shape of the codes, (..., *shape).

    `ridge`, which broadcasts against codes, is added to the diagonal of Q.

    Raises ValueError where Q is not finite, or not positive definite to rounding.
    """
    lower, failed = torch.linalg.cholesky_ex(q)
    if bool(failed.any()) or not bool(lower.isfinite().all()):
        raise ValueError("the quadratic form of the problem is not positive definite to rounding; scale the dictionary")
    flat = b.flatten(-len(shape))
    rows = flat if flat.ndim > 1 else flat[None]
    x = torch.linalg.solve_triangular(lower, rows.mT, upper=False).mT
    dictionary = FactoredForm(lower.mT, shape)
    found = SparseProblem(dictionary, x.reshape(flat.shape), lam, penalty=penalty, weights=weights)
    return found if isinstance(ridge, float) else found.with_ridge(ridge)
