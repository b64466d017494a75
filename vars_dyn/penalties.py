"""Penalties: the cost of a code's entries, and everything that solvers, gates and certificates need to know of it.

A problem's penalty is lam sum_i r(a_i), with one lam per signal. A `Penalty` is r. It is the support function of a box:
lam r(a) = max over c in `bounds(lam)` of c a. So the conjugate of lam r is zero on the box and infinite elsewhere, the
proximal operator subtracts from v its projection onto the box, and a dual point is feasible inside the box.

One r serves all atoms; a weight per atom belongs to the problem, which multiplies lam by it. Other parameters that
differ from atom to atom belong to a subclass. It returns them from `tensors`, and its `flattened` says how they follow
flattened codes. A linear term -q.a belongs to the smooth part of a problem and not to r, because it changes the
gradient but neither the gate nor the proximal operator.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from vars_dyn import _checks

__all__ = ["L1", "NonNegativeL1", "Penalty", "nonnegative_threshold", "penalty_of", "soft_threshold"]

Weight = float | Tensor


def soft_threshold(u: Tensor, theta: float | Tensor) -> Tensor:
    """sgn(u) max(|u| - theta, 0), without checks of theta.

    At |u| = theta the derivative is the active side's, so that theta = 0 is the identity at u = 0 too.
    """
    if not torch.is_grad_enabled():
        # This gives the same numbers in a third of the time.
        return u - u.clamp(-theta, theta)  # type: ignore[arg-type]
    return torch.where(u.abs() < theta, 0.0, u - theta * u.sign())


def nonnegative_threshold(u: Tensor, theta: float | Tensor) -> Tensor:
    """max(u - theta, 0), without checks of theta; at u = theta the derivative is the active side's."""
    if not torch.is_grad_enabled():
        return (u - theta).clamp(min=0)
    return torch.where(u < theta, 0.0, u - theta)


class Penalty(ABC):
    """r, elementwise and convex, with r(0) = 0; a plain value without state.

    In all methods `weight` is lam, or a multiple of it such as lam over a curvature: a number, or a tensor that
    broadcasts against codes. c is the negative gradient of a problem's smooth part, P^T (x - P a) - ridge a, and `sign`
    holds the signs of a code's entries. Results that are given entry by entry have the shape of codes.

    Attributes:
        name: the name by which fields and commands know the gate that is its proximal operator.
        nonnegative: whether r is infinite below zero.
    """

    name: ClassVar[str]
    nonnegative: ClassVar[bool] = False

    @abstractmethod
    def bounds(self, weight: Weight) -> tuple[Weight | None, Weight]:
        """The box whose support function is weight r: its lower bound (None for minus infinity) and its upper bound."""

    @abstractmethod
    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        """The argmin over a of 1/2 (a - v)^2 + weight r(a), entry by entry."""

    @abstractmethod
    def derivative(self, v: Tensor, weight: Weight) -> Tensor:
        """The derivative of `prox` in v: one where the result is not zero and at a kink, zero elsewhere."""

    @abstractmethod
    def excess(self, c: Tensor, weight: Weight) -> Tensor:
        """How far c lies outside the box, entry by entry; negative inside. Where it is positive, an idle atom joins."""

    @abstractmethod
    def violation(self, c: Tensor, sign: Tensor, weight: Weight) -> Tensor:
        """How much an entry's optimality condition fails: `excess` where the entry is zero, |c - slope| elsewhere."""

    @abstractmethod
    def dual_norm(self, c: Tensor, loose: Tensor | None = None) -> Tensor:
        """The least weight whose box holds all of c, over the last dimension: max_i |c_i| for the l1 norm.

        With `loose`, it is the largest value possible if entry i of c is off by up to loose_i; the last dimension of
        `loose` is that of c, or one.
        """

    def share(self, c: Tensor, weight: Tensor, bias: Tensor | float = 0.0, loose: Tensor | float = 0.0) -> Tensor:
        """The largest s in [0, 1] for which s c + (1 - s) bias lies in the box, entry by entry; `bias` must lie in it.

        With `loose` it is the least such s if c is off by up to `loose`. Where `bias` lies outside, s is zero.
        """
        low, high = self.bounds(weight)
        above = c + loose > high
        s = torch.where(above, (high - bias) / torch.where(above, c + loose - bias, 1.0), 1.0)
        if low is not None:
            below = c - loose < low
            s = torch.minimum(s, torch.where(below, (bias - low) / torch.where(below, bias - c + loose, 1.0), 1.0))
        return s.clamp(0, 1)

    def cost(self, size: Tensor) -> Tensor:
        """r of entries of magnitude `size`, where r is finite."""
        return size

    def outside(self, a: Tensor) -> Tensor | None:
        """How far entries lie outside the domain of r, at most zero inside; None where r is finite everywhere."""
        return -a if self.nonnegative else None

    def value(self, a: Tensor, weight: Weight) -> Tensor:
        """weight r(a), entry by entry."""
        outside, value = self.outside(a), weight * self.cost(a.abs())
        return value if outside is None else torch.where(outside <= 0, value, math.inf)

    def slope(self, sign: Tensor, weight: Weight) -> Tensor:
        """The derivative of weight r at entries of these signs; zero where an entry is zero."""
        return weight * sign

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that r depends on, in a fixed order; each has, or broadcasts against, the shape of a code."""
        return ()

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """The same penalty holding `tensors` (ordered as in `tensors()`)."""
        return copy.copy(self)

    def flattened(self, code_shape: tuple[int, ...]) -> Self:
        """The same penalty of codes that are flattened."""
        own = self.tensors()
        return self.with_tensors(tuple(t.expand(code_shape).flatten() for t in own)) if own else self

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class L1(Penalty):
    """r(a) = |a|, the LASSO's penalty, whose proximal operator is the soft threshold (Eq. 9-10)."""

    name = "soft"

    def bounds(self, weight: Weight) -> tuple[Weight | None, Weight]:
        return -weight, weight

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        return soft_threshold(v, weight)

    def derivative(self, v: Tensor, weight: Weight) -> Tensor:
        return (v.abs() >= weight).to(v.dtype)

    def excess(self, c: Tensor, weight: Weight) -> Tensor:
        return c.abs().sub_(weight)

    def violation(self, c: Tensor, sign: Tensor, weight: Weight) -> Tensor:
        return _off_support(_off_slope(c, sign, weight).abs_(), sign, weight)

    def dual_norm(self, c: Tensor, loose: Tensor | None = None) -> Tensor:
        if loose is None:
            return c.abs().amax(-1)
        if loose.shape[-1] == 1:
            # A maximum and a minimum take less time than a copy of c.
            return (torch.maximum(c.amax(-1), -c.amin(-1)) + loose.squeeze(-1)).clamp(min=0)
        return (c.abs() + loose).amax(-1).clamp(min=0)


class NonNegativeL1(Penalty):
    """r(a) = a on a >= 0 and infinity elsewhere, whose proximal operator is the one-sided soft threshold."""

    name = "nonnegative"
    nonnegative = True

    def bounds(self, weight: Weight) -> tuple[Weight | None, Weight]:
        return None, weight

    def prox(self, v: Tensor, weight: Weight) -> Tensor:
        return nonnegative_threshold(v, weight)

    def derivative(self, v: Tensor, weight: Weight) -> Tensor:
        return (v >= weight).to(v.dtype)

    def excess(self, c: Tensor, weight: Weight) -> Tensor:
        return c - weight

    def violation(self, c: Tensor, sign: Tensor, weight: Weight) -> Tensor:
        off = _off_slope(c, sign, weight)
        return _off_support(torch.where(sign == 0, off, off.abs()), sign, weight)

    def dual_norm(self, c: Tensor, loose: Tensor | None = None) -> Tensor:
        if loose is None:
            return c.amax(-1).clamp(min=0)
        if loose.shape[-1] == 1:
            return (c.amax(-1) + loose.squeeze(-1)).clamp(min=0)
        return (c + loose).amax(-1).clamp(min=0)


def _off_slope(c: Tensor, sign: Tensor, weight: Weight) -> Tensor:
    """c - weight sign, as a new tensor."""
    if isinstance(weight, Tensor):
        return torch.addcmul(c, weight, sign, value=-1)
    return torch.sub(c, sign, alpha=weight)


def _off_support(value: Tensor, sign: Tensor, weight: Weight) -> Tensor:
    """`value`, minus the weight where `sign` is zero; `value` is overwritten."""
    idle = sign.abs().sub_(1)
    return value.addcmul_(weight, idle) if isinstance(weight, Tensor) else value.add_(idle, alpha=weight)


_BY_NAME: dict[str, type[Penalty]] = {kind.name: kind for kind in (L1, NonNegativeL1)}


def penalty_of(argument: str, value: str | Penalty) -> Penalty:
    """`value`, or the penalty whose gate has that name; ValueError, which names the argument, for anything else."""
    if isinstance(value, Penalty):
        return value
    return _BY_NAME[_checks.choice(argument, value, tuple(_BY_NAME))]()
