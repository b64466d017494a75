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

from vars_dyn.anchors import Unpenalised
from vars_dyn.dictionaries.base import Rounding
from vars_dyn.penalties import Penalty

__all__ = ["DENSE", "LOST", "SLACK", "Certificate", "Evaluated", "Shifted", "certify", "improved", "least_pull"]

#: An upper bound on what any one product or scaled entry loses by underflow.
LOST = 2.0**-1068
#: Numbers below this may have lost digits to underflow.
DENSE = 2.0**-950
#: The factor by which bounds are raised, because they are themselves computed in floating point.
SLACK = 1.01
#: A weight of at least this stands for infinity (`vars_dyn.raw_problems.silencing`).
_SILENT = 2.0**500


class Shifted(NamedTuple):
    """What a problem with weights or a bias has besides; events are flattened. `vars_dyn.anchors` explains the terms.

    Attributes:
        weight: lam w_i, (*any, n).
        x: (*any, d).
        bias: e, (*any, n), or None.
        code, shift: the anchor b and P b; None where b is zero.
        found: whether e lies in the box, (*any).
        unpenalised: the atoms without a penalty, or None.
    """

    weight: Tensor
    x: Tensor
    bias: Tensor | None
    code: Tensor | None
    shift: Tensor | None
    found: Tensor
    unpenalised: Unpenalised | None


class Sums(NamedTuple):
    """Sums and maxima over the entries of a code, one per signal, from a method that has its support at hand.

    Attributes:
        nonzeros, length: the number of its non-zeros, and the sum of their magnitudes.
        largest: the penalty's dual norm of c.
        pulled: a.c.
        violation: the largest violation of the entries' optimality conditions.
    """

    nonzeros: Tensor
    length: Tensor
    largest: Tensor
    pulled: Tensor
    violation: Tensor


class Evaluated(NamedTuple):
    """A code and what was computed from it in float64; events are flattened, and x and P are of about magnitude one.

    Attributes:
        a: (*any, n).
        lost: whether entries of the code may have lost digits by the change of units, (*any).
        r: x - P a, (*any, d).
        c: P^T r + q - ridge a, (*any, n).
        lam: one per signal.
        ridge: a number, or a tensor that broadcasts against a.
        square: |x|^2, per signal.
        least_pull: the result of `least_pull`; needed where a lam is zero.
        penalty: the penalty of flattened codes.
        shifted: None for a problem without weights and without a bias.
        sums: sums over the code, where they are known. Only a penalty of |a| on codes inside its domain may have them.
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
    shifted: Shifted | None = None
    sums: Sums | None = None


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
    ridge = isinstance(of.ridge, Tensor) or bool(of.ridge)
    sums = of.sums if rounding.norms.shape == (1,) and not ridge and of.shifted is None else None
    if sums is None:
        size, sign = a.abs(), a.sign()
        support = sign * sign
        nonzeros, length = support.sum(-1), size.sum(-1)
    else:
        size, nonzeros, length = a, sums.nonzeros, sums.length  # no single entry matters
    reach = _weighted(size, rounding.norms, length)
    length = torch.where(of.lost, length + n * LOST, length)
    paid = _paid(of, size, length) if sums is None else lam * length
    residual = torch.linalg.vector_norm(r, dim=-1)
    # Signals and codes of zeros lose nothing. The norm of a residual that is not zero may still underflow.
    some = residual > 0
    if not bool(some.all()):
        some = some | (r != 0).any(-1)
    lost = d * LOST * (some | (nonzeros > 0)).to(a.dtype)
    terms = nonzeros.clamp(max=rounding.decode) if rounding.sparse else torch.full_like(nonzeros, rounding.decode)
    off = SLACK * u * ((terms + 2) * reach + residual) + lost * (n + length)
    # The error of an entry of c: `per_norm` times its atom's norm, and `fixed` for every atom that is not zero.
    per_norm, fixed = SLACK * (u * (rounding.encode + 2) * residual + off), lost * (1 + residual + length)
    loose = per_norm[..., None] * rounding.norms + fixed[..., None] * (rounding.norms > 0)
    ridged: Tensor | float = 0.0
    if ridge:
        loose = loose + 4 * u * (c.abs() + of.ridge * size) + (lost * length)[..., None]
        ridged = (1 + 4 * n * u) * _ridged(of.ridge, size) + LOST * length * length
    shifted = of.shifted
    if shifted is None:
        # The dual point s (r, -sqrt(ridge) a), with s small enough for the true c.
        norm = of.penalty.dual_norm(c if sums is None else sums.largest[..., None], loose)
        none = torch.zeros_like(norm) * norm  # NaN where `norm` is
        ratio = (1 - 4 * u) * lam / torch.where(norm > 0, norm, 1.0)
        s = torch.where(norm > lam, torch.where((ratio < DENSE) | (lam < DENSE), 0.0, ratio), 1.0) + none
        square = ((1 + (d + 4) * u) * residual + off).square() + lost + ridged
        pulled = s * ((a * c).sum(-1) if sums is None else sums.pulled)
        lost_sum = 3 * paid + pulled.abs()
        weight = lam[..., None]
    else:
        loose, weight = loose + 4 * u * c.abs() + LOST, shifted.weight
        point = _shifted(of, shifted, loose, rounding)
        s, pulled = point.s, point.pulled
        square = ((1 + (d + 4) * u) * point.length + off).square() + lost + point.ridged
        lost_sum = 3 * paid + point.magnitude
    linear = (paid - pulled).clamp(min=0) + 2 * u * (nonzeros + 8) * lost_sum + LOST * length
    linear = linear + s * _weighted(size, loose, length)
    # Products of a code's entries with one another may have underflowed to zero.
    linear = linear + torch.where(nonzeros > 0, lost, 0.0)
    if shifted is not None:
        linear = linear + point.slack
    gap = (0.5 * (1 - s).square() * square + linear) * (1 + 64 * u)
    violation = of.penalty.violation(c, sign, weight) if sums is None else sums.violation[..., None]
    if shifted is not None:
        loose = loose + 2 * u * torch.minimum(weight, c.abs() + support * weight)
    worst = violation.amax(-1) + loose.squeeze(-1) if loose.shape[-1] == 1 else violation.add_(loose).amax(-1)
    kkt = (worst * (1 + 4 * u)).clamp(min=0)
    # A penalty beyond the largest number is infinite, except for a code of zeros.
    beyond = (lam >= torch.finfo(lam.dtype).max) & (nonzeros > 0)
    if shifted is not None:
        beyond = beyond | ((weight >= _SILENT) & (size > 0)).any(-1)
        gap = torch.where(shifted.found, gap, math.inf)
    gap, kkt = gap.masked_fill(beyond, math.inf), kkt.masked_fill(beyond, math.inf)

    relative = _relative(gap, of)
    if of.least_pull is not None:
        by_kkt = torch.where(kkt == 0, kkt, kkt / of.least_pull * (1 + 4 * u))
        relative = torch.where(lam > 0, relative, by_kkt)
    outside = of.penalty.outside(a) if sums is None else None
    if outside is not None:
        feasible = outside.amax(-1) <= 0
        gap, relative = (torch.where(feasible | t.isnan(), t, math.inf) for t in (gap, relative))
    return Certificate(gap, relative, kkt, loose.amax(-1).expand(gap.shape))


def _relative(gap: Tensor, of: Evaluated) -> Tensor:
    """The gap over half of |x|^2, and of the anchor's square."""
    u, d, square = torch.finfo(gap.dtype).eps / 2, of.r.shape[-1], of.square
    if of.shifted is not None and of.shifted.code is not None and of.shifted.shift is not None:
        square = square + of.shifted.shift.square().sum(-1) + _ridged(of.ridge, of.shifted.code)
        d = d + of.a.shape[-1]
    return torch.where(gap == 0, gap, gap / (0.5 * square * (1 - (d + 8) * u)) * (1 + 4 * u))


def _paid(of: Evaluated, size: Tensor, length: Tensor) -> Tensor:
    """The penalty of the code, including what a change of units may have lost; `length` is the sum of `size`."""
    cost = of.penalty.cost(size)
    if of.shifted is None and cost is size:
        return of.lam * length
    cost = cost + of.penalty.cost(of.lost[..., None] * torch.full_like(size, LOST))
    return of.lam * cost.sum(-1) if of.shifted is None else (of.shifted.weight * cost).sum(-1)


class _Point(NamedTuple):
    """The dual point s r' - p of a shifted problem, and the terms of the gap that it gives; one value per signal.

    Attributes:
        s: the share of the residual.
        length, ridged: |r + P b|, and ridge |a - b|^2.
        pulled: a.(s c + (1 - s) e), as computed from summands whose magnitudes add up to `magnitude`.
        slack: how far the atoms without a penalty, and the error of e, may carry the dual value.
    """

    s: Tensor
    length: Tensor
    ridged: Tensor | float
    pulled: Tensor
    magnitude: Tensor
    slack: Tensor


def _shifted(of: Evaluated, shifted: Shifted, loose: Tensor, rounding: Rounding) -> _Point:
    a, c, u = of.a, of.c, torch.finfo(of.a.dtype).eps / 2
    bias = torch.zeros_like(shifted.weight) if shifted.bias is None else shifted.bias
    away, r, target = a, of.r, shifted.x
    off: Tensor = torch.zeros_like(bias[..., :1])
    anchor: Tensor | float = 0.0
    if shifted.code is not None and shifted.shift is not None:
        away, r, target = a - shifted.code, of.r + shifted.shift, shifted.x + shifted.shift
        reach = torch.linalg.vector_norm(shifted.shift, dim=-1)[..., None] * rounding.norms
        off = SLACK * u * (rounding.encode + 2) * reach + 4 * u * (bias.abs() + of.ridge * shifted.code.abs()) + LOST
        anchor = _ridged(of.ridge, shifted.code)
    inside = shifted.weight * (1 - 4 * u) - off
    shares = of.penalty.share(c, inside.clamp(min=0), bias, loose)
    shares = torch.where(shares < 1, (1 - 8 * u) * shares, shares)
    own = shifted.unpenalised
    if own is not None:
        shares = shares.index_fill(-1, own.atoms, 1.0)
    s = shares.amin(-1)
    # Without any penalty only the KKT residual certifies; a bias then has no dual point at all.
    none = torch.zeros_like(s) * s
    s = torch.where((s < DENSE) | (of.lam < DENSE), 0.0, s) + none
    slack = (1 - s) * (a.abs() * off).sum(-1)
    if shifted.bias is not None:
        slack = torch.where(of.lam < DENSE, math.inf, slack)
    if own is not None:
        low, high = of.penalty.bounds(inside)
        margin = high - bias if low is None else torch.minimum(high - bias, bias - low)
        size = torch.linalg.vector_norm(target, dim=-1).square() + anchor
        norms = rounding.norms.expand(margin.shape)
        ratio = torch.where(margin > 0, norms / torch.where(margin > 0, margin, 1.0), math.inf)
        ratio = ratio.index_fill(-1, own.atoms, 0.0).amax(-1)
        left = (s[..., None] * of.penalty.excess(c.clone(), torch.zeros_like(c))).clamp(min=0)
        left = (
            left
            + ((1 - s)[..., None] * of.penalty.excess(bias.clone(), torch.zeros_like(c))).clamp(min=0)
            + loose
            + off
        )
        left = left.expand(c.shape)[..., own.atoms].sum(-1)
        root = own.least.sqrt()
        # |a_U| <= (|P a| + |P_S a_S|) / sigma, |P a| <= 2 |x|, and m.|a_S| <= |x|^2 / 2 with the margins m.
        reach = 1.1 * (2 * size.sqrt() + ratio * (0.5 * size)) / root
        shy = left * ratio / root
        slack = slack + left * torch.where(shy < 0.1, 1.2 * reach, math.inf)
    sums = a * (s[..., None] * c), a * ((1 - s)[..., None] * bias)
    return _Point(
        s,
        torch.linalg.vector_norm(r, dim=-1),
        (1 + 4 * a.shape[-1] * u) * _ridged(of.ridge, away),
        (sums[0] + sums[1]).sum(-1),
        sums[0].abs().sum(-1) + sums[1].abs().sum(-1),
        slack,
    )


def improved(found: Certificate, there: Evaluated, step: Tensor, image: Tensor, rounding: Rounding) -> Certificate:
    """`found`, with the smaller of its gap and of that which follows from the code `step` further on.

    `there` is that code, at the minimum on the atoms without a penalty, and `image` is P step. E falls on the way by
    |P step|^2 / 2 + ridge |step|^2 / 2 + c.step.
    """
    u, n = torch.finfo(step.dtype).eps / 2, step.shape[-1]
    after = certify(there, rounding)
    off = SLACK * u * (rounding.decode + 2) * _weighted(step.abs(), rounding.norms, step.abs().sum(-1))
    square = (torch.linalg.vector_norm(image, dim=-1) * (1 + 4 * image.shape[-1] * u) + off).square()
    square = square + _ridged(there.ridge, step)
    # The bound on the error of c that `certify` adds is the difference of these two.
    pull = ((there.c.abs() + after.rounding[..., None]) * step.abs()).sum(-1)
    gap = (after.gap + (0.5 * square + pull) * (1 + 4 * n * u)) * (1 + 8 * u)
    outside = there.penalty.outside(there.a - step)
    if outside is not None:
        gap = torch.where(outside.amax(-1) <= 0, gap, math.inf)
    relative = _relative(gap, there)
    better = (gap < found.gap) & (there.lam > 0)
    return found._replace(
        gap=torch.where(better, gap, found.gap), relative_gap=torch.where(better, relative, found.relative_gap)
    )


def least_pull(x: Tensor, pull: Tensor, rounding: Rounding, bias: Tensor | None = None) -> Tensor:
    """A lower bound on max_i |P^T x + q|_i, where `pull` is P^T x as computed, and `bias` q.

    For a signal that is orthogonal to every atom up to rounding it is max_i |P_i| |x|; for signals and dictionaries of
    zeros it is zero.
    """
    u = torch.finfo(x.dtype).eps / 2
    length = torch.linalg.vector_norm(x, dim=-1)[..., None]
    most = length * rounding.norms
    total = pull if bias is None else pull + bias
    least = (total.abs() * (1 - 2 * u) - SLACK * (rounding.encode + 2) * u * most - LOST * x.shape[-1]).amax(-1)
    # Norms that underflow may have changed are no lower bounds.
    reliable = torch.where(rounding.norms >= DENSE, most, 0.0)
    return torch.where(least > 0, least, (1 - 1e-6) * reliable.expand(pull.shape).amax(-1))


def _ridged(ridge: Tensor | float, a: Tensor) -> Tensor:
    """sum_i ridge_i a_i^2 over the last dimension."""
    if isinstance(ridge, Tensor) and ridge.ndim:
        return (ridge * a.square()).sum(-1)
    return ridge * a.square().sum(-1)


def _weighted(size: Tensor, weights: Tensor, length: Tensor) -> Tensor:
    """sum_i weights_i size_i over the last dimension; `length` is the sum of `size`."""
    if weights.ndim == 0 or weights.shape[-1] == 1:
        return length * (weights.squeeze(-1) if weights.ndim else weights)
    return size @ weights if weights.ndim == 1 else (size * weights).sum(-1)
