"""One step of learning: code a batch, change the dictionary, and revive what has died."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries import Dictionary, HierarchyDictionary
from vars_dyn.learning import group
from vars_dyn.learning.atoms import Atoms, atoms_of, layers_of, per_atom, revived, with_atoms, with_layers
from vars_dyn.learning.coding import Coded, Codes, codes_for
from vars_dyn.learning.moves import attempt
from vars_dyn.learning.rules import Gradient, Rule, rule_for

__all__ = ["Learner", "Step"]


class Step(NamedTuple):
    """What a step found on its batch, before the dictionary changed, and what it did to the atoms.

    Attributes:
        objective: the mean over the batch of 1/2 |x - P a|^2 + lam |a|_1; of a hierarchy that of the joint energy.
        magnitude: the mean over the batch of |a|_1.
        relative_gap: the largest relative gap of the batch's codes.
        active_fraction: the share of entries of the codes that are not zero.
        signal_to_noise: the batch's energy over that of its residuals, in decibels.
        dead: atoms that no code has used for `Atoms.patience` signals, before they were revived.
        revived: atoms that were replaced after the step.
    """

    objective: float
    magnitude: float
    relative_gap: float
    active_fraction: float
    signal_to_noise: float
    dead: int
    revived: int


class Learner:
    """A dictionary that learns, with all that the next step depends on.

    A hierarchy's layers learn together: their codes minimise the joint energy, and each layer then changes by the rule
    as a dictionary of what it sees, which is the code of the layer below.

    Args:
        dictionary: dense, convolutional or Fourier, or a hierarchy of these. Its atoms are first projected onto what
            `atoms` allows.
        lam: weight of |a|_1; for a hierarchy a sequence of one for each layer.
        method: "online", "hebbian" or "gradient", or a rule with its settings (`Online`, `Hebbian`, `Gradient`).
        codes: "solve", "equilibrium" or "integrate", or a way with its settings (`Solve`, `Equilibrium`, `Integrate`).
        atoms: what the atoms must satisfy, in every layer.

    Raises ValueError for a dictionary that cannot learn, an unknown name, a lam that does not fit, and codes without a
    gradient where the rule's loss needs one. Those of a hierarchy carry none.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        lam: float | Sequence[float],
        method: str | Rule = "online",
        codes: str | Codes = "solve",
        atoms: Atoms | None = None,
    ) -> None:
        self.joint = isinstance(dictionary, HierarchyDictionary)
        self.lam = _checked(lam, len(layers_of(dictionary)) if self.joint else None)
        self.rule, self.codes, self.atoms = rule_for(method), codes_for(codes), atoms or Atoms()
        if isinstance(self.rule, Gradient) and self.rule.share != 1 and (self.joint or not self.codes.differentiable):
            which = "those of a hierarchy" if self.joint else "the codes"
            raise ValueError(
                f"share is {self.rule.share} and {which} carry no gradient; codes of an equilibrium or an "
                "integration, or share 1, are wanted"
            )
        layers = []
        for layer in layers_of(dictionary.detach()):
            rows = atoms_of(layer)
            layers.append(with_atoms(layer, self.atoms.project(rows, rows)))
        self.dictionary = with_layers(dictionary.detach(), layers)
        self.running = [self.rule.begin(layer, self.atoms) for layer in layers]
        self.idle = [atoms_of(layer).new_zeros(len(atoms_of(layer)), dtype=torch.long) for layer in layers]
        self.steps = 0
        #: mu_l of all layers; that of the first is one.
        self.couplings = (
            1.0,
            *(dictionary.roots.square().tolist() if isinstance(dictionary, HierarchyDictionary) else ()),
        )

    @property
    def signal_shape(self) -> tuple[int, ...]:
        """The shape of one signal: that of the first layer's."""
        return layers_of(self.dictionary)[0].signal_shape

    def step(self, x: Float[Tensor, n * signal_shape]) -> Step:
        """Learn from a batch of signals x; ValueError for signals that do not fit, NaN or infinity.

        In a group of processes (`vars_dyn.learning.group`) all of them get the same batch, and each codes a part of it.
        """
        _checks.floating_tensor("x", x)
        _checks.trailing("x", x, self.signal_shape)
        if x.ndim != 1 + len(self.signal_shape) or not len(x):
            wanted = ", ".join(map(str, self.signal_shape))
            raise ValueError(f"x has shape {tuple(x.shape)}; (n, {wanted}) with n of at least 1 is wanted")
        through = isinstance(self.rule, Gradient) and self.codes.differentiable and not self.joint
        current = self.dictionary
        if through:
            current = current.with_tensors(tuple(t.detach().clone().requires_grad_() for t in current.tensors()))
        own = group.part(x)
        with torch.set_grad_enabled(through):
            coded = self.codes(current, own, self.lam)
        with torch.no_grad():
            code = coded.code.detach()
            layers, sums, dead, renewed = [], [own.square().sum(), code.abs().sum(), (code != 0).sum()], 0, 0
            for level, (layer, seen, part) in enumerate(self._layered(current, own, coded)):
                residual = seen - layer.detach().decode(part.code.detach())
                sums += [residual.square().sum(), part.code.detach().abs().sum()]
                changed = self.running[level].update(layer, seen, part).detach()
                changed, count, replaced = self._living(level, changed, part.code.detach(), residual)
                changed = changed if self.joint else self._moved(changed, layer.detach(), seen, part)
                layers.append(changed)
                dead, renewed = dead + count, renewed + replaced
            gap = float(group.largest(coded.relative_gap.max()))
            (found,) = group.summed(torch.stack([value.double() for value in sums]))
        self.dictionary = with_layers(self.dictionary, layers)
        self.steps += 1
        energy, magnitude, active, *rest = found.tolist()
        lams = self.lam if isinstance(self.lam, tuple) else (self.lam,)
        noises, magnitudes, tiny = rest[::2], rest[1::2], torch.finfo(x.dtype).tiny
        objective = sum(
            0.5 * mu * noise + lam * own_magnitude
            for mu, noise, lam, own_magnitude in zip(self.couplings, noises, lams, magnitudes, strict=True)
        )
        decibels = 10 * math.log10(max(energy, tiny) / max(noises[0], tiny))
        active /= len(x) * code[0].numel()
        return Step(objective / len(x), magnitude / len(x), gap, active, decibels, dead, renewed)

    def _layered(self, dictionary: Dictionary, x: Tensor, coded: Coded) -> list[tuple[Dictionary, Tensor, Coded]]:
        """For every layer its dictionary, what it sees, and its codes."""
        if not isinstance(dictionary, HierarchyDictionary):
            return [(dictionary, x, coded)]
        codes = dictionary.split(coded.code.detach())
        found, seen = [], x
        for layer, code in zip(dictionary.layers, codes, strict=True):
            found.append((layer, seen.reshape(len(x), *layer.signal_shape), coded._replace(code=code)))
            seen = code
        return found

    def _living(self, level: int, layer: Dictionary, code: Tensor, residual: Tensor) -> tuple[Dictionary, int, int]:
        """The layer with its dead atoms revived, how many were dead, and how many were revived."""
        used = group.whole((per_atom(code) != 0).any(-1))
        count = len(used)
        # The signals since an atom was last used; within this batch, those after its last use.
        last = torch.where(used, torch.arange(count, device=used.device)[:, None].expand_as(used), -1).amax(0)
        self.idle[level] = torch.where(last >= 0, count - 1 - last, self.idle[level] + count)
        patience = self.atoms.patience
        if patience is None:
            return layer, 0, 0
        dead = (self.idle[level] >= patience).nonzero()[:, 0]
        if not len(dead):
            return layer, 0, 0
        changed, replaced = revived(layer, dead, group.whole(residual), self.atoms)
        self.running[level].forget(replaced)
        self.idle[level][replaced] = 0
        return changed, len(dead), len(replaced)

    def _moved(self, changed: Dictionary, before: Dictionary, x: Tensor, coded: Coded) -> Dictionary:
        """The dictionary after a move out of a local minimum, if one is due and is any good."""
        every = self.atoms.moves
        if every is None or (self.steps + 1) % every:
            return changed
        move = attempt(
            before, x, coded, lambda one, some: self.codes(one, some, self.lam), self.atoms, self.steps // every
        )
        if move is None:
            return changed
        rows = atoms_of(changed).clone()
        rows[move.moved] = atoms_of(move.dictionary)[move.moved]
        self.running[0].forget(move.moved)
        self.idle[0][move.moved] = 0
        return with_atoms(changed, rows)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name, for `restore`."""
        found = {"steps": torch.tensor(self.steps)}
        for level, layer in enumerate(layers_of(self.dictionary)):
            mark = self._mark(level)
            (found[f"{mark}weight"],) = layer.tensors()
            found[f"{mark}idle"] = self.idle[level]
            found |= {f"{mark}rule.{name}": value for name, value in self.running[level].state().items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned, of a learner made with the same arguments."""
        layers = []
        for level, layer in enumerate(layers_of(self.dictionary)):
            mark = self._mark(level)
            (weight,) = layer.tensors()
            given = state[f"{mark}weight"]
            if given.shape != weight.shape or given.dtype != weight.dtype:
                raise ValueError(
                    f"the state's weight is {_checks.describe(given)}; {_checks.describe(weight)} is wanted"
                )
            layers.append(layer.with_tensors((given.clone(),)))
            self.idle[level] = state[f"{mark}idle"].clone()
            start = f"{mark}rule."
            self.running[level].restore(
                {k.removeprefix(start): v.clone() for k, v in state.items() if k.startswith(start)}
            )
        self.dictionary, self.steps = with_layers(self.dictionary, layers), int(state["steps"])

    def _mark(self, level: int) -> str:
        """What the names of a layer's tensors begin with in a state."""
        return f"layer_{level + 1}." if self.joint else ""


def _checked(lam: float | Sequence[float], layers: int | None) -> float | tuple[float, ...]:
    """lam as numbers above zero; `layers` is None for a dictionary that is no hierarchy."""
    if layers is None:
        if isinstance(lam, Sequence):
            raise ValueError(f"lam is {lam}; one number is wanted for a dictionary that is no hierarchy")
        return float(_checks.number("lam", lam, positive=True))
    if not isinstance(lam, Sequence) or len(lam) != layers:
        raise ValueError(f"lam is {lam}; a number for each of the hierarchy's {layers} layers is wanted")
    return tuple(float(_checks.number(f"lam[{k}]", value, positive=True)) for k, value in enumerate(lam))
