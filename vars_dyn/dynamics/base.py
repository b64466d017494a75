"""The contract of a field: the right-hand side of the neurons' ODE, and what is known of its equilibrium."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vars_dyn import _checks, _scaling, _showing
from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.dynamics.constants import checked_constants, flat_constants, selected_constants
from vars_dyn.problems import SparseProblem
from vars_dyn.shapes import expand_trailing, flat_lead, per_signal
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.view import View, fitted

__all__ = ["Field", "State"]

State = tuple[Tensor, ...]


class Field(_showing.Shown, ABC):
    """The right-hand side f of  d state / dt = f(t, state), for a batch of signals at once.

    A state is a tuple of tensors, named by `state_names`: z, the neurons of the layer, has the signals' shape, and u,
    the encoding neurons, has the codes' shape. Time is in units of the membrane time constant. A field that changes
    with time says so by `boundaries`, the times at which f jumps, and `during`, the field between two of them.
    Its x may be a stimulus. Then `x`, `problem`, `lyapunov` and `state_at` are refused, and `at(t)` is the field whose
    x stays what it is at time t, which has all of them.
    A field is a plain value; its tensors (`tensors()`) may require gradients. A subclass defines `_derivative`, `code`,
    `neurons`, `lyapunov`, `problem`, `stiffness`, `instability` and `state_at`.

    Attributes:
        dictionary: P, or what takes its place.
        x: the signals, (*any, *signal_shape); (*batch, n, *signal_shape) for a batched dictionary. ValueError where
            they move.
        stimulus: x as a function of time, where it moves; None where it stays the same.
        shown: the parameters of the stimulus that was given for x, moving or not; None for a tensor.
        tau_ms: the membrane time constant in milliseconds, if the stimulus knows it.
        lam: weight of the l1 penalty in the objective, one per signal.
        constants: the scalar parameters (alpha, beta, ..., tau_u) by name, numbers or zero-dimensional tensors.
        varied: those that differ between signals or units, by name (of time constants `constants` has the smallest).
    """

    state_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        dictionary: Dictionary,
        x: Tensor | Stimulus | _checks.Numbers,
        lam: float | Tensor | _checks.Numbers,
        positive: dict[str, float | Tensor],
        **other: float | Tensor,
    ) -> None:
        self.stimulus: Stimulus | None = None
        self.shown: dict[str, Any] | None = None
        self.tau_ms: float | None = None
        if isinstance(x, Stimulus):
            self.shown, self.tau_ms = x.parameters(), x.tau_ms
            given = fitted(x, dictionary.signal_shape)
            self.stimulus, x = given if given.moves else None, given(0.0)
        x = _checks.floating_tensor("x", x)
        _checks.trailing("x", x, dictionary.signal_shape, dictionary.batch_shape)
        _checks.same_kind("x", x, dictionary.tensors()[0], "the dictionary")
        self.dictionary = dictionary
        self._x = x
        self.constants, self.varied = checked_constants(positive, other, self._unit_shapes, self.signal_batch, x)
        self.lam = per_signal("lam", lam, self.signal_batch, x)

    def __getattr__(self, name: str) -> float | Tensor:
        for known in ("varied", "constants"):
            if name in self.__dict__.get(known, {}):
                return self.__dict__[known][name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def x(self) -> Tensor:
        """The signals; ValueError where they move."""
        if self.stimulus is not None:
            raise ValueError("x moves with time; field.at(t) is the field with x as it is at time t")
        return self._x

    @x.setter
    def x(self, value: Tensor) -> None:
        self._x = value

    @property
    def moves(self) -> bool:
        """Whether x changes with time."""
        return self.stimulus is not None

    def at(self, t: float | Tensor) -> Field:
        """The field whose x stays what it is at time t; the field itself where x does not move."""
        if self.stimulus is None:
            return self
        twin = copy.copy(self)
        twin._x, twin.stimulus = self.stimulus(t), None
        return twin

    @property
    def rests_from(self) -> float:
        """When x has moved for the last time: minus infinity if it never moves, infinity if it always does."""
        return -math.inf if self.stimulus is None else self.stimulus.rests_from

    def at_rest(self) -> Field:
        """The field after the last movement of x; ValueError where there is none."""
        if not math.isfinite(self.rests_from):
            if self.stimulus is None:
                return self
            raise ValueError(
                "x never comes to rest, so there is no equilibrium; field.at(t) holds x as it is at time t"
            )
        return self.at(self.rests_from)

    def amplitude(self) -> Tensor:
        """x; where it moves, the modulus that its entries hardly ever exceed. Tolerances are relative to it."""
        return self._x if self.stimulus is None else self.stimulus.size()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the states."""
        return self._x.dtype

    @property
    def device(self) -> torch.device:
        """The device of the states."""
        return self._x.device

    @property
    def signal_batch(self) -> tuple[int, ...]:
        """The shape of one value per signal."""
        return tuple(self._x.shape[: self._x.ndim - len(self.dictionary.signal_shape)])

    @property
    def _unit_shapes(self) -> dict[str, tuple[int, ...]]:
        """The units that a constant belongs to."""
        z, u = self.dictionary.signal_shape, self.dictionary.code_shape
        return {"tau_z": z, "alpha": z, "tau_u": u, "beta": u, "gamma": u}

    @property
    def event_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each part of the state, for one signal."""
        return tuple(self._unit_shapes[f"tau_{name}"] for name in self.state_names)

    @abstractmethod
    def _derivative(self, state: State) -> State: ...

    @abstractmethod
    def code(self, state: State) -> Tensor:
        """The gated output a = g(u) of the encoding neurons (for linear fields without them, z)."""

    @abstractmethod
    def neurons(self, state: State) -> Tensor:
        """The potentials z of the layer's neurons."""

    @abstractmethod
    def lyapunov(self, state: State) -> Tensor:
        """V, one value per signal: it never rises along a trajectory."""

    @abstractmethod
    def problem(self) -> SparseProblem:
        """The problem whose argmin is the code at equilibrium; ValueError with the reason where there is none."""

    @abstractmethod
    def stiffness(self) -> Tensor:
        """An upper bound on the modulus of every Jacobian eigenvalue, of the dictionary's batch shape, in 1/time."""

    def decay(self) -> Tensor:
        """An upper bound on the modulus of every negative Jacobian eigenvalue, shaped like `stiffness()`, in 1/time.

        Fixed steps must not be longer than a method's stability limit divided by this bound. Eigenvalues above zero
        set no limit, because fixed steps follow a component that grows.
        """
        return self.stiffness()

    @abstractmethod
    def instability(self) -> str | None:
        """Why there is no stable equilibrium, or why none is proved. The sentence says which of the two it is.

        None where a stable equilibrium is proved for every signal.
        """

    @abstractmethod
    def state_at(self, code: Tensor) -> State:
        """The state at which the field rests, given the code at equilibrium."""

    @property
    def boundaries(self) -> tuple[float, ...]:
        """The times at which f jumps, increasing. The integration steps onto each of them and restarts there."""
        return () if self.stimulus is None else self.stimulus.jumps

    def during(self, start: float, end: float) -> Field:
        """The field on the way from `start` to `end`, between which there is no boundary.

        At `start` and `end` themselves it has its limits from within, so that no step sees the other side of a jump.
        """
        if self.stimulus is None:
            return self
        piece = self.stimulus.during(start, end)
        twin = copy.copy(self)
        twin._x, twin.stimulus = piece(start), piece if piece.moves else None
        return twin

    def held(self, t: float, state: State) -> State:
        """The state in which potentials that are given from outside at time t have their values."""
        return state

    def free(self) -> tuple[Tensor | None, ...]:
        """Which units of every part of the state follow f, as masks of the event's shape; None for all of them."""
        return (None,) * len(self.state_names)

    def unknowns(self, state: State) -> Tensor:
        """The code as the variable of `problem()`, which leaves out what is given from outside."""
        return self.code(state)

    def derivative(self, t: float | Tensor, state: State) -> State:
        """d state / dt at time t without checks, for steppers that have checked the state."""
        return self.at(t)._derivative(state)

    def __call__(self, t: float | Tensor, state: State | Tensor) -> State | Tensor:
        """d state / dt, shaped like the state; a bare tensor may stand for a state of one part."""
        if isinstance(state, Tensor):
            return self.derivative(t, self.checked((state,)))[0]
        return self.derivative(t, state)

    def prepared(self) -> Self:
        """The same field, prepared to be evaluated many times without a gradient.

        What stays the same is computed once. Use the result for evaluations only: do not call `with_tensors` or
        `select` on it.
        """
        return self

    def checked(self, state: State) -> State:
        """`state` if its parts have this field's shapes, dtype and device; ValueError otherwise."""
        if not isinstance(state, tuple) or len(state) != len(self.state_names):
            raise ValueError(
                f"the state is {_describe_state(state)}; a tuple ({', '.join(self.state_names)}) is wanted"
            )
        for name, part, event in zip(self.state_names, state, self.event_shapes, strict=True):
            if tuple(part.shape) != (*self.signal_batch, *event):
                raise ValueError(f"{name} has shape {tuple(part.shape)}; {(*self.signal_batch, *event)} is wanted")
            _checks.same_kind(name, part, self._x, "x")
        return state

    def initial_state(self) -> State:
        """z = x and u = 0, the start of the paper; x at time zero where it moves."""
        x = self.at(0.0).x
        start = {"z": x, "u": x.new_zeros((*self.signal_batch, *self.dictionary.code_shape))}
        return tuple(start[name] for name in self.state_names)

    def per_code(self, value: Tensor) -> Tensor:
        """One value per signal, shaped to broadcast against codes."""
        return expand_trailing(value, len(self.dictionary.code_shape))

    def parameters(self) -> dict[str, float | str]:
        """The scalar parameters by name, for the record."""
        plain = {name: _checks.plain(value) for name, value in self.constants.items() if name not in self.varied}
        return {"field": type(self).__name__, **plain}

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that f depends on, in a fixed order."""
        constants = tuple(v for v in self.constants.values() if isinstance(v, Tensor))
        shown = (self._x,) if self.stimulus is None else self.stimulus.tensors()
        return (*self.dictionary.tensors(), *shown, self.lam, *constants, *self.varied.values())

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """The same field holding `tensors` (ordered as in `tensors()`)."""
        n, twin = len(self.dictionary.tensors()), copy.copy(self)
        twin.dictionary = self.dictionary.with_tensors(tensors[:n])
        count = 1 if self.stimulus is None else len(self.stimulus.tensors())
        if self.stimulus is None:
            twin.x = tensors[n]
        else:
            twin._show(self.stimulus.with_tensors(tensors[n : n + count]))
        twin.lam = tensors[n + count]
        rest = iter(tensors[n + count + 1 :])
        twin.constants = {k: next(rest) if isinstance(v, Tensor) else v for k, v in self.constants.items()}
        twin.varied = {name: next(rest) for name in self.varied}
        return twin

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same field on another device or in another floating-point dtype."""
        return self.with_tensors(tuple(t.to(device=device, dtype=dtype) for t in self.tensors()))

    def detach(self) -> Self:
        """The same field, cut from the autograd graph."""
        return self.with_tensors(tuple(t.detach() for t in self.tensors()))

    def flat(self) -> Self:
        """The same field with one leading dimension of signals, or (elements, n) for a batched dictionary."""
        lead, dictionary = flat_lead(self.dictionary, self.signal_batch)
        twin = copy.copy(self)
        twin.dictionary, shape = dictionary, (*lead, *dictionary.signal_shape)
        if self.stimulus is None:
            twin.x = self._x.reshape(shape)
        else:
            twin._show(View(self.stimulus, shape))
        twin.lam, twin.varied = self.lam.reshape(lead), flat_constants(self.varied, self._unit_shapes, lead)
        return twin

    def select(self, index: Tensor) -> Self:
        """The rows `index` of a `flat` field's first dimension: signals, or elements of a batched dictionary."""
        twin = copy.copy(self)
        twin.dictionary, twin.lam = self.dictionary.select(index), self.lam[index]
        twin.varied = selected_constants(self.varied, self._unit_shapes, index)
        if self.stimulus is None:
            twin.x = self._x[index]
        else:
            twin._show(View(self.stimulus, rows=index))
        return twin

    def times_two_to(self, power: int) -> Self:
        """The same field for x and lam times two to the `power`."""
        twin = copy.copy(self)
        twin.lam = _scaling.by_power(self.lam, power)
        if self.stimulus is None:
            twin.x = _scaling.by_power(self._x, power)
        else:
            twin._show(View(self.stimulus, power=power))
        return twin

    def _show(self, stimulus: Stimulus) -> None:
        """Take another stimulus in place of the one that moves."""
        self.stimulus = stimulus
        # What stands for x's shape, dtype and device wherever these are asked for.
        self._x = stimulus.size()

    def described(self) -> dict[str, object]:
        known = {name: value for name, value in self.parameters().items() if name != "field"}
        return {"lam": _showing.spread(self.lam), **known, "x": tuple(self._x.shape), "dictionary": self.dictionary}


def _describe_state(state: object) -> str:
    return f"a tuple of {len(state)}" if isinstance(state, tuple) else f"a {type(state).__name__}"


def sum_event(value: Tensor, event: tuple[int, ...]) -> Tensor:
    """The sum of `value` over its trailing event dimensions."""
    return value.flatten(-len(event)).sum(-1)


def half_square(value: Tensor, event: tuple[int, ...], weight: float | Tensor = 1.0) -> Tensor:
    """1/2 sum weight value^2 over the trailing event dimensions."""
    return 0.5 * sum_event(weight * value.square(), event)
