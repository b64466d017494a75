"""Dual points of problems with a bias or with atoms that bear no penalty (docs/mathematics.md, "Weights and a bias").

The scaled residual is a dual point only where the box of the penalty holds zero in its inside. A bias q shifts the box
to |P^T y + q| <= w lam. An *anchor* is a code b for which e = q - (G + ridge) b lies inside the box. The problem is
then, up to a constant, the one with signal x + P b and bias e, and s times its residual is feasible for some s > 0.

Atoms without a penalty need a dual point that is orthogonal to them. So the code is first moved to its minimum on these
atoms, by one linear system, and what is left of their correlation is multiplied by a bound on their optimal entries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.penalties import Penalty

__all__ = ["Anchor", "Unpenalised", "anchor_of", "unpenalised_of"]

#: The anchor's bias is brought inside this share of the box, and must be found inside the second.
_AIM, _INSIDE = 0.9, 0.95
#: Steps that look for an anchor, and steps between looks.
_STEPS, _LOOK = 1_000, 25
#: Atoms without a penalty must be at least this well conditioned: the least eigenvalue over the largest.
_CONDITION = 1e-10


class Unpenalised(NamedTuple):
    """The atoms U that bear no penalty; the same for all signals.

    Attributes:
        atoms: their numbers among flattened codes.
        gram: P_U^T P_U + ridge I in float64, where the squares of small atoms do not underflow, (|U|, |U|); for a
            batched dictionary (*elements, 1, |U|, |U|), or one per signal
            where each has its own ridge.
        least: a lower bound on the smallest eigenvalue of `gram`.
    """

    atoms: Tensor
    gram: Tensor
    least: Tensor

    def step(self, c: Tensor, held: Tensor | None) -> Tensor:
        """The step of the entries of U to the minimum on U, from the descent c, (*any, n); zero for entries `held`."""
        gram = self.gram
        own = c[..., self.atoms].to(gram.dtype)
        if held is not None:
            free = (~held[..., self.atoms]).to(own.dtype)
            own = own * free
            gram = gram * free[..., None] * free[..., None, :] + torch.diag_embed(1 - free)
        by = torch.linalg.solve(gram.expand(*own.shape, own.shape[-1]), own[..., None]).squeeze(-1)
        return torch.zeros_like(c).index_copy(-1, self.atoms, by.to(c.dtype))


class Anchor(NamedTuple):
    """What shifts a problem to one whose bias lies in the box; codes are shaped like codes, one per signal.

    Attributes:
        code: b, or None where it is zero for every signal.
        shift: P b, shaped like signals; None as `code` is.
        bias: e = q - (G + ridge) b, or q itself; None without a bias.
        found: whether e lies inside the box, one per signal.
        unpenalised: the atoms without a penalty; None where there are none.
    """

    code: Tensor | None
    shift: Tensor | None
    bias: Tensor | None
    found: Tensor
    unpenalised: Unpenalised | None

    def select(self, index: Tensor, code_dims: int) -> Anchor:
        """The rows `index` of a flat problem's anchor."""
        code, shift = (None if t is None else t[index] for t in (self.code, self.shift))
        bias = self.bias[index] if self.bias is not None and self.bias.ndim > code_dims else self.bias
        own = self.unpenalised
        if own is not None and own.gram.ndim > 2:
            own = own._replace(gram=own.gram[index], least=own.least[index])
        return Anchor(code, shift, bias, self.found[index], own)


def unpenalised_of(dictionary: Dictionary, index: Tensor, ridge: float | Tensor) -> Unpenalised:
    """The system of the atoms `index`; ValueError where they are dependent, or nearly so."""
    units = torch.zeros(len(index), dictionary.code_size, dtype=dictionary.dtype, device=dictionary.device)
    units[torch.arange(len(index)), index] = 1.0
    units = units.reshape(-1, *dictionary.code_shape)
    units = units.expand(*dictionary.batch_shape, *units.shape)
    atoms = dictionary.decode_unchecked(units).flatten(-len(dictionary.signal_shape))
    gram = atoms @ atoms.mT
    gram = gram[..., None, :, :] if dictionary.batch_shape else gram
    weight = torch.as_tensor(ridge, dtype=gram.dtype, device=gram.device)
    if weight.ndim:
        weight = weight.flatten(-len(dictionary.code_shape))
        weight = weight[..., index] if weight.shape[-1] > 1 else weight
    gram = gram + torch.diag_embed(weight.expand(*weight.shape[:-1], len(index)))
    with torch.no_grad():
        values = torch.linalg.eigvalsh(gram.detach())
        size = dictionary.signal_size + 4 * len(index)
        least = values[..., 0] - 4 * size * torch.finfo(gram.dtype).eps * values[..., -1]
        floor = max(_CONDITION, 1e3 * torch.finfo(gram.dtype).eps)
        if bool((least <= floor * values[..., -1]).any()):
            raise ValueError(
                f"weights is zero for {len(index)} atoms that are linearly dependent or nearly so, and their code has "
                "no certificate; independent atoms, or a weight above zero, are wanted"
            )
    return Unpenalised(index, gram, least)


def anchor_of(
    dictionary: Dictionary,
    penalty: Penalty,
    weight: Tensor,
    bias: Tensor | None,
    ridge: Tensor,
    own: Unpenalised | None,
    batch: tuple[int, ...],
) -> Anchor:
    """The anchor of a problem with these parts; `weight` and `ridge` broadcast against codes, `batch` is its signals'.

    Signals without any penalty need none, because the KKT residual certifies them.
    """
    dims = len(dictionary.code_shape)
    shape = (*batch, *dictionary.code_shape)
    found = torch.ones(batch, dtype=torch.bool, device=weight.device)
    if bias is None:
        return Anchor(None, None, None, found, own)
    with torch.no_grad():
        # A bias at the border of its box leaves no margin for the residual's share, so it is brought inside too.
        inside = _within(penalty, bias.expand(shape), _INSIDE * weight, own, dims)
        idle = (weight.expand(shape) == 0).flatten(-dims).all(-1)
        if bool((inside | idle).all()):
            return Anchor(None, None, bias, found, own)
        code = _searched(dictionary, penalty, weight, bias.expand(shape), ridge, own)
        e = bias - dictionary.gram(code) - ridge * code
        # Where the search found nothing, the bias may still lie in the box as it is.
        kept = inside | idle | ~_within(penalty, e, weight if own is None else _INSIDE * weight, own, dims)
        code = torch.where(kept.reshape(*batch, *(1,) * dims), 0.0, code)
    shift = dictionary.decode(code)
    e = bias - dictionary.encode(shift) - ridge * code
    with torch.no_grad():
        found = idle | _within(penalty, e, weight if own is None else _INSIDE * weight, own, dims)
    return Anchor(code, shift, e, found, own)


def _within(penalty: Penalty, e: Tensor, weight: Tensor, own: Unpenalised | None, dims: int) -> Tensor:
    """Whether e lies in the box, one per signal; for atoms without a penalty, whether it is zero to rounding."""
    outside = penalty.excess(e.clone(), weight.expand(e.shape)).flatten(-dims)
    if own is not None:
        size = e.abs().flatten(-dims).amax(-1, keepdim=True)
        outside[..., own.atoms] -= 1e3 * torch.finfo(e.dtype).eps * (size + own.least.sqrt().max())
    return (outside <= 0).all(-1)


def _searched(
    dictionary: Dictionary,
    penalty: Penalty,
    weight: Tensor,
    bias: Tensor,
    ridge: Tensor,
    own: Unpenalised | None,
) -> Tensor:
    """A code at which the problem with x = 0 and a share of the penalty is nearly optimal, by FISTA."""
    dims = len(dictionary.code_shape)
    curvature = dictionary.lipschitz()
    curvature = curvature.reshape(*curvature.shape, *(1,) * (dims + 1)) if curvature.ndim else curvature
    curvature = curvature + ridge.amax()
    code = ahead = torch.zeros_like(bias)
    momentum = 1.0
    for step in range(1, _STEPS + 1):
        descent = bias - dictionary.gram(ahead) - ridge * ahead
        new = penalty.prox(ahead + descent / curvature, _AIM * weight / curvature)
        following = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        ahead = new + (momentum - 1) / following * (new - code)
        code, momentum = new, following
        if step % _LOOK == 0:
            moved = code
            for _ in range(2 if own is not None else 1):
                e = bias - dictionary.gram(moved) - ridge * moved
                if own is not None:
                    flat = moved.flatten(-dims)
                    held = flat <= 0 if penalty.nonnegative else None
                    moved = moved + own.step(e.flatten(-dims), held).reshape(moved.shape)
            e = bias - dictionary.gram(moved) - ridge * moved
            if bool(_within(penalty, e, _INSIDE * weight, own, dims).all()) or not bool(code.isfinite().all()):
                return moved
    return moved
