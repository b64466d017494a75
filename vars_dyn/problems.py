"""The sparse-reconstruction problem that an equilibrium solves, and its certificates."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks, _scaling
from vars_dyn.certificates import Certificate, Evaluated, certify, least_pull
from vars_dyn.dictionaries.base import Dictionary, Rounding
from vars_dyn.penalties import L1, NonNegativeL1, Penalty
from vars_dyn.raw_problems import RawProblem, Residuals
from vars_dyn.shapes import expand_trailing, per_signal
from vars_dyn.units import Units, flat_rounding, narrowed, units

__all__ = ["Prepared", "SparseProblem"]


class Prepared(NamedTuple):
    """What certificates need: the problem in float64 and in `units`, and the rounding of its dictionary there.

    `key` holds the tensors that it was made from, with their versions.
    """

    key: list[tuple[Tensor, int]]
    problem: SparseProblem
    units: Units
    rounding: Rounding


class SparseProblem(RawProblem):
    """minimise over a:  E(a) = 1/2 |P a - x|^2 + lam |a|_1 + ridge/2 |a|^2, with a >= 0 if `nonnegative`.

    LASSO, elastic net (ridge > 0) and their non-negative forms, one problem per signal. Where `penalty` gives
    another r, lam sum_i r(a_i) takes the place of lam |a|_1.

    Args:
        dictionary: P, which maps codes to signals.
        x: signals, (*any, *signal_shape), or (*batch, n, *signal_shape) for a batched dictionary.
        lam: weight of the penalty, at least zero: a number, or one per signal (a tensor of the signals' batch shape).
        ridge: weight of |a|^2 / 2, a number of at least zero.
        nonnegative: whether codes must not be negative.
        penalty: r, a `vars_dyn.penalties.Penalty`; None for the l1 norm, non-negative where asked for.

    Every method takes codes of shape (*any, *code_shape) and returns one value per signal. Raises ValueError for
    signals that do not fit the dictionary, NaN or infinity, a negative lam or ridge, and `nonnegative` with a penalty
    that allows negative codes.

    The gap, the relative gap and the KKT residual are upper bounds that include rounding: rounding errors are bounded
    and added, and narrower dtypes are evaluated in float64. They are computed on signals and dictionaries that powers
    of two bring near one, so that the relative gap does not depend on units, however large or small. A value that
    cannot be computed is NaN or infinite, and so within no tolerance. While they iterate, solvers use `residuals` and
    the methods `raw_...`, whose values are computed in the problem's own dtype and units without a bound on rounding.
    """

    _kept: Prepared | None = None

    def __init__(
        self,
        dictionary: Dictionary,
        x: Tensor,
        lam: float | Tensor,
        ridge: float | Tensor = 0.0,
        nonnegative: bool = False,
        *,
        penalty: Penalty | None = None,
    ) -> None:
        _checks.floating_tensor("x", x)
        _checks.trailing("x", x, dictionary.signal_shape, dictionary.batch_shape)
        _checks.same_kind("x", x, dictionary.tensors()[0], "the dictionary")
        self.dictionary = dictionary
        self.x = x
        self.lam = per_signal("lam", lam, self.batch_shape, x)
        self.ridge = _checks.number("ridge", ridge, nonnegative=True)
        if penalty is None:
            penalty = NonNegativeL1() if nonnegative else L1()
        elif nonnegative and not penalty.nonnegative:
            raise ValueError(f"nonnegative is True, but penalty is {penalty}; a penalty on a >= 0 only is wanted")
        self.penalty = penalty

    def __repr__(self) -> str:
        name = "elastic net" if _checks.plain(self.ridge) else "LASSO"
        sign = "non-negative " if self.nonnegative else ""
        return f"SparseProblem({sign}{name} of {math.prod(self.batch_shape)} signals with {self.dictionary})"

    def critical_lam(self) -> Tensor:
        """The smallest lam at which the code is zero: max_i |P^T x|_i, or max(0, max_i (P^T x)_i) for a >= 0."""
        twin, own = self.normalised()
        return own.descent(twin.dual_norm(twin.dictionary.encode(twin.x)))

    def objective(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """E(a); infinite where a code that must not be negative is."""
        self._check_code(a)
        own = self.prepared()
        code = own.units.code(a.to(own.problem.x.dtype))
        value = own.units.energy(0.5 * own.problem.sum_signal(own.problem.residual(code).square()))
        if self._has_ridge:
            value = value + own.units.energy(0.5 * own.problem.ridge * own.problem.sum_code(code.square()))
        value = value + own.units.penalty(self.lam, own.problem.sum_code(self.penalty.cost(code.abs())))
        return self._where_feasible(a, value.to(a.dtype))

    def gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The duality gap: a proven upper bound on E(a) - E*, however a was computed.

        With r = x - P a, c = P^T r - ridge a and s = min(1, lam / |c|), the point s (r, -sqrt(ridge) a) is dual
        feasible and the gap is 1/2 (1 - s)^2 (|r|^2 + ridge |a|^2) + lam |a|_1 - s a.c. None of its terms is negative,
        so it is free of the cancellation in E - D. For another penalty r, its dual norm takes the place of |c|, and
        sum_i r(a_i) that of |a|_1. A bound on the rounding errors of these terms is added. The gap is of first order in
        the error of a. At lam = 0 it is E(a) itself, which never becomes small, so there the KKT residual is the
        certificate. The gap is differentiable in a and in every tensor of the problem.
        """
        own, code, residuals, found = self._evaluate(a)
        value = _through(own.problem.raw_gap(code, residuals), found.gap)
        return narrowed(own.units.energy(value), found.gap, a.dtype)

    def kkt_residual(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The largest violation of the optimality conditions, in units of P^T x; zero at the argmin only.

        With c = P^T (x - P a) - ridge a: |c_i - lam sgn a_i| where a_i is not zero, max(|c_i| - lam, 0) where it is;
        for a >= 0, max(c_i - lam, 0) where a_i is zero, and -a_i where it is negative. A bound on rounding errors is
        added.
        """
        own, code, residuals, found = self._evaluate(a)
        return self._kkt_of(own, a, _through(own.problem.raw_violation(code, residuals), found.kkt), found.kkt)

    def _kkt_of(self, own: Prepared, a: Tensor, value: Tensor, bound: Tensor) -> Tensor:
        return self._with_outside(a, narrowed(own.units.descent(value), bound, a.dtype))

    def relative_gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The gap over 1/2 |x|^2, zero for x = 0 and a = 0: the certificate on which solvers and integrations stop.

        Where lam = 0 the gap does not become small, so there it is the KKT residual over max_i |P^T x|_i, or over
        max_i |P_i| |x| where x is orthogonal to every atom P_i up to rounding.
        """
        own, code, residuals, found = self._evaluate(a)
        relative = _through(own.problem.raw_relative_gap(code, residuals), found.relative_gap)
        return narrowed(relative, found.relative_gap, a.dtype)

    def certificate(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """(relative gap, KKT residual), computed together at the cost of one; without a gradient."""
        own, _, _, found = self._evaluate(a)
        relative = narrowed(found.relative_gap, found.relative_gap, a.dtype)
        return relative, self._kkt_of(own, a, found.kkt, found.kkt)

    def rounding(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The part of `kkt_residual` that stands for rounding; without a gradient."""
        own, _, _, found = self._evaluate(a)
        return narrowed(own.units.descent(found.rounding), found.rounding, a.dtype)

    def _evaluate(self, a: Tensor) -> tuple[Prepared, Tensor, Residuals, Certificate]:
        """The normalised problem, the code in its units, its residuals there, and their certificate."""
        self._check_code(a)
        own = self.prepared()
        code = own.units.code(a.to(own.problem.x.dtype))
        residuals = own.problem.residuals(code)
        lost = None
        if not own.units.plain:
            small = (a != 0) & (code.abs() < torch.finfo(code.dtype).tiny)
            lost = own.problem.max_code(small.to(code.dtype))
        return own, code, residuals, own.problem.certify(code, residuals, own.rounding, lost)

    def certify(
        self, a: Tensor, residuals: Residuals, rounding: Rounding | None = None, lost: Tensor | None = None
    ) -> Certificate:
        """The certificate of a code from its `residuals`, for a normalised problem in float64.

        `rounding` is the dictionary's, and is computed where it is None. `lost` is above zero for signals whose codes
        may have lost digits by the conversion into these units.
        """
        with torch.no_grad():
            if rounding is None:
                rounding = self.prepared().rounding
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
                    self.penalty.flattened(self.dictionary.code_shape),
                ),
                rounding,
            )

    def prepared(self) -> Prepared:
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
            found = Prepared(key, twin, own, flat_rounding(twin.dictionary, None if own.plain else wide.dictionary))
        if key and (twin is self or not any(t.requires_grad for t in twin.tensors())):
            self._kept = found
        return found

    def normalised(self) -> tuple[SparseProblem, Units]:
        """The problem in units in which nothing underflows or overflows, and the units; itself where it needs none."""
        own = units(self.x, self.dictionary, self.ridge)
        if own.plain:
            return self, own
        x = _scaling.scaled(self.x, -expand_trailing(own.e, len(self.dictionary.signal_shape)))
        ridge = own.ridge(torch.as_tensor(self.ridge, dtype=x.dtype, device=x.device)) if self._has_ridge else 0.0
        return self.with_parts(self.dictionary.scaled(-own.own), x, own.weight(self.lam), ridge), own

    def with_parts(
        self,
        dictionary: Dictionary,
        x: Tensor,
        lam: Tensor,
        ridge: float | Tensor,
        penalty: Penalty | None = None,
    ) -> Self:
        twin = super().with_parts(dictionary, x, lam, ridge, penalty)
        twin._kept = None
        return twin

    def select(self, index: Tensor) -> Self:
        some = super().select(index)
        kept = self.prepared() if self._kept and some.dictionary is self.dictionary else None
        if kept and kept.problem is self:
            some._kept = kept._replace(key=[(t, t._version) for t in some.tensors()], problem=some)
        return some


def _through(value: Tensor, bound: Tensor) -> Tensor:
    """`bound`, with the gradient of `value` where there is one."""
    return bound + (value - value.detach()) if value.requires_grad else bound
