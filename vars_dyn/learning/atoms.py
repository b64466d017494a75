"""The atoms of a dictionary that learns: where they lie in its weight, their constraints, and how dead ones return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries import (
    ConvDictionary,
    DenseDictionary,
    Dictionary,
    FourierDictionary,
    HierarchyDictionary,
)

__all__ = [
    "Atoms",
    "Revival",
    "atoms_of",
    "layers_of",
    "outer",
    "per_atom",
    "random_dictionary",
    "revived",
    "with_atoms",
    "with_layers",
]

#: Where the atoms of each kind of dictionary lie: the dimension of the weight that counts them.
_DIMENSION: dict[type[Dictionary], int] = {DenseDictionary: 1, ConvDictionary: 0, FourierDictionary: 0}


@dataclass(frozen=True)
class Atoms:
    """What every atom must satisfy, and when it counts as dead.

    Attributes:
        norm: "sphere" keeps every atom at norm 1, "ball" at norm at most 1.
        nonnegative: whether no entry of an atom may be negative.
        patience: an atom that no code has used for so many signals is dead, and is revived: it becomes the piece of a
            residual that the dictionary explains worst. None revives none.
        moves: batches between attempts to leave a local minimum, in which an atom that does little takes over half of
            one that mixes two, or a template is moved to the middle of its window. An attempt codes two batches more.
            None makes none, and a hierarchy makes none either.

    Raises ValueError for another norm, and a patience or moves below 1.
    """

    norm: str = "sphere"
    nonnegative: bool = False
    patience: int | None = 10_000
    moves: int | None = 20

    def __post_init__(self) -> None:
        _checks.choice("norm", self.norm, ("sphere", "ball"))
        if self.patience is not None:
            _checks.count("patience", self.patience)
        if self.moves is not None:
            _checks.count("moves", self.moves)

    def project(self, rows: Float[Tensor, "m f"], before: Tensor | None = None) -> Tensor:
        """The nearest atoms that are allowed, for atoms in rows (m, entries).

        The sphere has no point nearest to zero. There the atom of `before` is kept, or without one the atom stays zero.
        """
        found = rows.clamp(min=0) if self.nonnegative else rows
        norm = found.norm(dim=1, keepdim=True)
        if self.norm == "ball":
            return found / norm.clamp(min=1.0)
        lost = norm <= torch.finfo(found.dtype).tiny
        scaled = found / torch.where(lost, torch.ones_like(norm), norm)
        return scaled if before is None else torch.where(lost, before, scaled)

    def project_one(self, atom: Float[Tensor, " f"], before: Float[Tensor, " f"]) -> Tensor:
        """`project` for a single atom, for loops over atoms, where every call of torch counts."""
        found = atom.clamp(min=0) if self.nonnegative else atom
        norm = float(torch.linalg.vector_norm(found))
        if self.norm == "ball":
            return found / norm if norm > 1 else found
        return found / norm if norm > torch.finfo(found.dtype).tiny else before


def weight_of(dictionary: Dictionary) -> tuple[Tensor, int]:
    """The weight of a dictionary that can learn, and the dimension that counts its atoms; ValueError for another."""
    dimension = next((place for kind, place in _DIMENSION.items() if isinstance(dictionary, kind)), None)
    if dimension is None or dictionary.batch_shape:
        what = "a batched dictionary" if dictionary.batch_shape else f"a {type(dictionary).__name__}"
        raise ValueError(
            f"dictionary is {what}; one {', '.join(kind.__name__ for kind in _DIMENSION)} for all signals is wanted"
        )
    (weight,) = dictionary.tensors()
    return weight, dimension


def atoms_of(dictionary: Dictionary) -> Float[Tensor, "m f"]:
    """The atoms in rows (atoms, entries of an atom); ValueError for a dictionary that cannot learn."""
    weight, dimension = weight_of(dictionary)
    return weight.movedim(dimension, 0).flatten(1)


def with_atoms(dictionary: Dictionary, rows: Float[Tensor, "m f"]) -> Dictionary:
    """The same dictionary with other atoms, given in rows as `atoms_of` gives them."""
    weight, dimension = weight_of(dictionary)
    shape = weight.movedim(dimension, 0).shape
    return dictionary.with_tensors((rows.reshape(shape).movedim(0, dimension).contiguous(),))


def layers_of(dictionary: Dictionary) -> tuple[Dictionary, ...]:
    """The layers of a hierarchy, from the signals upwards; any other dictionary is its only layer."""
    return dictionary.layers if isinstance(dictionary, HierarchyDictionary) else (dictionary,)


def with_layers(dictionary: Dictionary, layers: Sequence[Dictionary]) -> Dictionary:
    """The same dictionary with other layers, as `layers_of` gives them."""
    if not isinstance(dictionary, HierarchyDictionary):
        (one,) = layers
        return one
    roots = (dictionary.roots,) if len(layers) > 1 else ()
    return dictionary.with_tensors((*(t for layer in layers for t in layer.tensors()), *roots))


def random_dictionary(dictionary: Dictionary, seed: int, atoms: Atoms | None = None) -> Dictionary:
    """The same kind and shape of dictionary with normally distributed atoms of norm 1, in all layers of a hierarchy."""
    generator, layers = torch.Generator().manual_seed(seed), []
    for layer in layers_of(dictionary):
        rows = atoms_of(layer)
        drawn = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows)
        layers.append(with_atoms(layer, (atoms or Atoms()).project(drawn)))
    return with_layers(dictionary, layers)


def outer(
    dictionary: Dictionary, code: Float[Tensor, n * code_shape], residual: Float[Tensor, n * signal_shape]
) -> Tensor:
    """The sum over the signals of residual times code, as a weight: minus the gradient of 1/2 |x - P a|^2."""
    weight, _ = weight_of(dictionary)
    free = weight.detach().clone().requires_grad_()
    with torch.enable_grad():
        image = dictionary.with_tensors((free,)).decode_unchecked(code)
        # P a is linear in the weight, so the residual pulled back through it is the product.
        (found,) = torch.autograd.grad(image, free, residual)
    return found


def per_atom(code: Float[Tensor, n * code_shape]) -> Float[Tensor, "n m positions"]:
    """Codes (signals, atoms, positions): a dense dictionary's atoms have one position each."""
    return code.flatten(2) if code.ndim > 2 else code[..., None]


class Revival(NamedTuple):
    """Which atoms were dead, and the dictionary in which they live again."""

    dictionary: Dictionary
    dead: Tensor


def revived(
    dictionary: Dictionary, dead: Float[Tensor, k] | Tensor, residual: Float[Tensor, n * signal_shape], atoms: Atoms
) -> Revival:
    """The dictionary whose `dead` atoms (their numbers) become pieces of residuals, the worst explained first.

    The piece is what the atom sees where the residual has the most energy: the whole residual for a dense dictionary, a
    window of it for a convolution. Where there are fewer residuals than dead atoms, the rest stay as they are.
    """
    order = residual.flatten(1).square().sum(1).argsort(descending=True, stable=True)
    chosen = dead[: int((residual.flatten(1).abs().amax(1) > 0).sum())]
    if not len(chosen):
        return Revival(dictionary, chosen)
    some = residual[order[: len(chosen)]]
    window = dictionary.with_tensors(tuple(torch.ones_like(t) for t in dictionary.tensors()))
    energy = per_atom(window.encode_unchecked(some.square()))
    place = energy[:, 0].argmax(-1)
    code = torch.zeros_like(energy)
    code[torch.arange(len(chosen)), chosen, place] = 1.0
    # In each chosen atom this is the residual that the atom sees.
    pieces = outer(dictionary, code.reshape(len(some), *dictionary.code_shape), some)
    rows = atoms_of(dictionary).clone()
    seen = atoms_of(dictionary.with_tensors((pieces,)))[chosen]
    if atoms.nonnegative:
        seen = torch.where((seen.clamp(min=0).norm(dim=1) < seen.clamp(max=0).norm(dim=1))[:, None], -seen, seen)
    norm = seen.norm(dim=1, keepdim=True)
    rows[chosen] = atoms.project(torch.where(norm > 0, seen / norm.clamp(min=1e-300), rows[chosen]), rows[chosen])
    return Revival(with_atoms(dictionary, rows), chosen)
