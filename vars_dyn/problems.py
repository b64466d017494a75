"""The sparse-reconstruction problem that an equilibrium solves, and its certificates."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks, _scaling
from vars_dyn.certificates import Certificate, Evaluated, certify, least_pull
from vars_dyn.dictionaries.base import Dictionary, Rounding

__all__ = ["Normalised", "SparseProblem"]


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

    The gap, the relative gap and the KKT residual are upper bounds with rounding included: what the dtype rounds is
    bounded and added, and narrower dtypes are evaluated in float64. They are computed on signals and dictionaries
    brought near one by powers of two, so that the relative gap does not depend on units, however large or small. A
    value that cannot be computed is NaN or infinite, and within no tolerance.
    """

    #: What the certificates were last prepared from, and what was prepared.
    _prepared: tuple[Any, Normalised, Rounding] | None = None

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
        own = self.normalised()
        return own.descent(own.problem._dual_norm(own.problem.dictionary.encode(own.problem.x)))

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
        own, _ = self._prepare()
        code = own.to_twin(a)
        value = own.energy(0.5 * own.problem.sum_signal(own.problem.residual(code).square()))
        if self._has_ridge:
            value = value + own.energy(0.5 * own.problem.ridge * own.problem.sum_code(code.square()))
        value = value + own.penalty(self.lam, own.problem.sum_code(code.abs()))
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
        return _narrowed(own.energy(_through(own.problem._gap(code, residuals), found.gap)), found.gap, a.dtype)

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

    def _kkt_of(self, own: Normalised, a: Tensor, value: Tensor, bound: Tensor) -> Tensor:
        kkt = _narrowed(own.descent(value), bound, a.dtype)
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
        return _narrowed(relative, found.relative_gap, a.dtype)

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
        relative = _narrowed(found.relative_gap, found.relative_gap, a.dtype)
        return relative, self._kkt_of(own, a, found.kkt, found.kkt)

    def rounding(self, a: Float[Tensor, "*shape"]) -> Tensor:
        """The part of `kkt_residual` that stands for rounding; without a gradient."""
        own, _, _, found = self._evaluate(a)
        return _narrowed(own.descent(found.rounding), found.rounding, a.dtype)

    def _evaluate(self, a: Tensor) -> tuple[Normalised, Tensor, _Residuals, Certificate]:
        """The normalised problem, the code in its units, its residuals there, and their certificate."""
        self._check_code(a)
        own, rounding = self._prepare()
        code = own.to_twin(a)
        residuals = own.problem._residuals(code)
        lost = None if own.is_plain and a.dtype == code.dtype else own.problem.max_code(
            ((a != 0) & (code.abs() < torch.finfo(code.dtype).tiny)).to(code.dtype)
        )
        return own, code, residuals, own.problem._certify(code, residuals, rounding, lost)

    def _certify(
        self, a: Tensor, residuals: _Residuals, rounding: Rounding | None = None, lost: Tensor | None = None
    ) -> Certificate:
        """The certificate of a code of a normalised problem in float64."""
        with torch.no_grad():
            if rounding is None:
                rounding = self._prepare()[1]
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

    def _prepare(self) -> tuple[Normalised, Rounding]:
        """`normalised` in float64, and its dictionary's rounding; kept while the tensors stay the same."""
        key = self._key()
        if self._prepared is not None and key is not None and self._prepared[0] == key:
            return self._prepared[1:]
        wide = self if self.x.dtype == torch.float64 else self.to(dtype=torch.float64)
        own = wide.normalised()
        with torch.no_grad():
            rounding = _flat(own.problem.dictionary)
        if key is not None and (own.problem is self or not any(t.requires_grad for t in own.problem.tensors())):
            self._prepared = (key, own, rounding)
        return own, rounding

    def _key(self) -> Any:
        """What changes when a tensor of the problem does; None where that cannot be told."""
        try:
            return tuple((id(t), t._version) for t in self.tensors())
        except RuntimeError:  # inference tensors do not count their changes
            return None

    def normalised(self) -> Normalised:
        """The problem in units in which its signals and its dictionary are about one, by powers of two.

        The larger of the dictionary's largest entry and the root of the ridge counts. The problem itself where nothing
        can underflow or overflow as it is.
        """
        with torch.no_grad():
            e = torch.frexp(_scaling.largest(self.x, len(self.dictionary.signal_shape))).exponent
            ridge = torch.as_tensor(self.ridge, dtype=torch.float64, device=self.x.device).sqrt()
            ridge = _scaling.largest(ridge, ridge.ndim - len(self.dictionary.batch_shape) if ridge.ndim else 0)
            largest = torch.maximum(self.dictionary._largest().double(), ridge)
            f = torch.frexp(largest).exponent
            plain = _scaling.within(torch.cat([e.flatten(), f.flatten()]), self.x.dtype)
        if plain:
            return Normalised(self, e, e, True)
        own = f[..., None].expand(self.batch_shape) if f.ndim else f.expand(self.batch_shape)
        x = _scaling.scaled(self.x, -expand_trailing(e, len(self.dictionary.signal_shape)))
        number = torch.finfo(x.dtype)
        lam = _scaling.scaled(self.lam, -(e + own)).clamp(max=number.max)
        # A penalty stays one, however small.
        lam = torch.where(self.lam > 0, lam.clamp(min=number.smallest_normal * number.eps), lam)
        weight: float | Tensor = 0.0
        if self._has_ridge:
            ridge = torch.as_tensor(self.ridge, dtype=x.dtype, device=x.device)
            weight = _scaling.scaled(ridge, -2 * (own if f.ndim else f))
        return Normalised(self._with(self.dictionary._scaled(-f), x, lam, weight), e, own, False)

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that the problem depends on, in a fixed order."""
        ridge = (self.ridge,) if isinstance(self.ridge, Tensor) else ()
        return (*self.dictionary.tensors(), self.x, self.lam, *ridge)

    def _with(self, dictionary: Dictionary, x: Tensor, lam: Tensor, ridge: float | Tensor) -> SparseProblem:
        """The same kind of problem with other parts, which were checked when the first was made."""
        twin = copy.copy(self)
        twin.dictionary, twin.x, twin.lam, twin.ridge = dictionary, x, lam, ridge
        twin._prepared = None
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
        if self._prepared is not None and some.dictionary is self.dictionary:
            own, rounding = self._prepare()
            if own.problem is self:
                some._prepared = (some._key(), Normalised(some, own.e, own.f, True), rounding)
        return some


class Normalised(NamedTuple):
    """A problem in units of its own: signals x 2^-e, dictionary P 2^-f, and so codes a 2^(f-e).

    Attributes:
        problem: the problem in these units.
        e, f: integer exponents, one per signal.
        is_plain: whether the units are the problem's own, and e and f mean nothing.
    """

    problem: SparseProblem
    e: Tensor
    f: Tensor
    is_plain: bool

    def to_twin(self, a: Tensor) -> Tensor:
        """A code in these units and in the problem's dtype."""
        a = a.to(self.problem.x.dtype)
        return a if self.is_plain else _scaling.scaled(a, self.problem.per_code(self.f - self.e))

    def to_own(self, a: Tensor) -> Tensor:
        """A code of these units in the original ones."""
        return a if self.is_plain else _scaling.scaled(a, self.problem.per_code(self.e - self.f))

    def amplitude(self, value: Tensor) -> Tensor:
        """One entry of a code per signal, of these units, in the original ones."""
        return value if self.is_plain else _scaling.scaled(value, self.e - self.f)

    def energy(self, value: Tensor) -> Tensor:
        """E of these units in the original ones."""
        return value if self.is_plain else _scaling.scaled(value, 2 * self.e)

    def descent(self, value: Tensor) -> Tensor:
        """P^T x of these units in the original ones."""
        return value if self.is_plain else _scaling.scaled(value, self.e + self.f)

    def penalty(self, lam: Tensor, length: Tensor) -> Tensor:
        """lam |a|_1 in the original units; `length` is |a|_1 in these, lam the original."""
        lam = lam.to(length.dtype)
        if self.is_plain:
            return lam * length
        own = torch.frexp(lam.detach()).exponent
        return _scaling.scaled(_scaling.scaled(lam, -own) * length, own + self.e - self.f)


def _flat(dictionary: Dictionary) -> Rounding:
    """The dictionary's rounding, with norms of shape (*batch, 1, d'), (d',), or (1,) where they are much the same."""
    found, event = dictionary._rounding(), len(dictionary.code_shape)
    norms = found.norms.expand(*found.norms.shape[: max(found.norms.ndim - event, 0)], *dictionary.code_shape)
    norms = norms.flatten(-event)
    if norms.ndim == 1 and bool(norms.max() <= 2 * norms.min()):
        norms = norms.max()[None]
    return found._replace(norms=norms)


def _through(value: Tensor, bound: Tensor) -> Tensor:
    """`bound`, with the gradient of `value` where there is one."""
    return bound + (value - value.detach()) if value.requires_grad else bound


def _narrowed(value: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` in a dtype, rounded upwards; zero only where the `bound` that it stands for is."""
    number = torch.finfo(dtype)
    if value.dtype != dtype:
        value = (value * (1 + number.eps)).to(dtype)
    # Too small a number has lost its last digits.
    return torch.where((value < number.smallest_normal) & (bound != 0), value + number.smallest_normal / 2**3, value)


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
