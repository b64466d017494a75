"""The sparse-reconstruction problem that an equilibrium solves, and its certificates."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks, _scaling
from vars_dyn._showing import Shown, spread
from vars_dyn._versions import unchanged, versions
from vars_dyn.certificates import Certificate, Evaluated, Shifted, Sums, certify, improved, least_pull
from vars_dyn.dictionaries.base import Dictionary, Rounding
from vars_dyn.penalties import L1, NonNegativeL1, Penalty
from vars_dyn.raw_problems import RawProblem, Residuals
from vars_dyn.shapes import checked_ridge, expand_trailing, per_atom, per_signal
from vars_dyn.units import Units, flat_rounding, narrowed, units

__all__ = ["Prepared", "SparseProblem", "checked_weights"]


class Prepared(NamedTuple):
    """What certificates need: the problem in float64 and in `units`, and the rounding of its dictionary there.

    `key` holds the tensors that it was made from, with their versions.
    """

    key: list[tuple[Tensor, int]]
    problem: SparseProblem
    units: Units
    rounding: Rounding


class SparseProblem(Shown, RawProblem):
    """minimise over a:  E(a) = 1/2 |P a - x|^2 + lam sum_i w_i |a_i| - q.a + ridge/2 |a|^2, a >= 0 if `nonnegative`.

    LASSO, elastic net (ridge > 0) and their non-negative forms, one problem per signal, with weights w and a bias q
    where they are given. Where `penalty` gives another r, r(a_i) takes the place of |a_i|.

    Args:
        dictionary: P, which maps codes to signals.
        x: signals, (*any, *signal_shape), or (*batch, n, *signal_shape) for a batched dictionary.
        lam: weight of the penalty, at least zero: a number, or one per signal (a tensor of the signals' batch shape).
        ridge: weight of |a|^2 / 2, at least zero: a number, one per signal (as lam), one per atom (of `code_shape`), or
            one per signal and atom. It is kept as a number, or as a tensor that broadcasts against codes.
        nonnegative: whether codes must not be negative.
        penalty: r, a `vars_dyn.penalties.Penalty`; None for the l1 norm, non-negative where asked for.
        weights: w, one per atom (of `code_shape`, or broadcastable to it), or one per signal and atom, at least zero.
            An atom of weight zero bears no penalty; which atoms these are is the same for all signals, and they must be
            linearly independent. An infinite weight silences an atom. None: ones.
        bias: q, one per atom, or one per signal and atom. None: zeros.

    In place of tensors, arrays are taken in their own dtype, and lists of numbers as float64.

    Every method takes codes of shape (*any, *code_shape) and returns one value per signal. Raises ValueError for
    signals that do not fit the dictionary, NaN or infinity, a negative lam or ridge, and `nonnegative` with a penalty
    that allows negative codes. Certificates and `solve` raise it for atoms without a penalty that are dependent.

    A bias that is larger than the penalty of its atom may leave E unbounded below. Then `bounded` is False, the gap is
    infinite, and `solve` refuses.

    The gap, the relative gap and the KKT residual are upper bounds that include rounding: rounding errors are bounded
    and added, and narrower dtypes are evaluated in float64. They are computed on signals and dictionaries that powers
    of two bring near one, so that the relative gap does not depend on units, however large or small. A value that
    cannot be computed is NaN or infinite, and so within no tolerance. While they iterate, solvers use `residuals` and
    the methods `raw_...`, whose values are computed in the problem's own dtype and units without a bound on rounding.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> problem = vd.SparseProblem(P, torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64), lam=0.5)
        >>> best = torch.tensor([1.5, -0.5, 0.0], dtype=torch.float64)
        >>> round(problem.objective(best).item(), 6), problem.relative_gap(best).item() < 1e-14
        (1.295, True)
        >>> zero = torch.zeros(3, dtype=torch.float64)
        >>> round(problem.relative_gap(zero).item(), 6)  # how far zero may be from the optimum
        0.5625
    """

    _kept: Prepared | None = None

    def __init__(
        self,
        dictionary: Dictionary,
        x: Tensor | _checks.Numbers,
        lam: float | Tensor | _checks.Numbers,
        ridge: float | Tensor = 0.0,
        nonnegative: bool = False,
        *,
        penalty: Penalty | None = None,
        weights: Tensor | _checks.Numbers | None = None,
        bias: Tensor | _checks.Numbers | None = None,
    ) -> None:
        x = _checks.floating_tensor("x", x)
        _checks.trailing("x", x, dictionary.signal_shape, dictionary.batch_shape)
        _checks.same_kind("x", x, dictionary.tensors()[0], "the dictionary")
        self.dictionary = dictionary
        self.x = x
        self.lam = per_signal("lam", lam, self.batch_shape, x)
        self.ridge = checked_ridge(ridge, dictionary.code_shape, self.batch_shape, x)
        if penalty is None:
            penalty = NonNegativeL1() if nonnegative else L1()
        elif nonnegative and not penalty.nonnegative:
            raise ValueError(f"nonnegative is True, but penalty is {penalty}; a penalty on a >= 0 only is wanted")
        self.penalty = penalty
        code_shape = dictionary.code_shape
        if weights is not None:
            self.weights = checked_weights(weights, code_shape, self.batch_shape, x)
        if bias is not None:
            self.bias = per_atom("bias", bias, code_shape, self.batch_shape, x)

    def described(self) -> dict[str, object]:
        ridged = bool(torch.as_tensor(self.ridge).any())
        ridge = {"ridge": spread(torch.as_tensor(self.ridge))} if ridged else {}
        kind = f"{'non-negative ' if self.nonnegative else ''}{'elastic net' if ridged else 'LASSO'}"
        return {"kind": kind, "lam": spread(self.lam), **ridge, "x": tuple(self.x.shape), "dictionary": self.dictionary}

    def critical_lam(self) -> Tensor:
        """The smallest lam at which the code is zero: max_i |P^T x + q|_i / w_i; for a >= 0 without the modulus.

        Where atoms bear no penalty it is the smallest lam at which no other atom is active.
        """
        twin, own = self.normalised()
        drive, anchor = twin.drive(), twin.anchor() if twin.weights is not None else None
        if anchor is not None and anchor.unpenalised is not None:
            return own.descent(twin.dual_norm(twin.residuals(twin.on_unpenalised(torch.zeros_like(drive), drive)).code))
        return own.descent(twin.dual_norm(drive))

    def bounded(self) -> Tensor:
        """Whether E is proved to be bounded below, one per signal; it always is without a bias."""
        return self.prepared().problem.anchor().found

    def objective(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """E(a); infinite where a code that must not be negative is."""
        self._check_code(a)
        own = self.prepared()
        code = own.units.code(a.to(own.problem.x.dtype))
        value = own.units.energy(0.5 * own.problem.sum_signal(own.problem.residual(code).square()))
        if self._has_ridge:
            value = value + own.units.energy(0.5 * own.problem.ridged(code))
        cost = self.penalty.cost(code.abs())
        if self.weights is not None:
            cost = self.weights.masked_fill(self.weights.isinf(), 0.0).to(code.dtype) * cost
        value = value + own.units.penalty(self.lam, own.problem.sum_code(cost))
        if own.problem.bias is not None:
            value = value - own.units.energy(own.problem.sum_code(own.problem.bias * code))
        return self._where_feasible(a, value.to(a.dtype))

    def gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The duality gap: a proven upper bound on E(a) - E*, however a was computed.

        With r = x - P a, c = P^T r - ridge a and s = min(1, lam / |c|), the point s (r, -sqrt(ridge) a) is dual
        feasible and the gap is 1/2 (1 - s)^2 (|r|^2 + ridge |a|^2) + lam |a|_1 - s a.c. None of its terms is negative,
        so it is free of the cancellation in E - D. For another penalty r, its dual norm takes the place of |c|, and
        sum_i r(a_i) that of |a|_1. With weights, a bias, or atoms without a penalty the dual point is that of
        docs/mathematics.md, "Weights and a bias". A bound on the rounding errors of these terms is added. The gap is of
        first order in the error of a. At lam = 0 it is E(a) itself (with a bias, infinite), which never becomes small,
        so there the KKT residual is the certificate. The gap is differentiable in a and in every tensor of the problem.
        """
        own, code, residuals, found = self._evaluate(a)
        value = _through(own.problem.raw_gap(code, residuals), found.gap)
        return narrowed(own.units.energy(value), found.gap, a.dtype)

    def kkt_residual(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The largest violation of the optimality conditions, in units of P^T x; zero at the argmin only.

        With c = P^T (x - P a) + q - ridge a: |c_i - lam w_i sgn a_i| where a_i is not zero, max(|c_i| - lam w_i, 0)
        where it is; for a >= 0, max(c_i - lam w_i, 0) where a_i is zero, and -a_i where it is negative. A bound on
        rounding errors is added.
        """
        own, code, residuals, found = self._evaluate(a)
        return self._kkt_of(own, a, _through(own.problem.raw_violation(code, residuals), found.kkt), found.kkt)

    def _kkt_of(self, own: Prepared, a: Tensor, value: Tensor, bound: Tensor) -> Tensor:
        return self._with_outside(a, narrowed(own.units.descent(value), bound, a.dtype))

    def relative_gap(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The gap over 1/2 |x|^2, zero for x = 0 and a = 0: the certificate on which solvers and integrations stop.

        A bias that exceeds its atom's penalty acts like a signal of its own, P b of docs/mathematics.md, "Weights and a
        bias"; then the gap is over 1/2 (|x|^2 + |P b|^2 + ridge |b|^2). Where lam = 0 the gap does not become small, so
        there it is the KKT residual over max_i |P^T x + q|_i, or over max_i |P_i| |x| where that is zero up to
        rounding.
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
        lost = None
        if not own.units.plain:
            number = torch.finfo(code.dtype)
            small = (a != 0) & (code.abs() < number.tiny)
            lost = own.problem.max_code(small.to(code.dtype))
            # An entry that underflows must not count as zero: it has another optimality condition, and may be silenced.
            code = torch.where(small & (code == 0), a.sign().to(code.dtype) * (number.tiny * number.eps), code)
        residuals = own.problem.residuals(code)
        return own, code, residuals, own.problem.certify(code, residuals, own.rounding, lost)

    def certify(
        self,
        a: Tensor,
        residuals: Residuals,
        rounding: Rounding | None = None,
        lost: Tensor | None = None,
        sums: Sums | None = None,
    ) -> Certificate:
        """The certificate of a code from its `residuals`, for a normalised problem in float64.

        `rounding` is the dictionary's, and is computed where it is None. `lost` is above zero for signals whose codes
        may have lost digits by the conversion into these units. `sums` are those of `Evaluated`, where the caller has
        them.
        """
        with torch.no_grad():
            if rounding is None:
                rounding = self.prepared().rounding
            signal, event = len(self.dictionary.signal_shape), len(self.dictionary.code_shape)
            x = self.x.detach().flatten(-signal)
            pull = None
            if not bool((self.lam > 0).all()):
                bias = None if self.bias is None else self.bias.detach().flatten(-event)
                pull = least_pull(x, self.dictionary.encode(self.x.detach()).flatten(-event), rounding, bias)
            ridge = self.ridge.detach() if isinstance(self.ridge, Tensor) else self.ridge
            ridge = ridge.flatten(-event) if isinstance(ridge, Tensor) and ridge.ndim else ridge
            evaluated = Evaluated(
                a.detach().flatten(-event),
                torch.zeros_like(self.lam, dtype=torch.bool) if lost is None else lost > 0,
                residuals.signal.detach().flatten(-signal),
                residuals.code.detach().flatten(-event),
                self.lam.detach(),
                ridge,
                x.square().sum(-1),
                pull,
                self.penalty.flattened(self.dictionary.code_shape),
                sums=sums,
            )
            if self.weights is None and self.bias is None:
                return certify(evaluated, rounding)
            return self._certify_shifted(a.detach(), evaluated, rounding)

    def _certify_shifted(self, a: Tensor, evaluated: Evaluated, rounding: Rounding) -> Certificate:
        """The certificate of a problem with weights or a bias."""
        signal, event = len(self.dictionary.signal_shape), len(self.dictionary.code_shape)
        anchor = self.anchor()
        shape = (*self.batch_shape, *self.dictionary.code_shape)
        shifted = Shifted(
            self.weight.detach().expand(shape).flatten(-event),
            self.x.detach().flatten(-signal),
            None if anchor.bias is None else anchor.bias.detach().expand(shape).flatten(-event),
            None if anchor.code is None else anchor.code.detach().flatten(-event),
            None if anchor.shift is None else anchor.shift.detach().flatten(-signal),
            anchor.found,
            anchor.unpenalised,
        )
        evaluated = evaluated._replace(shifted=shifted)
        found = certify(evaluated, rounding)
        if anchor.unpenalised is None:
            return found
        moved = self.on_unpenalised(a, evaluated.c.unflatten(-1, self.dictionary.code_shape))
        after, step = self.residuals(moved), moved - a
        there = evaluated._replace(
            a=moved.flatten(-event), r=after.signal.flatten(-signal), c=after.code.flatten(-event)
        )
        image = self.dictionary.decode(step).flatten(-signal)
        return improved(found, there, step.flatten(-event), image, rounding)

    def prepared(self) -> Prepared:
        """What certificates of this problem need, kept while its tensors stay the same."""
        key, kept = versions(self.tensors()), self._kept
        if kept and key and unchanged(kept.key, key):
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
        bias = self.bias
        if bias is not None and self.weights is not None and bool(self.weights.isinf().any()):
            bias = torch.where(self.weights.isinf(), 0.0, bias)  # it moves nothing, and must not set the units
        own = units(self.x, self.dictionary, self.ridge, bias)
        if own.plain:
            parts = self.dictionary, self.x, self.lam, self.ridge
            return self if bias is self.bias else self.with_parts(*parts, bias=bias), own
        x = _scaling.scaled(self.x, -expand_trailing(own.e, len(self.dictionary.signal_shape)))
        ridge = own.ridge(torch.as_tensor(self.ridge, dtype=x.dtype, device=x.device)) if self._has_ridge else 0.0
        if bias is not None:
            bias = own.bias(bias.expand(self.batch_shape + self.dictionary.code_shape))
        return self.with_parts(self.dictionary.scaled(-own.own), x, own.weight(self.lam), ridge, bias=bias), own

    def with_parts(
        self,
        dictionary: Dictionary,
        x: Tensor,
        lam: Tensor,
        ridge: float | Tensor,
        penalty: Penalty | None = None,
        weights: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Self:
        twin = super().with_parts(dictionary, x, lam, ridge, penalty, weights, bias)
        twin._kept = None
        return twin

    def select(self, index: Tensor) -> Self:
        some = super().select(index)
        kept = self.prepared() if self._kept and some.dictionary is self.dictionary else None
        if kept and kept.problem is self:
            some._kept = kept._replace(key=[(t, t._version) for t in some.tensors()], problem=some)
        return some


def checked_weights(
    given: Tensor | _checks.Numbers, code_shape: tuple[int, ...], batch: tuple[int, ...], like: Tensor
) -> Tensor:
    """`weights` as `per_atom` expands them; ValueError where they are negative, or zero for some signals only."""
    weights, dims = per_atom("weights", given, code_shape, batch, like, finite=False), len(code_shape)
    if bool((weights.detach() < 0).any()):
        raise ValueError("weights holds negative entries; numbers of at least zero are wanted")
    if weights.ndim > dims:
        none = (weights.detach() == 0).flatten(-dims).flatten(0, -2)
        if bool((none != none[:1]).any()):
            raise ValueError("weights is zero for an atom at some signals only; zero at all signals or none is wanted")
    return weights


def _through(value: Tensor, bound: Tensor) -> Tensor:
    """`bound`, with the gradient of `value` where there is one."""
    return bound + (value - value.detach()) if value.requires_grad else bound
