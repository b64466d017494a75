"""A sparse-reconstruction problem as numbers: its parts, and its values as computed."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.penalties import Penalty
from vars_dyn.shapes import expand_trailing, flat_lead

__all__ = ["RawProblem", "Residuals"]


class Residuals(NamedTuple):
    """What every certificate needs: r = x - P a, and the negative gradient of the smooth part, P^T r - ridge a."""

    signal: Tensor
    code: Tensor


class RawProblem:
    """The parts of a problem 1/2 |P a - x|^2 + lam sum_i r(a_i) + ridge/2 |a|^2, which solvers select from and replace.

    `raw_...` are the values that solvers use while they iterate: computed in the dtype and the units of the parts,
    without a bound on rounding. `vars_dyn.SparseProblem` checks the parts, and certifies codes.

    Attributes:
        dictionary: P.
        x: signals, (*any, *signal_shape), or (*batch, n, *signal_shape) for a batched dictionary.
        lam: one per signal.
        ridge: a number, a zero-dimensional tensor, or one per signal.
        penalty: r.
    """

    dictionary: Dictionary
    x: Tensor
    lam: Tensor
    ridge: float | Tensor
    penalty: Penalty

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of one value per signal."""
        return tuple(self.x.shape[: self.x.ndim - len(self.dictionary.signal_shape)])

    @property
    def nonnegative(self) -> bool:
        """Whether codes must not be negative."""
        return self.penalty.nonnegative

    def per_code(self, value: Tensor) -> Tensor:
        """One value per signal, shaped to broadcast against codes."""
        return expand_trailing(value, len(self.dictionary.code_shape))

    def sum_code(self, value: Tensor) -> Tensor:
        """The sum of `value` over the code's entries, per signal."""
        return value.flatten(-len(self.dictionary.code_shape)).sum(-1)

    def sum_signal(self, value: Tensor) -> Tensor:
        """The sum of `value` over the signal's entries, per signal."""
        return value.flatten(-len(self.dictionary.signal_shape)).sum(-1)

    def max_code(self, value: Tensor) -> Tensor:
        """The largest entry of `value` over the code, per signal."""
        return value.flatten(-len(self.dictionary.code_shape)).amax(-1)

    def residual(self, a: Tensor) -> Tensor:
        """x - P a."""
        self._check_code(a)
        return self.x - self.dictionary.decode(a)

    def _check_code(self, a: Tensor) -> None:
        wanted = (*self.batch_shape, *self.dictionary.code_shape)
        if tuple(a.shape[max(a.ndim - len(wanted), 0) :]) != wanted:
            raise ValueError(f"the code has shape {tuple(a.shape)}; (*any, *{wanted}) is wanted")
        _checks.same_kind("the code", a, self.x, "x")

    def dual_norm(self, c: Tensor) -> Tensor:
        """The penalty's dual norm of c, where c is shaped like codes: the smallest lam whose box contains c.

        Shape: one value per signal.
        """
        shape = self.dictionary.code_shape
        return self.penalty.flattened(shape).dual_norm(c.flatten(-len(shape)))

    def residuals(self, a: Tensor) -> Residuals:
        """x - P a, and P^T (x - P a) - ridge a."""
        r = self.residual(a)
        c = self.dictionary.encode(r)
        return Residuals(r, c - self.ridge_of(a) if self._has_ridge else c)

    @property
    def _has_ridge(self) -> bool:
        return isinstance(self.ridge, Tensor) or self.ridge != 0

    def ridge_of(self, a: Tensor) -> Tensor:
        """ridge a; a normalised problem may have one ridge per signal."""
        return (self.per_code(self.ridge) if isinstance(self.ridge, Tensor) and self.ridge.ndim else self.ridge) * a

    def raw_objective(self, a: Tensor) -> Tensor:
        """E(a) as computed."""
        value = 0.5 * self.sum_signal(self.residual(a).square()) + self.lam * self.sum_code(self.penalty.cost(a.abs()))
        if self._has_ridge:
            value = value + 0.5 * self.ridge * self.sum_code(a.square())
        return self._where_feasible(a, value)

    def _where_feasible(self, a: Tensor, value: Tensor) -> Tensor:
        outside = self.penalty.outside(a)
        return value if outside is None else torch.where(self.max_code(outside) <= 0, value, math.inf)

    def raw_gap(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The duality gap as computed, from `residuals(a)`."""
        r, c = residuals
        norm = self.dual_norm(c)
        s = torch.where(norm > self.lam, self.lam / norm.clamp(min=torch.finfo(norm.dtype).tiny), 1.0)
        square = self.sum_signal(r.square())
        if self._has_ridge:
            square = square + self.ridge * self.sum_code(a.square())
        linear = self.sum_code(self.per_code(self.lam) * self.penalty.cost(a.abs()) - self.per_code(s) * a * c)
        value = 0.5 * (1 - s).square() * square + linear.clamp(min=0)
        return self._where_feasible(a, value)

    def _with_outside(self, a: Tensor, kkt: Tensor) -> Tensor:
        outside = self.penalty.outside(a)
        return kkt if outside is None else torch.maximum(kkt, self.max_code(outside))

    def raw_violation(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The largest violation of the entries' optimality conditions, without the constraint on their signs."""
        return self.max_code(self.penalty.violation(residuals.code, a.sign(), self.per_code(self.lam)).clamp(min=0))

    def raw_kkt(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The KKT residual as computed, from `residuals(a)`."""
        return self._with_outside(a, self.raw_violation(a, residuals))

    def raw_relative_gap(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The relative gap as computed, from `residuals(a)`; the scaled KKT residual where lam = 0."""
        gap = self.raw_gap(a, residuals)
        relative = torch.where(gap == 0, gap, gap / (0.5 * self.sum_signal(self.x.square())))
        if bool((self.lam > 0).all()):
            return relative
        kkt = self.raw_violation(a, residuals)
        scale = self.max_code(self.dictionary.encode(self.x).abs())
        return torch.where(self.lam > 0, relative, torch.where(kkt == 0, kkt, kkt / scale))

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that the problem depends on, in a fixed order."""
        ridge = (self.ridge,) if isinstance(self.ridge, Tensor) else ()
        return (*self.dictionary.tensors(), self.x, self.lam, *ridge, *self.penalty.tensors())

    def with_parts(
        self,
        dictionary: Dictionary,
        x: Tensor,
        lam: Tensor,
        ridge: float | Tensor,
        penalty: Penalty | None = None,
    ) -> Self:
        """The same kind of problem with other parts, without checks; `penalty` stays as it is where None is given."""
        twin = copy.copy(self)
        twin.dictionary, twin.x, twin.lam, twin.ridge = dictionary, x, lam, ridge
        twin.penalty = self.penalty if penalty is None else penalty
        return twin

    def detach(self) -> Self:
        """The same problem, cut from the autograd graph."""
        ridge = self.ridge.detach() if isinstance(self.ridge, Tensor) else self.ridge
        penalty = self.penalty.with_tensors(tuple(t.detach() for t in self.penalty.tensors()))
        return self.with_parts(self.dictionary.detach(), self.x.detach(), self.lam.detach(), ridge, penalty)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same problem on another device or in another floating-point dtype."""
        x, lam = (t.to(device=device, dtype=dtype) for t in (self.x, self.lam))
        ridge = self.ridge.to(device=device, dtype=dtype) if isinstance(self.ridge, Tensor) else self.ridge
        penalty = self.penalty.with_tensors(tuple(t.to(device=device, dtype=dtype) for t in self.penalty.tensors()))
        return self.with_parts(self.dictionary.to(device, dtype), x, lam, ridge, penalty)

    def flat(self) -> Self:
        """The same problems with one leading dimension of signals, or (elements, n) for a batched dictionary."""
        lead, dictionary = flat_lead(self.dictionary, self.batch_shape)
        x = self.x.reshape(*lead, *dictionary.signal_shape)
        return self.with_parts(dictionary, x, self.lam.reshape(lead), self.ridge)

    def select(self, index: Tensor) -> Self:
        """The rows `index` of a `flat` problem's first dimension: signals, or elements of a batched dictionary."""
        ridge = self.ridge[index] if isinstance(self.ridge, Tensor) and self.ridge.ndim else self.ridge
        return self.with_parts(self.dictionary.select(index), self.x[index], self.lam[index], ridge)
