"""The sparse-reconstruction problem that an equilibrium solves, and its certificates."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary

__all__ = ["SparseProblem"]


class _Residuals(NamedTuple):
    """What every certificate is made of: r = x - P a, and the negative gradient of the smooth part, P^T r - ridge a."""

    signal: Tensor
    code: Tensor


class SparseProblem:
    """minimise over a:  E(a) = 1/2 |P a - x|^2 + lam |a|_1 + ridge/2 |a|^2, with a >= 0 if `nonnegative`.

    LASSO, elastic net (ridge > 0) and their non-negative forms, one problem per signal.

    Args:
        dictionary: P, which maps codes to signals.
        x: signals, (*any, *signal_shape), or (*batch, n, *signal_shape) for a batched dictionary.
        lam: weight of the penalty, at least zero: a number, or one per signal (a tensor of the signals' batch shape).
        ridge: weight of |a|^2 / 2, a number of at least zero.
        nonnegative: whether codes must not be negative.

    Every method takes codes of shape (*any, *code_shape) and returns one value per signal. Raises ValueError for
    signals that do not fit the dictionary, NaN or infinity, and for a negative lam or ridge.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        x: Tensor,
        lam: float | Tensor,
        ridge: float | Tensor = 0.0,
        nonnegative: bool = False,
    ) -> None:
        _checks.floating_tensor("x", x)
        _checks.trailing("x", x, dictionary.signal_shape, dictionary.batch_shape)
        _checks.same_kind("x", x, dictionary.tensors()[0], "the dictionary")
        self.dictionary = dictionary
        self.x = x
        self.lam = per_signal("lam", lam, self.batch_shape, x)
        self.ridge = _checks.number("ridge", ridge, nonnegative=True)
        self.nonnegative = bool(nonnegative)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of one value per signal."""
        return tuple(self.x.shape[: self.x.ndim - len(self.dictionary.signal_shape)])

    def __repr__(self) -> str:
        penalty = "elastic net" if _checks.plain(self.ridge) else "LASSO"
        sign = "non-negative " if self.nonnegative else ""
        return f"SparseProblem({sign}{penalty} of {math.prod(self.batch_shape)} signals with {self.dictionary})"

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
        wanted = (*self.batch_shape, *self.dictionary.code_shape)
        if tuple(a.shape[max(a.ndim - len(wanted), 0) :]) != wanted:
            raise ValueError(f"the code has shape {tuple(a.shape)}; (*any, *{wanted}) is wanted")
        return self.x - self.dictionary.decode(a)

    def critical_lam(self) -> Tensor:
        """The smallest lam at which the code is zero: max_i |P^T x|_i, or max(0, max_i (P^T x)_i) for a >= 0."""
        return self._dual_norm(self.dictionary.encode(self.x))

    def _dual_norm(self, c: Tensor) -> Tensor:
        return self.max_code(c).clamp(min=0) if self.nonnegative else self.max_code(c.abs())

    def _residuals(self, a: Tensor) -> _Residuals:
        r = self.residual(a)
        c = self.dictionary.encode(r)
        return _Residuals(r, c - self.ridge * a if isinstance(self.ridge, Tensor) or self.ridge else c)

    def objective(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """E(a); infinite where a code that must not be negative is."""
        value = 0.5 * self.sum_signal(self.residual(a).square()) + self.lam * self.sum_code(a.abs())
        value = value + 0.5 * self.ridge * self.sum_code(a.square())
        return torch.where(self._feasible(a), value, math.inf)

    def _feasible(self, a: Tensor) -> Tensor:
        return self.max_code(-a) <= 0 if self.nonnegative else torch.ones_like(self.lam, dtype=torch.bool)

    def gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The duality gap: a proven upper bound on E(a) - E*, whoever computed a.

        With r = x - P a, c = P^T r - ridge a and s = min(1, lam / |c|), the point s (r, -sqrt(ridge) a) is dual
        feasible and the gap is 1/2 (1 - s)^2 (|r|^2 + ridge |a|^2) + lam |a|_1 - s a.c, a sum of terms that are each
        at least zero and so free of the cancellation in E - D. First order in the error of a. At lam = 0 it is E(a)
        itself, a bound that never becomes small: there the KKT residual certifies.
        """
        return self._gap(a, self._residuals(a))

    def _gap(self, a: Tensor, residuals: _Residuals) -> Tensor:
        r, c = residuals
        norm = self._dual_norm(c)
        s = torch.where(norm > self.lam, self.lam / norm.clamp(min=torch.finfo(norm.dtype).tiny), 1.0)
        square = self.sum_signal(r.square()) + self.ridge * self.sum_code(a.square())
        linear = self.sum_code(self.per_code(self.lam) * a.abs() - self.per_code(s) * a * c)
        value = 0.5 * (1 - s).square() * square + linear.clamp(min=0)
        return torch.where(self._feasible(a), value, math.inf)

    def kkt_residual(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The largest violation of the optimality conditions, in units of P^T x; zero at the argmin only.

        With c = P^T (x - P a) - ridge a: |c_i - lam sgn a_i| where a_i is not zero, max(|c_i| - lam, 0) where it is;
        for a >= 0, max(c_i - lam, 0) where a_i is zero, and -a_i where it is negative.
        """
        return self._kkt(a, self._residuals(a).code)

    def _kkt(self, a: Tensor, c: Tensor) -> Tensor:
        lam = self.per_code(self.lam)
        idle = (c - lam if self.nonnegative else c.abs() - lam).clamp(min=0)
        violation = torch.where(a == 0, idle, (c - lam * a.sign()).abs())
        if self.nonnegative:
            violation = torch.maximum(violation, -a)
        return self.max_code(violation)

    def relative_gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The gap over 1/2 |x|^2, zero for x = 0 and a = 0: the certificate that everything else stops on.

        Where lam = 0 no gap becomes small, so there it is the KKT residual over max_i |P^T x|_i.
        """
        return self._relative_gap(a, self._residuals(a))

    def _relative_gap(self, a: Tensor, residuals: _Residuals) -> Tensor:
        gap = self._gap(a, residuals)
        relative = torch.where(gap == 0, gap, gap / (0.5 * self.sum_signal(self.x.square())))
        if bool((self.lam > 0).all()):
            return relative
        kkt = self._kkt(a, residuals.code)
        scale = self.max_code(self.dictionary.encode(self.x).abs())
        return torch.where(self.lam > 0, relative, torch.where(kkt == 0, kkt, kkt / scale))

    def certificate(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """(relative gap, KKT residual) at the price of one."""
        residuals = self._residuals(a)
        return self._relative_gap(a, residuals), self._kkt(a, residuals.code)

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that the problem depends on, in a fixed order."""
        ridge = (self.ridge,) if isinstance(self.ridge, Tensor) else ()
        return (*self.dictionary.tensors(), self.x, self.lam, *ridge)

    def _with(self, dictionary: Dictionary, x: Tensor, lam: Tensor, ridge: float | Tensor) -> SparseProblem:
        """The same kind of problem with other parts, which were checked when the first was made."""
        twin = copy.copy(self)
        twin.dictionary, twin.x, twin.lam, twin.ridge = dictionary, x, lam, ridge
        return twin

    def detach(self) -> SparseProblem:
        """The same problem, cut from the autograd graph."""
        ridge = self.ridge.detach() if isinstance(self.ridge, Tensor) else self.ridge
        return self._with(self.dictionary.detach(), self.x.detach(), self.lam.detach(), ridge)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SparseProblem:
        """The same problem on another device or in another floating-point dtype."""
        x, lam = (t.to(device=device, dtype=dtype) for t in (self.x, self.lam))
        ridge = self.ridge.to(device=device, dtype=dtype) if isinstance(self.ridge, Tensor) else self.ridge
        return self._with(self.dictionary.to(device, dtype), x, lam, ridge)

    def flat(self) -> SparseProblem:
        """The same problems with one leading dimension of signals, or (elements, n) for a batched dictionary."""
        lead, dictionary = flat_lead(self.dictionary, self.batch_shape)
        x = self.x.reshape(*lead, *dictionary.signal_shape)
        return self._with(dictionary, x, self.lam.reshape(lead), self.ridge)

    def select(self, index: Tensor) -> SparseProblem:
        """Of a `flat` problem, the rows `index` of its first dimension (signals, or elements of a batched
        dictionary).
        """
        return self._with(self.dictionary.select(index), self.x[index], self.lam[index], self.ridge)


def flat_lead(dictionary: Dictionary, batch: tuple[int, ...]) -> tuple[tuple[int, ...], Dictionary]:
    """The leading shape of flattened signals, (signals,) or (elements, n), and the dictionary that goes with it."""
    if not dictionary.batch_shape:
        return (math.prod(batch),), dictionary
    elements = math.prod(dictionary.batch_shape)
    flat = dictionary.select(torch.arange(elements, device=dictionary.device))
    return (elements, batch[-1]), flat


def per_signal(name: str, value: float | Tensor, batch: tuple[int, ...], like: Tensor) -> Tensor:
    """`value`, a number or one number per signal of at least zero, as a tensor of shape `batch`; ValueError
    otherwise.
    """
    if isinstance(value, Tensor) and value.ndim:
        _checks.floating_tensor(name, value)
        _checks.same_kind(name, value, like, "x")
        if tuple(value.shape) != batch:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; a number or one per signal, {batch}, is wanted")
        if not bool((value.detach() >= 0).all()):
            raise ValueError(f"{name} holds negative entries; numbers of at least zero are wanted")
        return value
    _checks.number(name, value, nonnegative=True)
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(batch)


def expand_trailing(value: Tensor, dims: int) -> Tensor:
    """`value` with `dims` dimensions of size one appended."""
    return value.reshape(*value.shape, *(1,) * dims)
