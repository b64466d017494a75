"""One step of learning: code a batch, change the dictionary, and revive what has died."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries import Dictionary
from vars_dyn.learning.atoms import Atoms, atoms_of, per_atom, revived, with_atoms
from vars_dyn.learning.coding import Codes, codes_for
from vars_dyn.learning.rules import Gradient, Rule, rule_for

__all__ = ["Learner", "Step"]


class Step(NamedTuple):
    """What a step found on its batch, before the dictionary changed, and what it did to the atoms.

    Attributes:
        objective: the mean over the batch of 1/2 |x - P a|^2 + lam |a|_1.
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

    Args:
        dictionary: dense, convolutional or Fourier. Its atoms are first projected onto what `atoms` allows.
        lam: weight of |a|_1.
        method: "online", "hebbian" or "gradient", or a rule with its settings (`Online`, `Hebbian`, `Gradient`).
        codes: "solve", "equilibrium" or "integrate", or a way with its settings (`Solve`, `Equilibrium`, `Integrate`).
        atoms: what the atoms must satisfy.

    Raises ValueError for a dictionary that cannot learn, an unknown name, and codes without a gradient where the rule's
    loss needs one.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        lam: float,
        method: str | Rule = "online",
        codes: str | Codes = "solve",
        atoms: Atoms | None = None,
    ) -> None:
        self.lam = float(_checks.number("lam", lam, positive=True))
        self.rule, self.codes, self.atoms = rule_for(method), codes_for(codes), atoms or Atoms()
        if isinstance(self.rule, Gradient) and self.rule.share != 1 and not self.codes.differentiable:
            raise ValueError(
                f"share is {self.rule.share} and the codes carry no gradient; codes of an equilibrium or an "
                "integration, or share 1, are wanted"
            )
        rows = atoms_of(dictionary.detach())
        self.dictionary = with_atoms(dictionary.detach(), self.atoms.project(rows, rows))
        self.running = self.rule.begin(self.dictionary, self.atoms)
        self.idle = torch.zeros(len(rows), dtype=torch.long)
        self.steps = 0

    def step(self, x: Float[Tensor, n * signal_shape]) -> Step:
        """Learn from a batch of signals x; ValueError for signals that do not fit, NaN or infinity."""
        _checks.floating_tensor("x", x)
        _checks.trailing("x", x, self.dictionary.signal_shape)
        if x.ndim != 1 + len(self.dictionary.signal_shape) or not len(x):
            wanted = ", ".join(map(str, self.dictionary.signal_shape))
            raise ValueError(f"x has shape {tuple(x.shape)}; (n, {wanted}) with n of at least 1 is wanted")
        through = isinstance(self.rule, Gradient) and self.codes.differentiable
        current = self.dictionary
        if through:
            current = current.with_tensors(tuple(t.detach().clone().requires_grad_() for t in current.tensors()))
        with torch.set_grad_enabled(through):
            coded = self.codes(current, x, self.lam)
        with torch.no_grad():
            code = coded.code.detach()
            residual = x - self.dictionary.decode(code)
            noise = residual.flatten(1).square().sum(1)
            magnitude = code.abs().flatten(1).sum(1)
            objective = (0.5 * noise + self.lam * magnitude).mean()
            changed = self.running.update(current, x, coded).detach()
            used = (per_atom(code) != 0).any(-1)
            # The signals since an atom was last used; within this batch, those after its last use.
            last = torch.where(used, torch.arange(len(x))[:, None].expand_as(used), -1).amax(0)
            self.idle = torch.where(last >= 0, len(x) - 1 - last, self.idle + len(x))
            patience = self.atoms.patience
            dead = torch.empty(0, dtype=torch.long) if patience is None else (self.idle >= patience).nonzero()[:, 0]
            renewed = 0
            if len(dead):
                changed, replaced = revived(changed, dead, residual, self.atoms)
                self.running.forget(replaced)
                self.idle[replaced] = 0
                renewed = len(replaced)
        self.dictionary = changed
        self.steps += 1
        energy, tiny = float(x.square().sum()), torch.finfo(x.dtype).tiny
        ratio = torch.tensor(max(energy, tiny) / max(float(noise.sum()), tiny), dtype=torch.float64)
        active = float((code != 0).double().mean())
        decibels = float(10 * ratio.log10())
        gap = float(coded.relative_gap.max())
        return Step(float(objective), float(magnitude.mean()), gap, active, decibels, len(dead), renewed)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name, for `restore`."""
        running = {f"rule.{name}": value for name, value in self.running.state().items()}
        (weight,) = self.dictionary.tensors()
        return {"weight": weight, "idle": self.idle, "steps": torch.tensor(self.steps), **running}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned, of a learner made with the same arguments."""
        (weight,) = self.dictionary.tensors()
        given = state["weight"]
        if given.shape != weight.shape or given.dtype != weight.dtype:
            raise ValueError(f"the state's weight is {_checks.describe(given)}; {_checks.describe(weight)} is wanted")
        self.dictionary = self.dictionary.with_tensors((given.clone(),))
        self.idle, self.steps = state["idle"].clone(), int(state["steps"])
        rule = {k.removeprefix("rule."): v.clone() for k, v in state.items() if k.startswith("rule.")}
        self.running.restore(rule)
