"""The sparse-reconstruction problem that an equilibrium solves, and its certificates."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks, _scaling
from vars_dyn._signals import expand_trailing, flat_lead, per_signal
from vars_dyn.certificates import Certificate, Evaluated, certify, least_pull
from vars_dyn.dictionaries.base import Dictionary, Rounding
from vars_dyn.units import Units, flat_rounding, narrowed, units

__all__ = ["SparseProblem"]


class _Residuals(NamedTuple):
    """What every certificate is made of: r = x - P a, and the negative gradient of the smooth part, P^T r - ridge a."""

    signal: Tensor
    code: Tensor


class _Prepared(NamedTuple):
    """What certificates need: the problem in float64 and in `units`, and how its dictionary rounds there.

    `key` holds the tensors that it was made from, and their versions.
    """

    key: list[tuple[Tensor, int]]
    problem: SparseProblem
    units: Units
    rounding: Rounding


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

    The gap, the relative gap and the KKT residual are upper bounds with rounding included: what the dtype rounds is
    bounded and added, and narrower dtypes are evaluated in float64. They are computed on signals and dictionaries
    brought near one by powers of two, so that the relative gap does not depend on units, however large or small. A
    value that cannot be computed is NaN or infinite, and within no tolerance.
    """

    _kept: _Prepared | None = None

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
        self._check_code(a)
        return self.x - self.dictionary.decode(a)

    def _check_code(self, a: Tensor) -> None:
        wanted = (*self.batch_shape, *self.dictionary.code_shape)
        if tuple(a.shape[max(a.ndim - len(wanted), 0) :]) != wanted:
            raise ValueError(f"the code has shape {tuple(a.shape)}; (*any, *{wanted}) is wanted")
        _checks.same_kind("the code", a, self.x, "x")

    def critical_lam(self) -> Tensor:
        """The smallest lam at which the code is zero: max_i |P^T x|_i, or max(0, max_i (P^T x)_i) for a >= 0."""
        twin, own = self.normalised()
        return own.descent(twin._dual_norm(twin.dictionary.encode(twin.x)))

    def _dual_norm(self, c: Tensor) -> Tensor:
        return self.max_code(c).clamp(min=0) if self.nonnegative else self.max_code(c.abs())

    def _residuals(self, a: Tensor) -> _Residuals:
        r = self.residual(a)
        c = self.dictionary.encode(r)
        return _Residuals(r, c - self.ridge_of(a) if self._has_ridge else c)

    @property
    def _has_ridge(self) -> bool:
        return isinstance(self.ridge, Tensor) or self.ridge != 0

    def ridge_of(self, a: Tensor) -> Tensor:
        """ridge a; of a normalised problem the ridge may be one number per signal."""
        return (self.per_code(self.ridge) if isinstance(self.ridge, Tensor) and self.ridge.ndim else self.ridge) * a

    def objective(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """E(a); infinite where a code that must not be negative is."""
        self._check_code(a)
        own = self._prepare()
        code = own.units.code(a.to(own.problem.x.dtype))
        value = own.units.energy(0.5 * own.problem.sum_signal(own.problem.residual(code).square()))
        if self._has_ridge:
            value = value + own.units.energy(0.5 * own.problem.ridge * own.problem.sum_code(code.square()))
        value = value + own.units.penalty(self.lam, own.problem.sum_code(code.abs()))
        return torch.where(self._feasible(a), value.to(a.dtype), math.inf)

    def _objective(self, a: Tensor) -> Tensor:
        """E(a) in the problem's own dtype and units."""
        value = 0.5 * self.sum_signal(self.residual(a).square()) + self.lam * self.sum_code(a.abs())
        if self._has_ridge:
            value = value + 0.5 * self.ridge * self.sum_code(a.square())
        return torch.where(self._feasible(a), value, math.inf)

    def _feasible(self, a: Tensor) -> Tensor:
        return self.max_code(-a) <= 0 if self.nonnegative else torch.ones_like(self.lam, dtype=torch.bool)

    def gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The duality gap: a proven upper bound on E(a) - E*, whoever computed a.

        With r = x - P a, c = P^T r - ridge a and s = min(1, lam / |c|), the point s (r, -sqrt(ridge) a) is dual
        feasible and the gap is 1/2 (1 - s)^2 (|r|^2 + ridge |a|^2) + lam |a|_1 - s a.c, a sum of terms that are each
        at least zero and so free of the cancellation in E - D. First order in the error of a. At lam = 0 it is E(a)
        itself, a bound that never becomes small: there the KKT residual certifies. To these is added what rounding may
        have taken off them. Differentiable in a and in all that the problem is made of.
        """
        own, code, residuals, found = self._evaluate(a)
        value = _through(own.problem._gap(code, residuals), found.gap)
        return narrowed(own.units.energy(value), found.gap, a.dtype)

    def _gap(self, a: Tensor, residuals: _Residuals) -> Tensor:
        r, c = residuals
        norm = self._dual_norm(c)
        s = torch.where(norm > self.lam, self.lam / norm.clamp(min=torch.finfo(norm.dtype).tiny), 1.0)
        square = self.sum_signal(r.square())
        if self._has_ridge:
            square = square + self.ridge * self.sum_code(a.square())
        linear = self.sum_code(self.per_code(self.lam) * a.abs() - self.per_code(s) * a * c)
        value = 0.5 * (1 - s).square() * square + linear.clamp(min=0)
        return torch.where(self._feasible(a), value, math.inf)

    def kkt_residual(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The largest violation of the optimality conditions, in units of P^T x; zero at the argmin only.

        With c = P^T (x - P a) - ridge a: |c_i - lam sgn a_i| where a_i is not zero, max(|c_i| - lam, 0) where it is;
        for a >= 0, max(c_i - lam, 0) where a_i is zero, and -a_i where it is negative. With what rounding may have
        taken off.
        """
        own, code, residuals, found = self._evaluate(a)
        return self._kkt_of(own, a, _through(own.problem._kkt(code, residuals.code), found.kkt), found.kkt)

    def _kkt_of(self, own: _Prepared, a: Tensor, value: Tensor, bound: Tensor) -> Tensor:
        kkt = narrowed(own.units.descent(value), bound, a.dtype)
        return torch.maximum(kkt, self.max_code(-a)) if self.nonnegative else kkt

    def _kkt(self, a: Tensor, c: Tensor) -> Tensor:
        lam = self.per_code(self.lam)
        idle = (c - lam if self.nonnegative else c.abs() - lam).clamp(min=0)
        return self.max_code(torch.where(a == 0, idle, (c - lam * a.sign()).abs()))

    def relative_gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The gap over 1/2 |x|^2, zero for x = 0 and a = 0: the certificate that everything else stops on.

        Where lam = 0 no gap becomes small, so there it is the KKT residual over max_i |P^T x|_i (over max_i |P_i| |x|
        where x is orthogonal to every atom P_i up to rounding).
        """
        own, code, residuals, found = self._evaluate(a)
        relative = _through(own.problem._relative_gap(code, residuals), found.relative_gap)
        return narrowed(relative, found.relative_gap, a.dtype)

    def _relative_gap(self, a: Tensor, residuals: _Residuals) -> Tensor:
        gap = self._gap(a, residuals)
        relative = torch.where(gap == 0, gap, gap / (0.5 * self.sum_signal(self.x.square())))
        if bool((self.lam > 0).all()):
            return relative
        kkt = self._kkt(a, residuals.code)
        scale = self.max_code(self.dictionary.encode(self.x).abs())
        return torch.where(self.lam > 0, relative, torch.where(kkt == 0, kkt, kkt / scale))

    def certificate(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """(relative gap, KKT residual) at the price of one; without a gradient."""
        own, _, _, found = self._evaluate(a)
        relative = narrowed(found.relative_gap, found.relative_gap, a.dtype)
        return relative, self._kkt_of(own, a, found.kkt, found.kkt)

    def rounding(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The part of `kkt_residual` that stands for rounding; without a gradient."""
        own, _, _, found = self._evaluate(a)
        return narrowed(own.units.descent(found.rounding), found.rounding, a.dtype)

    def _evaluate(self, a: Tensor) -> tuple[_Prepared, Tensor, _Residuals, Certificate]:
        """The normalised problem, the code in its units, its residuals there, and their certificate."""
        self._check_code(a)
        own = self._prepare()
        code = own.units.code(a.to(own.problem.x.dtype))
        residuals = own.problem._residuals(code)
        lost = None
        if not own.units.plain:
            small = (a != 0) & (code.abs() < torch.finfo(code.dtype).tiny)
            lost = own.problem.max_code(small.to(code.dtype))
        return own, code, residuals, own.problem._certify(code, residuals, own.rounding, lost)

    def _certify(
        self, a: Tensor, residuals: _Residuals, rounding: Rounding | None = None, lost: Tensor | None = None
    ) -> Certificate:
        """The certificate of a code of a normalised problem in float64."""
        with torch.no_grad():
            if rounding is None:
                rounding = self._prepare().rounding
            signal, event = len(self.dictionary.signal_shape), len(self.dictionary.code_shape)
            x = self.x.detach().flatten(-signal)
            pull = None
            if not bool((self.lam > 0).all()):
                pull = least_pull(x, self.dictionary.encode(self.x.detach()).flatten(-event), rounding)
            ridge = self.ridge.detach() if isinstance(self.ridge, Tensor) else self.ridge
            return certify(
                Evaluated(
                    a.detach().flatten(-event),
                    torch.zeros_like(self.lam, dtype=torch.bool) if lost is None else lost > 0,
                    residuals.signal.detach().flatten(-signal),
                    residuals.code.detach().flatten(-event),
                    self.lam.detach(),
                    ridge,
                    x.square().sum(-1),
                    pull,
                    self.nonnegative,
                ),
                rounding,
            )

    def _prepare(self) -> _Prepared:
        """What certificates of this problem need, kept while its tensors stay the same."""
        tensors = self.tensors()
        try:
            key = [(t, t._version) for t in tensors]
        except RuntimeError:  # inference tensors do not count their changes
            key = []
        kept = self._kept
        if kept and key and all(a is b and v == w for (a, v), (b, w) in zip(kept.key, key, strict=True)):
            return kept
        wide = self if self.x.dtype == torch.float64 else self.to(dtype=torch.float64)
        twin, own = wide.normalised()
        with torch.no_grad():
            found = _Prepared(key, twin, own, flat_rounding(twin.dictionary, None if own.plain else wide.dictionary))
        if key and (twin is self or not any(t.requires_grad for t in twin.tensors())):
            self._kept = found
        return found

    def normalised(self) -> tuple[SparseProblem, Units]:
        """The problem in units in which nothing can underflow or overflow, and these; itself where nothing can."""
        own = units(self.x, self.dictionary, self.ridge)
        if own.plain:
            return self, own
        x = _scaling.scaled(self.x, -expand_trailing(own.e, len(self.dictionary.signal_shape)))
        ridge = own.ridge(torch.as_tensor(self.ridge, dtype=x.dtype, device=x.device)) if self._has_ridge else 0.0
        return self._with(self.dictionary._scaled(-own.own), x, own.weight(self.lam), ridge), own

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that the problem depends on, in a fixed order."""
        ridge = (self.ridge,) if isinstance(self.ridge, Tensor) else ()
        return (*self.dictionary.tensors(), self.x, self.lam, *ridge)

    def _with(self, dictionary: Dictionary, x: Tensor, lam: Tensor, ridge: float | Tensor) -> SparseProblem:
        """The same kind of problem with other parts, which were checked when the first was made."""
        twin = copy.copy(self)
        twin.dictionary, twin.x, twin.lam, twin.ridge = dictionary, x, lam, ridge
        twin._kept = None
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
        ridge = self.ridge[index] if isinstance(self.ridge, Tensor) and self.ridge.ndim else self.ridge
        some = self._with(self.dictionary.select(index), self.x[index], self.lam[index], ridge)
        kept = self._prepare() if self._kept and some.dictionary is self.dictionary else None
        if kept and kept.problem is self:
            some._kept = kept._replace(key=[(t, t._version) for t in some.tensors()], problem=some)
        return some


def _through(value: Tensor, bound: Tensor) -> Tensor:
    """`bound`, with the gradient of `value` where there is one."""
    return bound + (value - value.detach()) if value.requires_grad else bound
