"""Moves out of local minima: an atom that does little takes over half of one that mixes two; a template is centred.

Learning changes atoms by small steps, and can end where two atoms share what is one in the signals while another mixes
two (as mixtures of Gaussians do; Ueda, Nakano, Ghahramani and Hinton, Neural Computation 12, 2109, 2000), or where a
template has run against the edge of its window. A move proposes a jump, adapts the atoms that jump to one half of a
batch, and is made only if the objective is lower on the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn.dictionaries import ConvDictionary, Dictionary
from vars_dyn.learning.atoms import Atoms, atoms_of, outer, per_atom, with_atoms
from vars_dyn.learning.coding import Coded
from vars_dyn.learning.group import summed

__all__ = ["Move", "attempt"]

#: Power iterations towards the residuals' main direction at each atom, and rounds of coding in which a move adapts.
_POWER, _ROUNDS = 10, 3
#: Which of the atoms that do least, and which of those that mix most, an attempt takes, in turn.
_PAIRS = ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))


class Move(NamedTuple):
    """A dictionary after a move, and the atoms that jumped (their numbers)."""

    dictionary: Dictionary
    moved: Tensor


def attempt(
    dictionary: Dictionary,
    x: Float[Tensor, n * signal_shape],
    coded: Coded,
    coding: Callable[[Dictionary, Tensor], Coded],
    atoms: Atoms,
    number: int,
) -> Move | None:
    """Try the move of that number on a batch; None if it does not lower the objective.

    `coded` are the batch's codes with the dictionary as it is, and `coding` codes signals with another.
    """
    fit, judge = slice(0, None, 2), slice(1, None, 2)
    (count,) = summed(torch.tensor(len(x[judge])))
    if int(count) < 2:
        return None
    code = coded.code.detach()
    candidate = None
    if isinstance(dictionary, ConvDictionary) and number % 2:
        candidate = _centred(dictionary, number // 2)
    if candidate is None:
        candidate = _split(dictionary, x[fit], code[fit], atoms, number)
    if candidate is None:
        return None
    found = candidate.dictionary
    for _ in range(_ROUNDS):
        own = coding(found, x[fit]).code.detach()
        found = _adapted(found, x[fit], own, candidate.moved, atoms)
    after = coding(found, x[judge])
    before = coded.problem.detach().objective(code)[judge]
    gain = before - after.problem.detach().objective(after.code.detach())
    total, squares = (float(value) / int(count) for value in summed(gain.sum(), gain.square().sum()))
    # By more than its standard error, so that chance seldom makes a move.
    if total <= (max(squares - total**2, 0.0) / int(count)) ** 0.5:
        return None
    return Move(found, candidate.moved)


def _split(dictionary: Dictionary, x: Tensor, code: Tensor, atoms: Atoms, number: int) -> Move | None:
    """The atom that does least becomes one half of the atom that mixes two, which becomes the other half."""
    residual = x - dictionary.decode_unchecked(code)
    active = per_atom(code) != 0
    (power,) = summed(per_atom(code).square().sum((0, 2)))
    rows = atoms_of(dictionary)
    # What the residuals where an atom is active have in common, besides the shrinkage along the atom itself.
    generator = torch.Generator().manual_seed(number)
    across = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows)
    spread = power
    for _ in range(_POWER):
        across = across - (across * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True).clamp(1e-300) * rows
        across = across / across.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
        turned = with_atoms(dictionary, across)
        seen = torch.where(active, per_atom(turned.encode_unchecked(residual)), 0.0)
        change, spread = summed(outer(turned, seen.reshape(code.shape), residual), seen.square().sum((0, 2)))
        across = atoms_of(dictionary.with_tensors((change,)))
    idle = (0.5 * power * (1 - _overlap(dictionary).square())).argsort(stable=True)
    mixed = torch.where(power > 0, spread, 0.0).argsort(descending=True, stable=True)
    least, most = _PAIRS[number % len(_PAIRS)]
    if max(least, most) >= len(rows) or idle[least] == mixed[most] or not float(spread[mixed[most]]) > 0:
        return None
    one, other = mixed[most], idle[least]
    direction = across[one] / across[one].norm()
    slope = float((spread[one] / power[one]).sqrt().clamp(0.2, 1.0)) * float(rows[one].norm())
    new = rows.clone()
    new[one], new[other] = rows[one] + slope * direction, rows[one] - slope * direction
    moved = torch.stack([one, other])
    new[moved] = atoms.project(new[moved], rows[moved])
    return Move(with_atoms(dictionary, new), moved)


def _overlap(dictionary: Dictionary) -> Float[Tensor, " m"]:
    """The largest modulus of the cosine of each atom, at any place, with another atom in the middle."""
    rows = atoms_of(dictionary)
    codes = per_atom(rows.new_zeros(len(rows), *dictionary.code_shape))
    each = torch.arange(len(rows))
    codes[each, each, _middle(dictionary.code_shape[1:])] = 1.0
    images = dictionary.decode_unchecked(codes.reshape(len(rows), *dictionary.code_shape))
    seen = per_atom(dictionary.encode_unchecked(images)).abs().amax(2)
    norms = rows.norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
    found = seen / (norms[:, None] * norms)
    found[each, each] = 0.0
    return found.amax(0).clamp(max=1.0)


def _middle(places: Sequence[int]) -> int:
    """The number of the place in the middle, of places in row-major order."""
    flat, stride = 0, 1
    for size in reversed(places):
        flat, stride = flat + size // 2 * stride, stride * size
    return flat


def _centred(dictionary: ConvDictionary, number: int) -> Move | None:
    """A template whose energy is off the middle of its window is moved there, by whole pixels; the farthest first."""
    weight = dictionary.weight
    energy = weight.square().sum(1)
    shifts = []
    for dim, size in enumerate(weight.shape[2:], start=1):
        others = tuple(k for k in range(1, energy.ndim) if k != dim)
        along = energy.sum(others) if others else energy
        at = torch.arange(size, dtype=weight.dtype, device=weight.device)
        centre = (along * at).sum(1) / along.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)
        shifts.append(((size - 1) / 2 - centre).round().long())
    far = torch.stack(shifts, 1)
    distance = far.abs().amax(1)
    off = int((distance > 0).sum())
    if not off:
        return None
    one = distance.argsort(descending=True, stable=True)[number % off]
    moved = weight[one]
    for dim, shift in enumerate(far[one].tolist(), start=1):
        moved = _shifted(moved, shift, dim)
    norm = moved.norm()
    if not float(norm) > 0:
        return None
    new = weight.clone()
    new[one] = moved * (weight[one].norm() / norm)
    return Move(dictionary.with_tensors((new,)), one[None])


def _shifted(values: Tensor, shift: int, dim: int) -> Tensor:
    """The values moved along a dimension; zeros come in."""
    size = values.shape[dim]
    found = torch.zeros_like(values)
    count = max(size - abs(shift), 0)
    source, target = max(-shift, 0), max(shift, 0)
    found.narrow(dim, target, count).copy_(values.narrow(dim, source, count))
    return found


def _adapted(dictionary: Dictionary, x: Tensor, code: Tensor, moved: Tensor, atoms: Atoms) -> Dictionary:
    """The atoms that moved go to their minimum for these codes, if each is alone and its uses do not overlap."""
    change, power = summed(
        outer(dictionary, code, x - dictionary.decode_unchecked(code)), per_atom(code).square().sum((0, 2))
    )
    rows = atoms_of(dictionary).clone()
    own = atoms_of(dictionary.with_tensors((change,)))[moved]
    size = power[moved][:, None]
    step = torch.where(size > 0, own / size.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)
    rows[moved] = atoms.project(rows[moved] + step, rows[moved])
    return with_atoms(dictionary, rows)
