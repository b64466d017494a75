"""A sparse-reconstruction problem as numbers: its parts, and its values as computed."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._versions import unchanged, versions
from vars_dyn.anchors import Anchor, anchor_of, unpenalised_of
from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.penalties import Penalty
from vars_dyn.shapes import expand_trailing, flat_lead, flat_per_atom, flat_spread

__all__ = ["RawProblem", "Residuals", "silencing", "weight_of"]


def silencing(dtype: torch.dtype) -> float:
    """The weight that stands for infinity: zero times it is a number, and a code that it multiplies costs too much."""
    return 2.0**500 if dtype == torch.float64 else 2.0**60


def weight_of(lam: Tensor, weights: Tensor | None) -> Tensor:
    """lam w, at most `silencing`, which an infinite w gives even where lam is zero; without a gradient there."""
    if weights is None:
        return lam
    silent, most = weights.isinf(), silencing(lam.dtype)
    return (lam * weights.masked_fill(silent, 0.0)).clamp(max=most).masked_fill(silent, most)


class Residuals(NamedTuple):
    """What every certificate needs: r = x - P a, and the negative gradient of the smooth part, P^T r + q - ridge a."""

    signal: Tensor
    code: Tensor


class RawProblem:
    """The parts of a problem 1/2 |P a - x|^2 + lam sum_i w_i r(a_i) - q.a + ridge/2 |a|^2, which solvers take apart.

    `raw_...` are the values that solvers use while they iterate: computed in the dtype and the units of the parts,
    without a bound on rounding. `vars_dyn.SparseProblem` checks the parts, and certifies codes.

    Attributes:
        dictionary: P.
        x: signals, (*any, *signal_shape), or (*batch, n, *signal_shape) for a batched dictionary.
        lam: one per signal.
        ridge: a number, a zero-dimensional tensor, or a tensor that broadcasts against codes: (*code_shape) with one
            per atom, (*batch, 1, ..) with one per signal, or (*batch, *code_shape).
        penalty: r.
        weights: w, shaped like a code or like the signals' codes; an infinite one silences an atom. None: ones.
        bias: q, shaped as `weights` is. None: zeros.
    """

    dictionary: Dictionary
    x: Tensor
    lam: Tensor
    ridge: float | Tensor
    penalty: Penalty
    weights: Tensor | None = None
    bias: Tensor | None = None
    _own_anchor: tuple[list[tuple[Tensor, int]], Anchor] | None = None

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

    @property
    def weight(self) -> Tensor:
        """lam w_i, shaped to broadcast against codes; a very large number where w_i is infinite."""
        return weight_of(self.per_code(self.lam), self.weights)

    def dual_norm(self, c: Tensor) -> Tensor:
        """The penalty's dual norm of c, where c is shaped like codes: the smallest lam whose box contains c.

        Atoms without a penalty do not count. Shape: one value per signal.
        """
        if self.weights is not None:
            counts = (self.weights > 0) & self.weights.isfinite()
            c = torch.where(counts, c / torch.where(counts, self.weights, 1.0), 0.0)
        shape = self.dictionary.code_shape
        return self.penalty.flattened(shape).dual_norm(c.flatten(-len(shape)))

    def drive(self) -> Tensor:
        """P^T x + q, the descent at a code of zeros."""
        drive = self.dictionary.encode(self.x)
        return drive if self.bias is None else drive + self.bias

    def size_of_descent(self) -> Tensor:
        """About |P^T x + q| + lam of each signal, by which rounding in the KKT residual is measured."""
        size, lam = self.max_code(self.drive().abs()), self.lam
        if self.weights is not None:
            # The penalty matters only up to the drive: atoms with a larger one are idle.
            lam = torch.minimum(self.max_code(self.weight.expand(self.batch_shape + self.dictionary.code_shape)), size)
        return size + lam

    def residuals(self, a: Tensor) -> Residuals:
        """x - P a, and P^T (x - P a) + q - ridge a."""
        r = self.residual(a)
        return Residuals(r, self.with_smooth(self.dictionary.encode(r), a))

    def with_smooth(self, c: Tensor, a: Tensor) -> Tensor:
        """c + q - ridge a, the descent of the smooth part for c = P^T (x - P a)."""
        if self.bias is not None:
            c = c + self.bias
        return c - self.ridge_of(a) if self._has_ridge else c

    @property
    def _has_ridge(self) -> bool:
        return isinstance(self.ridge, Tensor) or self.ridge != 0

    def ridge_of(self, a: Tensor) -> Tensor:
        """ridge a."""
        return self.ridge * a

    def ridged(self, a: Tensor) -> Tensor:
        """sum_i ridge_i a_i^2, per signal."""
        if isinstance(self.ridge, Tensor) and self.ridge.ndim:
            return self.sum_code(self.ridge * a.square())
        return self.ridge * self.sum_code(a.square())

    def raw_objective(self, a: Tensor) -> Tensor:
        """E(a) as computed."""
        value = 0.5 * self.sum_signal(self.residual(a).square()) + self.raw_penalty(a)
        if self._has_ridge:
            value = value + 0.5 * self.ridged(a)
        if self.bias is not None:
            value = value - self.sum_code(self.bias * a)
        return self._where_feasible(a, value)

    def raw_penalty(self, a: Tensor) -> Tensor:
        """lam sum_i w_i r(a_i)."""
        if self.weights is None:
            return self.lam * self.sum_code(self.penalty.cost(a.abs()))
        return self.sum_code(self.weight * self.penalty.cost(a.abs()))

    def outside(self, a: Tensor) -> Tensor | None:
        """How far entries lie outside the domain, of silenced atoms and of allowed signs; inside, at most zero."""
        outside = self.penalty.outside(a)
        if self.weights is not None:
            silent = torch.where(self.weights.isinf(), a.abs(), -1.0)
            outside = silent if outside is None else torch.maximum(outside, silent)
        return outside

    def _where_feasible(self, a: Tensor, value: Tensor) -> Tensor:
        outside = self.outside(a)
        return value if outside is None else torch.where(self.max_code(outside) <= 0, value, math.inf)

    def _with_outside(self, a: Tensor, kkt: Tensor) -> Tensor:
        outside = self.outside(a)
        return kkt if outside is None else torch.maximum(kkt, self.max_code(outside))

    def raw_violation(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The largest violation of the entries' optimality conditions, without the constraint on their signs."""
        return self.max_code(self.penalty.violation(residuals.code, a.sign(), self.weight).clamp(min=0))

    def raw_kkt(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The KKT residual as computed, from `residuals(a)`."""
        return self._with_outside(a, self.raw_violation(a, residuals))

    def on_unpenalised(self, a: Tensor, descent: Tensor) -> Tensor:
        """The code whose entries without a penalty are at their minimum, given the others and the `descent` at a."""
        own, event = self.anchor().unpenalised, len(self.dictionary.code_shape)
        if own is None:
            return a
        flat, c = a.flatten(-event), descent.flatten(-event)
        # An idle entry that must not become negative moves only if it grows.
        held = (flat <= 0) & (c <= 0) if self.nonnegative else None
        return (flat + own.step(c, held)).reshape(a.shape)

    def anchor(self) -> Anchor:
        """What shifts the problem so that the scaled residual is a dual point; kept while the tensors stay the same."""
        key = versions(self.tensors())
        if self._own_anchor is not None and key and unchanged(self._own_anchor[0], key):
            return self._own_anchor[1]
        wide = self if self.x.dtype == torch.float64 else self.to(dtype=torch.float64)
        dictionary, ridge = wide.dictionary, wide.ridge
        free = None
        if self.weights is not None:
            none = (self.weights == 0).reshape(-1, self.dictionary.code_size)
            if none.numel() and bool(none[0].any()) and bool((self.lam > 0).any()):
                free = unpenalised_of(dictionary, none[0].nonzero().squeeze(-1), ridge)
        own = torch.as_tensor(ridge, dtype=wide.x.dtype, device=wide.x.device)
        found = anchor_of(dictionary, self.penalty, wide.weight, wide.bias, own, free, self.batch_shape)
        if wide is not self:
            code, shift, bias = (None if t is None else t.to(self.x.dtype) for t in found[:3])
            found = Anchor(code, shift, bias, found.found, free)
        if key and not any(t.requires_grad for t in self.tensors()):
            self._own_anchor = (key, found)
        return found

    def raw_gap(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The duality gap as computed, from `residuals(a)`, as if atoms without a penalty were at their minimum."""
        r, c = residuals
        if self.weights is None and self.bias is None:
            norm = self.dual_norm(c)
            s = torch.where(norm > self.lam, self.lam / norm.clamp(min=torch.finfo(norm.dtype).tiny), 1.0)
            square = self.sum_signal(r.square())
            if self._has_ridge:
                square = square + self.ridged(a)
            linear = self.sum_code(self.per_code(self.lam) * self.penalty.cost(a.abs()) - self.per_code(s) * a * c)
            value = 0.5 * (1 - s).square() * square + linear.clamp(min=0)
            return self._where_feasible(a, value)
        anchor, given, extra = self.anchor(), a, torch.zeros_like(self.lam)
        if anchor.unpenalised is not None:
            step = self.on_unpenalised(a, c) - a
            a = a + step
            r, c = self.residuals(a)
            extra = 0.5 * (self.sum_signal(self.dictionary.decode(step).square()) + self.ridged(step))
        bias = torch.zeros_like(c) if anchor.bias is None else anchor.bias
        shares = self.penalty.share(c, self.weight, bias)
        if anchor.unpenalised is not None:
            shares = torch.where(self.weights == 0, 1.0, shares)  # type: ignore[arg-type]
        s = -self.max_code(-shares)
        square = self.sum_signal((r if anchor.shift is None else r + anchor.shift).square())
        if self._has_ridge:
            off = a if anchor.code is None else a - anchor.code
            square = square + self.ridged(off)
        share = self.per_code(s)
        linear = self.sum_code(self.weight * self.penalty.cost(a.abs()) - a * (share * c + (1 - share) * bias))
        value = 0.5 * (1 - s).square() * square + linear.clamp(min=0) + extra
        return self._where_feasible(given, torch.where(anchor.found, value, math.inf))

    def raw_relative_gap(self, a: Tensor, residuals: Residuals) -> Tensor:
        """The relative gap as computed, from `residuals(a)`; the scaled KKT residual where lam = 0."""
        gap, square = self.raw_gap(a, residuals), self.sum_signal(self.x.square())
        anchor = None if self.bias is None else self.anchor()
        if anchor is not None and anchor.code is not None and anchor.shift is not None:
            square = square + self.sum_signal(anchor.shift.square())
            square = square + self.ridged(anchor.code)
        relative = torch.where(gap == 0, gap, gap / (0.5 * square))
        if bool((self.lam > 0).all()):
            return relative
        kkt = self.raw_violation(a, residuals)
        scale = self.max_code(self.drive().abs())
        return torch.where(self.lam > 0, relative, torch.where(kkt == 0, kkt, kkt / scale))

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that the problem depends on, in a fixed order."""
        ridge = (self.ridge,) if isinstance(self.ridge, Tensor) else ()
        atoms = (t for t in (self.weights, self.bias) if t is not None)
        return (*self.dictionary.tensors(), self.x, self.lam, *ridge, *atoms, *self.penalty.tensors())

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
        """The same kind of problem with other parts, unchecked; the last three stay as they are where None is given."""
        twin = copy.copy(self)
        twin.dictionary, twin.x, twin.lam, twin.ridge = dictionary, x, lam, ridge
        twin.penalty = self.penalty if penalty is None else penalty
        twin.weights = self.weights if weights is None else weights
        twin.bias = self.bias if bias is None else bias
        twin._own_anchor = None
        return twin

    def with_ridge(self, ridge: float | Tensor) -> Self:
        """The same problem with another ridge, unchecked: a number, or a tensor that broadcasts against codes."""
        return self.with_parts(self.dictionary, self.x, self.lam, ridge)

    def detach(self) -> Self:
        """The same problem, cut from the autograd graph."""
        ridge = self.ridge.detach() if isinstance(self.ridge, Tensor) else self.ridge
        penalty = self.penalty.with_tensors(tuple(t.detach() for t in self.penalty.tensors()))
        weights, bias = (None if t is None else t.detach() for t in (self.weights, self.bias))
        x, lam = self.x.detach(), self.lam.detach()
        return self.with_parts(self.dictionary.detach(), x, lam, ridge, penalty, weights, bias)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same problem on another device or in another floating-point dtype."""
        x, lam = (t.to(device=device, dtype=dtype) for t in (self.x, self.lam))
        ridge = self.ridge.to(device=device, dtype=dtype) if isinstance(self.ridge, Tensor) else self.ridge
        penalty = self.penalty.with_tensors(tuple(t.to(device=device, dtype=dtype) for t in self.penalty.tensors()))
        weights, bias = (None if t is None else t.to(device=device, dtype=dtype) for t in (self.weights, self.bias))
        return self.with_parts(self.dictionary.to(device, dtype), x, lam, ridge, penalty, weights, bias)

    def flat(self) -> Self:
        """The same problems with one leading dimension of signals, or (elements, n) for a batched dictionary."""
        lead, dictionary = flat_lead(self.dictionary, self.batch_shape)
        x = self.x.reshape(*lead, *dictionary.signal_shape)
        weights, bias = (flat_per_atom(t, dictionary.code_shape, lead) for t in (self.weights, self.bias))
        ridge = flat_spread(self.ridge, len(dictionary.code_shape), lead)
        return self.with_parts(dictionary, x, self.lam.reshape(lead), ridge, None, weights, bias)

    def select(self, index: Tensor) -> Self:
        """The rows `index` of a `flat` problem's first dimension: signals, or elements of a batched dictionary."""
        own = self.ridges_of(index), None, *self.atoms_of(index)
        some = self.with_parts(self.dictionary.select(index), self.x[index], self.lam[index], *own)
        if self._own_anchor is not None and unchanged(self._own_anchor[0], versions(self.tensors())):
            anchor = self._own_anchor[1].select(index, len(self.dictionary.code_shape))
            some._own_anchor = (versions(some.tensors()), anchor)
        return some

    def ridges_of(self, index: Tensor | tuple[Tensor, ...]) -> float | Tensor:
        """The ridge of the signals `index`; one that all signals share stays as it is."""
        return self.ridge[index] if self.has_own_ridges and isinstance(self.ridge, Tensor) else self.ridge

    @property
    def has_own_ridges(self) -> bool:
        """Whether signals have a ridge each, and do not share one number or one per atom."""
        return isinstance(self.ridge, Tensor) and self.ridge.ndim > len(self.dictionary.code_shape)

    def atoms_of(self, index: Tensor | tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
        """The weights and the bias of the signals `index`; those that all signals share stay as they are."""
        dims = len(self.dictionary.code_shape)
        weights, bias = (t if t is None or t.ndim == dims else t[index] for t in (self.weights, self.bias))
        return weights, bias
