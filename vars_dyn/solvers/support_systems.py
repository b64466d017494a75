"""The linear system on a code's support.

On the support A of a code, with signs s, the argmin of a sparse problem obeys
(G_A + ridge I) a_A = P_A^T x + q_A - lam w_A s.
The polish of a code solves this system, and so does the implicit gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.problems import SparseProblem

__all__ = ["SupportSystem", "free", "gram_matrix", "is_small", "support_system"]

#: A dictionary of up to this many entries is written out as a matrix; systems of a larger one are solved matrix-free.
MATRIX_LIMIT = 1 << 22
#: How many shifts of a singular system are tried. Each is ten times the one before; the last is far above the system.
_SHIFTS = 24


@runtime_checkable
class SupportSystem(Protocol):
    """(G_A + ridge I) y = v on the support A of every signal at once; entries off the support are zero."""

    def solve(self, v: Tensor) -> Tensor:
        """y, of the shape of codes, for v of the shape of codes."""

    def solve_least(self, v: Tensor) -> Tensor:
        """As `solve`; where the system is singular, the y of minimum norm among those that come closest."""

    def singular(self) -> Tensor:
        """Whether G_A + ridge I is singular to rounding, one per signal."""

    def condition(self) -> Tensor:
        """The condition number of G_A + ridge I, one per signal (infinite where singular to rounding)."""


def support_system(problem: SparseProblem, support: Tensor, gram: Tensor | None = None) -> SupportSystem:
    """The system of `problem` on `support`, a boolean tensor of the shape of codes.

    It is solved by batched Cholesky factors of the gathered support, or matrix-free by conjugate residuals where the
    dictionary is too large to be written out. `gram` is `gram_matrix(problem.dictionary)`, where the caller has it.
    """
    if not is_small(problem.dictionary):
        return _MatrixFree(problem, support)
    return _Gathered(problem, support, gram_matrix(problem.dictionary) if gram is None else gram)


def gram_matrix(dictionary: Dictionary) -> Tensor:
    """G = P^T P of shape (elements, d', d'), one element for a dictionary that all signals share."""
    weight = dictionary.matrix().reshape(-1, dictionary.signal_size, dictionary.code_size)
    return weight.mT @ weight


def is_small(dictionary: Dictionary) -> bool:
    """Whether P, or each of a batch of them, is written out as a matrix."""
    return dictionary.signal_size * dictionary.code_size <= MATRIX_LIMIT


class _Gathered:
    """Cholesky factors of the Gram matrix of each signal's support, padded with ones to the size of the largest."""

    def __init__(self, problem: SparseProblem, support: Tensor, gram: Tensor) -> None:
        self.shape, self.batch_shape = support.shape, problem.batch_shape
        mask = support.reshape(len(gram), -1, problem.dictionary.code_size)
        counts = mask.sum(-1)
        width = max(int(counts.max()) if counts.numel() else 0, 1)
        self.index = torch.argsort(mask.to(torch.uint8), dim=-1, descending=True, stable=True)[..., :width]
        self.valid = mask.gather(-1, self.index)
        self.system = self._gather(gram)
        ridge = torch.as_tensor(problem.ridge, dtype=gram.dtype, device=gram.device)
        if ridge.ndim:
            own = ridge.expand(self.shape).reshape(mask.shape)
            ridge = own.gather(-1, self.index)
        self.system.diagonal(dim1=-2, dim2=-1).add_(torch.where(self.valid, ridge, 1.0))
        self.factor, shifted = self._factor()
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1)
        own = torch.where(self.valid, diagonal, math.nan)
        low, high = (torch.nan_to_num(t, nan=1.0) for t in (_least(own), -_least(-own)))
        # The squared ratio of a factor's diagonal entries bounds the condition number from below.
        self._singular = shifted | ((low / high).square() <= 10 * width * torch.finfo(low.dtype).eps)

    def _gather(self, gram: Tensor) -> Tensor:
        element = torch.arange(len(gram), device=gram.device)[:, None, None, None]
        sub = gram[element, self.index[..., :, None], self.index[..., None, :]]
        return sub * (self.valid[..., :, None] & self.valid[..., None, :])

    def _factor(self) -> tuple[Tensor, Tensor]:
        """Cholesky factors, and which systems are singular. These are shifted by some roundings of their own size."""
        factor, info = torch.linalg.cholesky_ex(self.system)
        shifted_ones = info != 0
        shift = torch.finfo(factor.dtype).eps * self.system.shape[-1]
        size = self.system.diagonal(dim1=-2, dim2=-1).amax(-1)
        for _ in range(_SHIFTS):
            if not bool((info != 0).any()):
                break
            shifted = self.system + torch.diag_embed((shift * size)[..., None].expand(self.index.shape))
            again, info_again = torch.linalg.cholesky_ex(shifted)
            singular = info != 0
            factor = torch.where(singular[..., None, None], again, factor)
            info = torch.where(singular, info_again, info)
            shift *= 10
        return factor, shifted_ones

    def solve(self, v: Tensor) -> Tensor:
        rows = v.reshape(*self.index.shape[:-1], -1)
        rhs = (rows.gather(-1, self.index) * self.valid)[..., None]
        y = torch.cholesky_solve(rhs, self.factor)
        # One step of refinement removes the errors of rounding and of a shift.
        y = y + torch.cholesky_solve(rhs - self.system @ y, self.factor)
        return torch.zeros_like(rows).scatter(-1, self.index, y.squeeze(-1) * self.valid).reshape(self.shape)

    def solve_least(self, v: Tensor) -> Tensor:
        y = self.solve(v)
        if not bool(self._singular.any()):
            return y
        rows = self._singular.nonzero(as_tuple=True)
        valid = self.valid[rows]
        try:
            inverse = torch.linalg.pinv(self.system[rows], hermitian=True, rtol=1e3 * torch.finfo(v.dtype).eps)
        except LinAlgError:  # LAPACK finds no eigenvalues, so the shifted system's solution has to do
            return y
        rhs = v.reshape(*self.index.shape[:-1], -1)[rows].gather(-1, self.index[rows]) * valid
        least = (inverse @ rhs[..., None]).squeeze(-1) * valid
        flat = y.reshape(*self.index.shape[:-1], -1).clone()
        flat[rows] = torch.zeros_like(flat[rows]).scatter(-1, self.index[rows], least)
        return flat.reshape(self.shape)

    def singular(self) -> Tensor:
        return self._singular.reshape(self.batch_shape)

    def condition(self) -> Tensor:
        # The padding's ones are replaced by an entry of the support's own diagonal, which lies between the extreme
        # eigenvalues and so does not change them.
        size = torch.where(self.valid, self.system.diagonal(dim1=-2, dim2=-1), 0.0).amax(-1, keepdim=True)
        padded = self.system + torch.diag_embed(torch.where(self.valid, 0.0, size - 1))
        try:
            eigenvalues = torch.linalg.eigvalsh(padded)
        except LinAlgError:  # LAPACK finds no eigenvalues, so the condition number is unknown
            return torch.full(self.batch_shape, math.inf, dtype=padded.dtype, device=padded.device)
        low, high = eigenvalues[..., 0], eigenvalues[..., -1]
        singular = low <= high * torch.finfo(low.dtype).eps
        value = torch.where(singular, math.inf, high / torch.where(singular, 1.0, low))
        return torch.where(self.valid.any(-1), value, 1.0).reshape(self.batch_shape)


class _MatrixFree:
    """Conjugate residuals on the masked Gram map, for all signals at once, each with its own coefficients.

    This form of conjugate gradients minimises the residual (Stiefel 1955). Where v is not in the range of a
    singular map, it ends with the residual in the null space, from which the y of minimum norm follows.
    """

    def __init__(self, problem: SparseProblem, support: Tensor, limit: int = 2000) -> None:
        self.problem, self.mask, self.limit = problem, support, limit
        eps = torch.finfo(problem.x.dtype).eps
        self.tolerance = 10 * eps
        largest = problem.dictionary.lipschitz().max() + torch.as_tensor(problem.ridge).max()
        self.floor = 100 * eps * float(largest)

    def _apply(self, y: Tensor) -> Tensor:
        return (self.problem.dictionary.gram(y) + self.problem.ridge_of(y)) * self.mask

    def _solve(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """y, and whether it solves the system; if not, v has a part in the null space or the limit was reached."""
        problem = self.problem
        r = v * self.mask
        y, p = torch.zeros_like(r), r
        q = image = self._apply(r)
        square, power = problem.sum_code(r * r), problem.sum_code(r * image)
        goal = self.tolerance**2 * square
        for _ in range(self.limit):
            # A residual that the map sends to zero lies in its null space, so no other y makes it smaller.
            reach = problem.sum_code(image * image)
            moving = (square > goal) & (reach > self.floor**2 * square) & (power > 0)
            if not bool(moving.any()):
                break
            length = problem.sum_code(q * q)
            step = problem.per_code(torch.where(moving, power / torch.where(moving, length, 1.0), 0.0))
            y, r = y + step * p, r - step * q
            image = self._apply(r)
            following = problem.sum_code(r * image)
            share = problem.per_code(torch.where(moving, following / torch.where(moving, power, 1.0), 0.0))
            p, q = r + share * p, image + share * q
            square, power = problem.sum_code(r * r), following
        solved = square <= goal
        # Where it is not solved, the part of y along the residual lies in the null space, and only makes y longer.
        excess = torch.where(solved, 0.0, problem.sum_code(y * r) / torch.where(solved, 1.0, square))
        return y - problem.per_code(excess) * r, solved

    def solve(self, v: Tensor) -> Tensor:
        return self._solve(v)[0]

    def solve_least(self, v: Tensor) -> Tensor:
        return self._solve(v)[0]

    def _random(self) -> Tensor:
        x = self.problem.x
        generator = torch.Generator(device=x.device).manual_seed(0)
        return torch.randn(self.mask.shape, generator=generator, dtype=x.dtype, device=x.device) * self.mask

    def singular(self) -> Tensor:
        # A random vector has a part in the null space of every singular map.
        return ~self._solve(self._random())[1]

    def condition(self) -> Tensor:
        """The ratio of the extreme eigenvalues to a few per cent, by power iterations on the map and its inverse."""
        problem, start = self.problem, self._random()

        def extreme(apply: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
            rate = torch.zeros_like(problem.lam)
            for _ in range(30):
                v = v / problem.per_code(problem.sum_code(v * v).sqrt().clamp(min=torch.finfo(v.dtype).tiny))
                w = apply(v)
                rate, v = problem.sum_code(v * w), w
            return rate

        value = (extreme(self._apply, start) * extreme(self.solve, start)).clamp(min=1.0)
        return torch.where(self.singular(), math.inf, value)


def _least(value: Tensor) -> Tensor:
    """The smallest entry of the last dimension that is a number, or NaN where none is."""
    least = torch.where(value.isnan(), math.inf, value).amin(-1)
    return torch.where(least.isinf(), math.nan, least)


def free(problem: SparseProblem) -> Tensor:
    """Whether no penalty and no sign constraint holds an entry of a code at zero; it broadcasts against codes."""
    return (problem.weight == 0) & (not problem.nonnegative)
