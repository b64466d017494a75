"""Certificates that hold in floating point: upper bounds on the duality gap and on the KKT residual, rounding included.

With u the unit roundoff, a sum of n products is computed to within gamma_n = n u / (1 - n u) of the sum of their
magnitudes, in whatever order (Higham, Accuracy and Stability of Numerical Algorithms, 2002, Sec. 3.1). So the computed
residual r of a code a with k non-zeros is off by at most gamma_(k+1) sum_i |P_i| |a_i|, and entry i of P^T r by
gamma_d |P_i| |r| and |P_i| times that; here |P_i| is the norm of an atom. Losses by underflow are bounded as well.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dictionaries.base import Rounding
from vars_dyn.penalties import Penalty

__all__ = ["Certificate", "Evaluated", "certify", "least_pull"]

#: An upper bound on what any one product or scaled entry loses by underflow.
_LOST = 2.0**-1068
#: Numbers below this may have lost digits to underflow.
_DENSE = 2.0**-950
#: The factor by which bounds are raised, because they are themselves computed in floating point.
_SLACK = 1.01


class Evaluated(NamedTuple):
    """A code and what was computed from it in float64; events are flattened, and x and P are of about magnitude one.

    Attributes:
        a: (*any, n).
        lost: whether entries of the code may have lost digits by the change of units, (*any).
        r: x - P a, (*any, d).
        c: P^T r - ridge a, (*any, n).
        lam, ridge: one per signal; ridge may be a number.
        square: |x|^2, per signal.
        least_pull: the result of `least_pull`; needed where a lam is zero.
        penalty: the penalty of flattened codes.
    """

    a: Tensor
    lost: Tensor
    r: Tensor
    c: Tensor
    lam: Tensor
    ridge: Tensor | float
    square: Tensor
    least_pull: Tensor | None
    penalty: Penalty


class Certificate(NamedTuple):
    """Upper bounds, one per signal; a bound that could not be computed is NaN.

    Attributes:
        gap: bounds E(a) - E*; infinite where a code that must not be negative is.
        relative_gap: bounds (E(a) - E*) / (|x|^2 / 2); where lam = 0, the KKT residual over max_i |P^T x|_i.
        kkt: bounds the entries' KKT residual, without the constraint on their signs.
        rounding: the part of `kkt` that stands for rounding.
    """

    gap: Tensor
    relative_gap: Tensor
    kkt: Tensor
    rounding: Tensor


def certify(of: Evaluated, rounding: Rounding) -> Certificate:
    """The certificate of what was evaluated; `rounding` is the dictionary's, with norms flattened like codes."""
    a, r, c, lam = of.a, of.r, of.c, of.lam
    u = torch.finfo(a.dtype).eps / 2
    n, d = a.shape[-1], r.shape[-1]
    size, sign = a.abs(), a.sign()
    support = sign * sign
    nonzeros, length = support.sum(-1), size.sum(-1)
    reach = _weighted(size, rounding.norms, length)
    length = torch.where(of.lost, length + n * _LOST, length)
    cost = of.penalty.cost(size)
    if cost is size:
        paid = length
    else:
        paid = (cost + of.penalty.cost(of.lost[..., None] * torch.full_like(size, _LOST))).sum(-1)
    residual = torch.linalg.vector_norm(r, dim=-1)
    # Signals and codes of zeros lose nothing.
    lost = d * _LOST * ((residual > 0) | (nonzeros > 0)).to(a.dtype)
    terms = nonzeros.clamp(max=rounding.decode) if rounding.sparse else torch.full_like(nonzeros, rounding.decode)
    off = _SLACK * u * ((terms + 2) * reach + residual) + lost * (n + length)
    # The error of an entry of c: `per_norm` times its atom's norm, and `fixed` for every atom that is not zero.
    per_norm, fixed = _SLACK * (u * (rounding.encode + 2) * residual + off), lost * (1 + residual + length)
    loose = per_norm[..., None] * rounding.norms + fixed[..., None] * (rounding.norms > 0)
    ridged: Tensor | float = 0.0
    if isinstance(of.ridge, Tensor) or of.ridge:
        weight = of.ridge[..., None] if isinstance(of.ridge, Tensor) and of.ridge.ndim else of.ridge
        loose = loose + 4 * u * (c.abs() + weight * size) + (lost * length)[..., None]
        ridged = of.ridge * (1 + 4 * n * u) * size.square().sum(-1) + _LOST * length * length

    # The dual point s (r, -sqrt(ridge) a), with s small enough for the true c.
    norm = of.penalty.dual_norm(c, loose)
    none = torch.zeros_like(norm) * norm  # NaN where `norm` is
    ratio = (1 - 4 * u) * lam / torch.where(norm > 0, norm, 1.0)
    s = torch.where(norm > lam, torch.where((ratio < _DENSE) | (lam < _DENSE), 0.0, ratio), 1.0) + none
    square = ((1 + (d + 4) * u) * residual + off).square() + lost + ridged
    paid, pulled = lam * paid, s * (a * c).sum(-1)
    linear = (paid - pulled).clamp(min=0) + 2 * u * (nonzeros + 8) * (3 * paid + pulled.abs()) + _LOST * length
    linear = linear + s * _weighted(size, loose, length)
    # Products of a code's entries with one another may have underflowed to zero.
    linear = linear + torch.where(nonzeros > 0, lost, 0.0)
    gap = (0.5 * (1 - s).square() * square + linear) * (1 + 64 * u)
    violation = of.penalty.violation(c, sign, lam[..., None])
    worst = violation.amax(-1) + loose.squeeze(-1) if loose.shape[-1] == 1 else violation.add_(loose).amax(-1)
    kkt = (worst * (1 + 4 * u)).clamp(min=0)
    # A penalty beyond the largest number is infinite, except for a code of zeros.
    beyond = (lam >= torch.finfo(lam.dtype).max) & (nonzeros > 0)
    gap, kkt = gap.masked_fill(beyond, math.inf), kkt.masked_fill(beyond, math.inf)

    relative = torch.where(gap == 0, gap, gap / (0.5 * of.square * (1 - (d + 8) * u)) * (1 + 4 * u))
    if of.least_pull is not None:
        by_kkt = torch.where(kkt == 0, kkt, kkt / of.least_pull * (1 + 4 * u))
        relative = torch.where(lam > 0, relative, by_kkt)
    outside = of.penalty.outside(a)
    if outside is not None:
        feasible = outside.amax(-1) <= 0
        gap, relative = (torch.where(feasible | t.isnan(), t, math.inf) for t in (gap, relative))
    return Certificate(gap, relative, kkt, loose.amax(-1).expand(gap.shape))


def least_pull(x: Tensor, pull: Tensor, rounding: Rounding) -> Tensor:
    """A lower bound on max_i |P^T x|_i, where `pull` is P^T x as computed.

    For a signal that is orthogonal to every atom up to rounding it is max_i |P_i| |x|; for signals and dictionaries of
    zeros it is zero.
    """
    u = torch.finfo(x.dtype).eps / 2
    length = torch.linalg.vector_norm(x, dim=-1)[..., None]
    most = length * rounding.norms
    least = (pull.abs() - _SLACK * (rounding.encode + 2) * u * most - _LOST * x.shape[-1]).amax(-1)
    # Norms that underflow may have changed are no lower bounds.
    reliable = torch.where(rounding.norms >= _DENSE, most, 0.0)
    return torch.where(least > 0, least, (1 - 1e-6) * reliable.expand(pull.shape).amax(-1))


def _weighted(size: Tensor, weights: Tensor, length: Tensor) -> Tensor:
    """sum_i weights_i size_i over the last dimension; `length` is the sum of `size`."""
    if weights.ndim == 0 or weights.shape[-1] == 1:
        return length * (weights.squeeze(-1) if weights.ndim else weights)
    return size @ weights if weights.ndim == 1 else (size * weights).sum(-1)
