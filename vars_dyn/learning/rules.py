"""The rules by which a dictionary changes after a batch: online, Hebbian, or by gradient with any torch optimizer.

A rule is a frozen description. `begin` makes the running state of one training run, which is a plain set of tensors and
numbers, so that a checkpoint can hold it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries import Dictionary
from vars_dyn.learning.atoms import Atoms, atoms_of, outer, per_atom, with_atoms
from vars_dyn.learning.coding import Coded
from vars_dyn.learning.group import summed
from vars_dyn.learning.statistics import descend, moments, statistics_size

__all__ = ["RULES", "Gradient", "Hebbian", "Online", "Rule", "Running", "rule_for"]


def _count(x: Tensor) -> Tensor:
    """The number of signals as a tensor that can be summed over processes."""
    return x.new_tensor(float(len(x)))


class Running(ABC):
    """The running state of a rule."""

    @abstractmethod
    def update(self, dictionary: Dictionary, x: Tensor, coded: Coded) -> Dictionary:
        """The dictionary after a batch; `coded` belongs to the tensors of `dictionary`.

        In a group of processes x and `coded` are this process's part of the batch, and all change the same way.
        """

    @abstractmethod
    def forget(self, dead: Tensor) -> None:
        """Drop what is remembered of the atoms with these numbers, which were just replaced."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that the next update depends on, by name."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""


@runtime_checkable
class Rule(Protocol):
    """A rule of learning."""

    def begin(self, dictionary: Dictionary, atoms: Atoms) -> Running:
        """The running state at the start; ValueError where the rule cannot change such a dictionary."""
        ...

    def facts(self) -> dict[str, Any]:
        """The rule and its settings, as plain data."""
        ...


@dataclass(frozen=True)
class Online:
    """Block-coordinate descent on the statistics of all codes so far (Mairal, Bach, Ponce, Sapiro, JMLR 11, 2010).

    Attributes:
        forgetting: the exponent rho of the paper's Section 3.4: before batch t the statistics are multiplied by
            (1 - 1/t)^rho. 0 weighs all codes alike, though the first belong to poor dictionaries.
        passes: sweeps over all atoms after each batch.
    """

    forgetting: float = 5.0
    passes: int = 1

    def __post_init__(self) -> None:
        _checks.number("forgetting", self.forgetting, nonnegative=True)
        _checks.count("passes", self.passes)

    def begin(self, dictionary: Dictionary, atoms: Atoms) -> Running:
        return _Statistics(self, dictionary, atoms)

    def facts(self) -> dict[str, Any]:
        return {"method": "online", "forgetting": self.forgetting, "passes": self.passes}


class _Statistics(Running):
    def __init__(self, rule: Online, dictionary: Dictionary, atoms: Atoms) -> None:
        self.rule, self.atoms = rule, atoms
        rows, columns = statistics_size(dictionary)
        (weight,) = dictionary.tensors()
        self.gram, self.cross = weight.new_zeros(columns, columns), weight.new_zeros(rows, columns)
        self.count, self.atom_count = 0, len(atoms_of(dictionary))

    def update(self, dictionary: Dictionary, x: Tensor, coded: Coded) -> Dictionary:
        self.count += 1
        gram, cross = moments(dictionary, x, coded.code.detach())
        gram, cross, count = summed(gram, cross, _count(x))
        keep = (1.0 - 1.0 / self.count) ** self.rule.forgetting if self.count > 1 else 0.0
        self.gram.mul_(keep).add_(gram / count)
        self.cross.mul_(keep).add_(cross / count)
        return descend(dictionary, self.gram, self.cross, self.atoms, self.rule.passes)

    def forget(self, dead: Tensor) -> None:
        columns = torch.zeros(len(self.gram), dtype=torch.bool)
        per = len(self.gram) // self.atom_count
        columns.view(-1, per)[dead] = True
        self.gram[columns] = 0.0
        self.gram[:, columns] = 0.0
        self.cross[:, columns] = 0.0

    def state(self) -> dict[str, Tensor]:
        return {"gram": self.gram, "cross": self.cross, "count": torch.tensor(self.count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.gram, self.cross, self.count = state["gram"], state["cross"], int(state["count"])


@dataclass(frozen=True)
class Hebbian:
    """The local rule of sparse coding: each synapse changes by the residual times the code that it sees.

    d P_i = rate <r a_i> / <a_i^2>, averaged over the batch (Olshausen and Field, Nature 381, 1996; Rozell et al.,
    Neural Computation 20, 2008). The divisor is a running average that a neuron knows of itself, so the rate has no
    units.

    Attributes:
        rate: the rate of the first batches, above 0 and below about 1.
        decay: the batches after which the rate has halved; it is rate / (1 + batches / decay). None keeps the rate.
        memory: the batches over which <a_i^2> is averaged.
    """

    rate: float = 0.1
    decay: float | None = 500.0
    memory: float = 20.0

    def __post_init__(self) -> None:
        _checks.number("rate", self.rate, positive=True)
        if self.decay is not None:
            _checks.number("decay", self.decay, positive=True)
        if float(_checks.number("memory", self.memory)) < 1:
            raise ValueError(f"memory is {self.memory}; at least one batch is wanted")

    def begin(self, dictionary: Dictionary, atoms: Atoms) -> Running:
        return _Synapses(self, dictionary, atoms)

    def facts(self) -> dict[str, Any]:
        return {"method": "hebbian", "rate": self.rate, "decay": self.decay, "memory": self.memory}


class _Synapses(Running):
    def __init__(self, rule: Hebbian, dictionary: Dictionary, atoms: Atoms) -> None:
        self.rule, self.atoms, self.count = rule, atoms, 0
        self.power = atoms_of(dictionary).new_zeros(len(atoms_of(dictionary)))

    def update(self, dictionary: Dictionary, x: Tensor, coded: Coded) -> Dictionary:
        self.count += 1
        code = coded.code.detach()
        change = outer(dictionary, code, x - dictionary.detach().decode_unchecked(code))
        change, power, count = summed(change, per_atom(code).square().sum(-1).sum(0), _count(x))
        power = power / count
        # The first batches make a plain average, so that the start at zero has no weight.
        share = max(1.0 / self.rule.memory, 1.0 / self.count)
        self.power = (1 - share) * self.power + share * power
        rate = self.rule.rate / (1.0 + (self.count - 1) / self.rule.decay if self.rule.decay else 1.0)
        # An atom that is used for the first time in long must not leap: the batch's own average bounds the step.
        divisor = torch.maximum(self.power, power)
        gain = torch.where(divisor > 0, rate / divisor.clamp(min=torch.finfo(power.dtype).tiny), 0.0) / count
        rows = atoms_of(dictionary)
        moved = rows + gain[:, None] * atoms_of(dictionary.with_tensors((change,)))
        return with_atoms(dictionary, self.atoms.project(moved, rows))

    def forget(self, dead: Tensor) -> None:
        self.power[dead] = 0.0

    def state(self) -> dict[str, Tensor]:
        return {"power": self.power, "count": torch.tensor(self.count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.power, self.count = state["power"], int(state["count"])


def _adam(tensors: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(tensors, 0.01)


@dataclass(frozen=True)
class Gradient:
    """Any torch optimizer on  1/2 |x - P a|^2 + share lam |a|_1, averaged over the batch.

    Codes that are differentiable (`Equilibrium`, `Integrate`) carry the gradient to the dictionary. At the equilibrium
    with share = 1 the part through the codes vanishes (the envelope theorem), so codes of `Solve` serve too.

    Attributes:
        optimizer: makes the optimizer of a list of tensors, such as `functools.partial(torch.optim.Adam, lr=0.01)`,
            which is the default.
        schedule: makes the learning rate's scheduler of the optimizer; None keeps the rate.
        share: the factor of lam in the loss.
    """

    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = _adam
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        _checks.number("share", self.share, nonnegative=True)

    def begin(self, dictionary: Dictionary, atoms: Atoms) -> Running:
        return _Descent(self, dictionary, atoms)

    def facts(self) -> dict[str, Any]:
        made = self.optimizer([torch.zeros(1, requires_grad=True)])
        known = {k: v for k, v in made.defaults.items() if isinstance(v, (bool, int, float, str, tuple)) or v is None}
        settings = json.loads(json.dumps(known))
        return {"method": "gradient", "optimizer": type(made).__name__, "share": self.share, **settings}


class _Descent(Running):
    def __init__(self, rule: Gradient, dictionary: Dictionary, atoms: Atoms) -> None:
        self.rule, self.atoms = rule, atoms
        atoms_of(dictionary)  # refuses what cannot learn
        (weight,) = dictionary.tensors()
        self.weight = weight.detach().clone().requires_grad_()
        self.optimizer = rule.optimizer([self.weight])
        self.schedule = None if rule.schedule is None else rule.schedule(self.optimizer)

    def update(self, dictionary: Dictionary, x: Tensor, coded: Coded) -> Dictionary:
        code = coded.code
        (weight,) = dictionary.tensors()
        with torch.enable_grad():
            if not weight.requires_grad:
                weight = weight.detach().requires_grad_()
            misfit = 0.5 * (x - dictionary.with_tensors((weight,)).decode_unchecked(code)).square().flatten(1).sum(1)
            loss = (misfit + self.rule.share * coded.problem.lam.detach() * code.abs().flatten(1).sum(1)).sum()
            (slope,) = torch.autograd.grad(loss, weight)
        slope, count = summed(slope, _count(x))
        slope = slope / count
        if self.atoms.norm == "sphere":
            slope = self._tangent(dictionary.detach(), slope)
        with torch.no_grad():
            self.weight.copy_(weight)
        self.weight.grad = slope
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule is not None:
            self.schedule.step()
        moved = dictionary.with_tensors((self.weight.detach().clone(),))
        before = atoms_of(dictionary.detach())
        return with_atoms(moved, self.atoms.project(atoms_of(moved), before))

    @staticmethod
    def _tangent(dictionary: Dictionary, slope: Tensor) -> Tensor:
        """The gradient without its part along the atoms, which the projection would take back."""
        rows, along = atoms_of(dictionary), atoms_of(dictionary.with_tensors((slope,)))
        found = along - (along * rows).sum(1, keepdim=True) * rows
        (tangent,) = with_atoms(dictionary, found).tensors()
        return tangent

    def forget(self, dead: Tensor) -> None:
        """The optimizer's averages of a replaced atom fade by themselves."""

    def state(self) -> dict[str, Tensor]:
        found = self.optimizer.state_dict()
        tensors = {}
        plain: dict[str, Any] = {"groups": found["param_groups"], "numbers": {}}
        for name, value in found["state"].get(0, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}"] = value
            else:
                plain["numbers"][name] = value
        if self.schedule is not None:
            whole = self.schedule.state_dict()
            plain["schedule"] = {k: v for k, v in whole.items() if isinstance(v, (bool, int, float, str, list))}
        tensors["plain"] = torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)
        return tensors

    def restore(self, state: Mapping[str, Tensor]) -> None:
        plain = json.loads(bytes(state["plain"].tolist()))
        tensors = {k.removeprefix("optimizer."): v for k, v in state.items() if k.startswith("optimizer.")}
        groups = [{**group} for group in plain["groups"]]
        known = {**tensors, **plain["numbers"]}
        self.optimizer.load_state_dict({"state": {0: known} if known else {}, "param_groups": groups})
        if self.schedule is not None:
            self.schedule.load_state_dict(plain["schedule"])


#: The rules by name.
RULES: dict[str, type[Online] | type[Hebbian] | type[Gradient]] = {
    "online": Online,
    "hebbian": Hebbian,
    "gradient": Gradient,
}


def rule_for(method: str | Rule) -> Rule:
    """The rule of that name with its defaults, or `method` itself; ValueError for an unknown name."""
    if isinstance(method, str):
        return RULES[_checks.choice("method", method, tuple(RULES))]()
    if not hasattr(method, "begin"):
        raise ValueError(f"method is {_checks.describe(method)}; one of {', '.join(RULES)}, or a Rule, is wanted")
    return method
