"""A field while the same interventions act: its right-hand side, and what its outputs are."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from vars_dyn.dictionaries.base import Dictionary, rounded_up
from vars_dyn.dictionaries.reweighted import Reweighted
from vars_dyn.dynamics.base import Field, State
from vars_dyn.dynamics.constants import largest, smallest
from vars_dyn.interventions.base import Intervention
from vars_dyn.interventions.effect import Effect, Part
from vars_dyn.interventions.energy import Free
from vars_dyn.interventions.wrapped import Wrapped
from vars_dyn.problems import SparseProblem

__all__ = ["Acting"]


class Acting(Wrapped):
    """`field` from `time` on, until what the interventions do changes.

    The right-hand side is the field's own, evaluated where held outputs are zero; what they send, and currents, are
    added. So any field with the states (z), (u) or (z, u) will do, whatever its gate. Values are those at `time` and,
    where a value changes along a line, at the time asked for. `problem()` is that of `time`.

    Args:
        field: the field without interventions, between two of its boundaries.
        interventions: those that act.
        time: from when on.
    """

    def __init__(self, field: Field, interventions: Sequence[Intervention], time: float) -> None:
        self.field, self.interventions, self.time = field, tuple(interventions), time
        self.effect = Effect(field, time)
        for each in self.interventions:
            each.act(self.effect, time)
        #: The field whose dictionary has its rows and columns scaled.
        self.scaled = _with_dictionary(field, _reweighted(field.dictionary, self.effect.rows, self.effect.columns))
        self._evaluated = self.scaled
        self._sent = self._image()
        given = any(tensor.requires_grad for each in self.interventions for tensor in each.tensors())
        self._has_graph = given or (self._sent is not None and self._sent[0].requires_grad)

    def around(self, field: Field, interventions: Sequence[Intervention]) -> Acting:
        return Acting(field, interventions, self.time)

    def prepared(self) -> Acting:
        twin = copy.copy(self)
        twin._evaluated = self.scaled.prepared()
        return twin

    @property
    def boundaries(self) -> tuple[float, ...]:
        return ()

    def during(self, start: float, end: float) -> Field:
        return self

    def at(self, t: float | Tensor) -> Acting:
        """The same with x as it is at time t."""
        return Acting(self.field.at(t), self.interventions, float(t)) if self.field.moves else self

    def held(self, t: float, state: State) -> State:
        """The state with the potentials in place that are given."""
        return tuple(part.place(t, value) for part, value in zip(self._parts, state, strict=True))

    def free(self) -> tuple[Tensor | None, ...]:
        """Which units of every part of the state follow the field; None for all of them."""
        return tuple(None if part.frozen is None else ~part.frozen for part in self._parts)

    @property
    def _parts(self) -> tuple[Part, ...]:
        own = {"z": self.effect.neurons, "u": self.effect.atoms}
        return tuple(own[name] for name in self.state_names)

    def sent(self, t: float | Tensor) -> Tensor | None:
        """P applied to the outputs that atoms are held at; None where it is zero."""
        if self._sent is None:
            return None
        value, slope = self._sent
        return value if slope is None else value + (t - self.time) * slope

    def _image(self) -> tuple[Tensor, Tensor | None] | None:
        output = self.effect.atoms.output
        if output is None or not bool((output.value != 0).any() or output.slope is not None):
            return None
        decode, batch = self.scaled.dictionary.decode, self.signal_batch
        shape = (*batch, *self.dictionary.code_shape)
        value = decode(output.value.expand(shape))
        return value, None if output.slope is None else decode(output.slope.expand(shape))

    def _derivative(self, state: State) -> State:
        return self.derivative(self.time, state)

    def derivative(self, t: float | Tensor, state: State) -> State:
        """d state / dt at time t, without checks."""
        if self._has_graph and torch.is_grad_enabled():
            # Computed anew, as a backward pass in pieces goes through the graph of each evaluation once.
            return self.around(self.field, self.interventions)._rates(t, state)
        return self._rates(t, state)

    def _rates(self, t: float | Tensor, state: State) -> State:
        potentials = dict(zip(self.state_names, state, strict=True))
        found = self._with_neurons(t, **potentials) if "z" in potentials else self._reduced(t, potentials["u"])
        return tuple(_stopped(part, value) for part, value in zip(self._parts, found, strict=True))

    def _with_neurons(self, t: float | Tensor, z: Tensor, u: Tensor | None = None) -> State:
        """The right-hand sides of z, and of u where there is one."""
        neurons, alpha, tau_z = self.effect.neurons, self.alpha, self.tau_z
        seen, sent = neurons.outputs(t, z), self.sent(t)
        at = seen if sent is None else seen - self.on_signals(self.gamma) * sent
        inner = (at,) if u is None else (at, _without(self.effect.atoms.held, u))
        found = self._evaluated.derivative(t, inner)
        dz = found[0]
        if at is not z:
            dz = dz + alpha * (at - z) / tau_z
        if sent is not None:
            dz = dz + sent / tau_z
        if neurons.current is not None:
            dz = dz + neurons.current.at(t) / tau_z
        if u is None:
            return (dz,)
        du = self._encoders(t, u, found[1])
        if self.effect.asymmetric:
            dz, du = self._scaled_alone(t, seen, u, dz, du)
        return dz, du

    def _encoders(self, t: float | Tensor, u: Tensor, du: Tensor) -> Tensor:
        """u' with what the field does not know: the leak of held units, their own output, and currents."""
        atoms, tau_u = self.effect.atoms, self.tau_u
        if atoms.held is not None and atoms.output is not None:
            own = self.gamma * atoms.output.at(t) - self.beta * u
            du = du + torch.where(atoms.held, own, 0.0) / tau_u
        return du if atoms.current is None else du + atoms.current.at(t) / tau_u

    def _reduced(self, t: float | Tensor, u: Tensor) -> State:
        """The right-hand side of u where the neurons are at rest at every moment."""
        effect = self.effect
        (du,) = self._evaluated.derivative(t, (_without(effect.atoms.held, u),))
        du, sent, current = self._encoders(t, u, du), self.sent(t), effect.neurons.current
        if sent is None and current is None:
            return (du,)
        drive = torch.zeros_like(self.amplitude())
        if sent is not None:
            drive = drive - (self.on_signals(self.gamma) - 1 / self.alpha) * sent
        if current is not None:
            drive = drive + current.at(t) / self.alpha
        return (du + self.scaled.dictionary.encode_unchecked(drive) / self.tau_u,)

    def _scaled_alone(self, t: float | Tensor, z: Tensor, u: Tensor, dz: Tensor, du: Tensor) -> tuple[Tensor, Tensor]:
        """The right-hand sides with the synapses that are scaled on one of their ways only; z is what atoms see."""
        effect, dictionary = self.effect, self.scaled.dictionary
        a = self._outputs(t, u)
        if effect.feedforward != (None, None):
            change = _reweighted(dictionary, *effect.feedforward).encode_unchecked(z) - dictionary.encode_unchecked(z)
            du = du + change / self.tau_u
        if effect.feedback != (None, None):
            change = _reweighted(dictionary, *effect.feedback).decode_unchecked(a) - dictionary.decode_unchecked(a)
            dz = dz + change / self.tau_z
        if effect.inhibition is not None:
            received = dictionary.encode_unchecked(dictionary.decode_unchecked(a)) - a
            du = du - (effect.inhibition - 1) * self.gamma * received / self.tau_u
        return dz, du

    def _outputs(self, t: float | Tensor, u: Tensor) -> Tensor:
        state = (u,) if not self.effect.has_neurons else (u.new_empty(0), u)
        return self.effect.atoms.outputs(t, self.field.code(state))

    def code(self, state: State) -> Tensor:
        """What the atoms send; for fields without them, what the neurons send."""
        state = self.held(self.time, state)
        if not self.effect.has_atoms:
            return self.effect.neurons.outputs(self.time, state[0])
        return self.effect.atoms.outputs(self.time, self.field.code(state))

    def neurons(self, state: State) -> Tensor:
        """The potentials z."""
        if self.effect.has_neurons:
            return self.held(self.time, state)[0]
        drive, current = self.scaled.dictionary.decode(self.code(state)) + self.x, self.effect.neurons.current
        return (drive if current is None else drive + current.at(self.time)) / self.alpha

    def unknowns(self, state: State) -> Tensor:
        """The code as the problem's variable: zero where an atom's output is held."""
        code, fixed = self.code(state), self.effect.atoms.fixed
        return _without(fixed, code) if self.effect.has_atoms else code

    def lyapunov(self, state: State) -> Tensor:
        """V of the units that are free, up to a constant; NaN where synapses are scaled on one of their ways only.

        It falls while nothing changes in time; from one set of interventions to the next it jumps.
        """
        return self._free.lyapunov(self.held(self.time, state))

    def problem(self) -> SparseProblem:
        """The problem whose argmin is `unknowns` at rest: the free units', given what is held.

        Raises ValueError with the reason where there is none.
        """
        return self._free.problem()

    @property
    def _free(self) -> Free:
        """The units that are free, given what the others send at `time`."""
        batch, dictionary = self.signal_batch, self.dictionary
        nothing = {
            "z": self.amplitude().new_zeros((*batch, *dictionary.signal_shape)),
            "u": self.amplitude().new_zeros((*batch, *dictionary.code_shape)),
        }
        state = self.held(self.time, tuple(nothing[name] for name in self.state_names))
        z, code = nothing["z"], nothing["u"]
        neurons, atoms = self.effect.neurons, self.effect.atoms
        if self.effect.has_neurons and neurons.fixed is not None:
            z = torch.where(neurons.fixed, neurons.outputs(self.time, state[0]), 0.0)
        if self.effect.has_atoms and atoms.fixed is not None:
            code = torch.where(atoms.fixed, self.code(state), 0.0)
        return Free(self.scaled, self.effect, code, z)

    def instability(self) -> str | None:
        return self._free.instability()

    def stiffness(self) -> Tensor:
        """The bound of the scaled field; what is scaled on one way only adds the norm of its change."""
        return self._raised(self.scaled.stiffness())

    def decay(self) -> Tensor:
        return self._raised(self.scaled.decay())

    def _raised(self, bound: Tensor) -> Tensor:
        """The bound, with the norm of the change in coordinates in which the Jacobian is symmetric without it.

        Holding or freezing units only removes rows and columns of that Jacobian.
        """
        if not self.effect.asymmetric:
            return bound
        tau_u, most = smallest(self.tau_u), max(largest(self.gamma), -smallest(self.gamma))
        bound_of_gram = self.scaled.dictionary.lipschitz()
        norm = bound_of_gram.sqrt() / (smallest(self.tau_z) * tau_u) ** 0.5
        for factors in (self.effect.feedforward, self.effect.feedback):
            bound = bound + _most_changed(factors) * norm
        inhibited = _most_changed((self.effect.inhibition, None)) * most / tau_u
        return rounded_up(bound + inhibited * bound_of_gram.clamp(min=1.0), 8)


def _stopped(part: Part, value: Tensor) -> Tensor:
    """The derivative with that of frozen units in place."""
    if part.frozen is None:
        return value
    slope = None if part.potential is None else part.potential.slope
    return torch.where(part.frozen, 0.0 if slope is None else slope, value)


def _without(mask: Tensor | None, value: Tensor) -> Tensor:
    return value if mask is None else torch.where(mask, 0.0, value)


def _most_changed(factors: tuple[Tensor | None, Tensor | None]) -> Tensor | float:
    """A bound on |diag(rows) P diag(columns) - P| / |P|."""
    rows, columns = (1.0 if f is None else f.detach() for f in factors)
    largest = max((float(f.abs().max()) for f in (rows,) if isinstance(f, Tensor)), default=1.0)
    off = [float((f - 1).abs().max()) if isinstance(f, Tensor) else 0.0 for f in (rows, columns)]
    # rows P columns - P = rows P (columns - 1) + (rows - 1) P
    return largest * off[1] + off[0]


def _with_dictionary(field: Field, dictionary: Dictionary) -> Field:
    if dictionary is field.dictionary:
        return field
    twin = copy.copy(field)
    twin.dictionary = dictionary
    return twin


def _reweighted(dictionary: Dictionary, rows: Tensor | None, columns: Tensor | None) -> Dictionary:
    if rows is None and columns is None:
        return dictionary
    like = dictionary.tensors()[0]
    rows = like.new_ones(dictionary.signal_shape) if rows is None else rows
    columns = like.new_ones(dictionary.code_shape) if columns is None else columns
    return Reweighted(dictionary, rows, columns)
