"""What the interventions that act at one time do to a field, together: what is held, what is added, what is scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vars_dyn.dynamics.base import Field
from vars_dyn.interventions.course import Ramp, Value, ramp_at

__all__ = ["Effect", "Part"]


class Part:
    """What is done to one population: the layer's neurons z, or the encoding neurons u.

    Attributes:
        name: "neurons" or "atoms".
        shape: the event shape.
        held: the units whose output is not that of their potential, and the `output` they have instead.
        frozen: the units whose potential does not follow the field.
        placed: the frozen units whose potential is given, and the `potential` they have.
        current: what is added to the right-hand side, before it is divided by the time constant; None for nothing.

    Masks are of the event shape, and None where there is no such unit.
    """

    def __init__(self, name: str, shape: tuple[int, ...], like: Tensor) -> None:
        self.name, self.shape, self.like = name, shape, like
        self.size = math.prod(shape)
        self.held: Tensor | None = None
        self.frozen: Tensor | None = None
        self.placed: Tensor | None = None
        self.output: Ramp | None = None
        self.potential: Ramp | None = None
        self.current: Ramp | None = None

    def index(self, units: Sequence[int] | str) -> Tensor:
        """The flat indices as a tensor; ValueError for one that is out of range."""
        if isinstance(units, str):
            return torch.arange(self.size, device=self.like.device)
        if max(units) >= self.size:
            raise ValueError(f"{self.name} holds {max(units)}; indices from 0 to {self.size - 1} are wanted")
        return torch.tensor(list(units), device=self.like.device)

    def hold(self, units: Sequence[int] | str, value: Value, time: float) -> None:
        """Give the units the output `value` from `time` on."""
        self.held = self._marked(self.held, units)
        self.output = self._joined(self.output, units, value, time)

    def freeze(self, units: Sequence[int] | str, value: Value | None, time: float) -> None:
        """Stop the units' potentials, at `value` where one is given."""
        self.frozen = self._marked(self.frozen, units)
        if value is not None:
            self.placed = self._marked(self.placed, units)
            self.potential = self._joined(self.potential, units, value, time)

    def add(self, units: Sequence[int] | str, value: Value, time: float) -> None:
        """Add a current."""
        self.current = self._joined(self.current, units, value, time)

    @property
    def fixed(self) -> Tensor | None:
        """The units whose output does not follow the field: those held, and those frozen."""
        if self.held is None or self.frozen is None:
            return self.frozen if self.held is None else self.held
        return self.held | self.frozen

    def place(self, t: float | Tensor, value: Tensor) -> Tensor:
        """Potentials `value` with those that are given in place."""
        if self.placed is None or self.potential is None:
            return value
        return torch.where(self.placed, self.potential.at(t), value)

    def outputs(self, t: float | Tensor, value: Tensor) -> Tensor:
        """Outputs `value` with those that are held in place."""
        if self.held is None or self.output is None:
            return value
        return torch.where(self.held, self.output.at(t), value)

    def _marked(self, mask: Tensor | None, units: Sequence[int] | str) -> Tensor:
        new = torch.zeros(self.size, dtype=torch.bool, device=self.like.device)
        new[self.index(units)] = True
        new = new.reshape(self.shape)
        return new if mask is None else mask | new

    def _joined(self, ramp: Ramp | None, units: Sequence[int] | str, value: Value, time: float) -> Ramp:
        index = self.index(units)
        own = ramp_at(f"the value for {self.name}", value, time, len(index), self.like)
        at, slope = self._spread(index, own.value), None if own.slope is None else self._spread(index, own.slope)
        if ramp is None:
            return Ramp(at, slope, time)
        slopes = [s for s in (ramp.slope, slope) if s is not None]
        return Ramp(ramp.value + at, sum(slopes[1:], slopes[0]) if slopes else None, time)

    def _spread(self, index: Tensor, values: Tensor) -> Tensor:
        return self.like.new_zeros(self.size).index_add(0, index, values).reshape(self.shape)


class Effect:
    """What is done to a field from `time` on, until what is done changes.

    Attributes:
        field: the field without interventions.
        neurons, atoms: what is done to z and to u.
        rows, columns: factors of the rows and columns of P, in whatever place P has; None for ones.
        feedforward, feedback, inhibition: further factors of P^T z, P a and (G - I) a alone, as a pair for the neurons'
            and the atoms' side; None for ones. They break the symmetry that the Lyapunov function needs.
    """

    def __init__(self, field: Field, time: float) -> None:
        self.field, self.time = field, time
        dictionary = field.dictionary
        self.neurons = Part("neurons", dictionary.signal_shape, field.amplitude().detach())
        self.atoms = Part("atoms", dictionary.code_shape, field.amplitude().detach())
        self.rows: Tensor | None = None
        self.columns: Tensor | None = None
        self.feedforward: tuple[Tensor | None, Tensor | None] = (None, None)
        self.feedback: tuple[Tensor | None, Tensor | None] = (None, None)
        self.inhibition: Tensor | None = None

    @property
    def has_neurons(self) -> bool:
        """Whether the neurons z have a potential of their own."""
        return "z" in self.field.state_names

    @property
    def has_atoms(self) -> bool:
        """Whether there are encoding neurons u."""
        return "u" in self.field.state_names

    def part(self, neurons: Sequence[int] | str | None, atoms: Sequence[int] | str | None) -> Part:
        """The population that is meant; ValueError if the field has not got it."""
        name = type(self.field).__name__
        if atoms is not None and not self.has_atoms:
            raise ValueError(f"atoms came, but {name} has no encoding neurons; neurons are wanted")
        if neurons is not None and not self.has_neurons:
            raise ValueError(f"neurons came, but the neurons of {name} are at rest at every moment; atoms are wanted")
        return self.atoms if neurons is None else self.neurons

    @property
    def asymmetric(self) -> bool:
        """Whether synapses are scaled on one of their two ways only."""
        return self.inhibition is not None or any(f is not None for f in (*self.feedforward, *self.feedback))
