"""A field with interventions over time."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vars_dyn.dynamics.base import Field, State
from vars_dyn.interventions.acting import Acting
from vars_dyn.interventions.base import Intervention
from vars_dyn.interventions.scale import Scale
from vars_dyn.interventions.wrapped import Wrapped
from vars_dyn.problems import SparseProblem

__all__ = ["Intervened", "with_interventions"]


class Intervened(Wrapped):
    """A field in which interventions act, each from its start to before its stop.

    Starts, stops and the knots of time courses are boundaries: the integration steps onto each. `during(t, t)` is the
    field at time t, with its code, its V and its problem. Without a time, `problem()`, `instability()`, `lyapunov` and
    `code` are those after the last boundary, where the run comes to rest.

    Args:
        field: the field without interventions.
        interventions: what is done to it.

    Raises ValueError for units that the field has not, and for two interventions that hold the same unit at once.
    """

    def __init__(self, field: Field, interventions: Sequence[Intervention]) -> None:
        self.field, self.interventions = field, tuple(interventions)
        self._kept: tuple[object, Field] | None = None

    def around(self, field: Field, interventions: Sequence[Intervention]) -> Intervened:
        return Intervened(field, interventions)

    @functools.cached_property
    def boundaries(self) -> tuple[float, ...]:
        """The times at which x or what is done jumps. A movie has many, so they are put together once."""
        own = {t for each in self.interventions for t in each.boundaries}
        return tuple(sorted(own | set(self.field.boundaries)))

    def during(self, start: float, end: float) -> Field:
        """The field from `start` to `end`; where they are equal, the field from `start` on."""
        inner = self.field.during(start, end)
        acting = [each for each in self.interventions if each.acts_at(start)]
        if not acting:
            return inner
        # While nothing changes, one value serves, with all that it has computed.
        moving = any(each.changes_at(start) for each in acting)
        key = (inner, tuple(map(id, acting)), moving, start if moving else bisect.bisect_right(self.boundaries, start))
        if self._kept is None or self._kept[0] != key or any(t.requires_grad for t in self.tensors()):
            self._kept = (key, Acting(inner, acting, start))
        return self._kept[1]

    def at(self, t: float | Tensor) -> Field:
        return self.during(float(t), float(t)).at(t)

    def at_rest(self) -> Field:
        """The field after the last boundary and the last movement of x; ValueError where x never comes to rest."""
        if self.rests_from == math.inf:
            return self.field.at_rest()  # it says why there is none
        return self.at(self.rests_from if math.isfinite(self.rests_from) else 0.0)

    @property
    def last(self) -> Field:
        """The field after the last boundary."""
        end = self.boundaries[-1] if self.boundaries else 0.0
        return self.during(end, end)

    def held(self, t: float, state: State) -> State:
        return self.during(t, t).held(t, state)

    def _derivative(self, state: State) -> State:
        return self.last.derivative(0.0, state)

    def derivative(self, t: float | Tensor, state: State) -> State:
        """d state / dt at time t, without checks."""
        return self.during(float(t), float(t)).derivative(t, state)

    def code(self, state: State) -> Tensor:
        return self.last.code(state)

    def neurons(self, state: State) -> Tensor:
        return self.last.neurons(state)

    def unknowns(self, state: State) -> Tensor:
        return self.last.unknowns(state)

    def lyapunov(self, state: State) -> Tensor:
        return self.last.lyapunov(state)

    def problem(self) -> SparseProblem:
        return self.last.problem()

    def instability(self) -> str | None:
        return self.last.instability()

    def stiffness(self) -> Tensor:
        """A bound for all times."""
        return torch.stack([each.stiffness() for each in self._scalings()]).amax(0)

    def decay(self) -> Tensor:
        return torch.stack([each.decay() for each in self._scalings()]).amax(0)

    def _scalings(self) -> list[Field]:
        """The field without interventions, and with every set of scaled synapses; nothing else changes the bound."""
        scales = [each for each in self.interventions if isinstance(each, Scale)]
        times = {each.begins for each in scales} | {each.ends for each in scales}
        sets = {tuple(each for each in scales if each.acts_at(time)) for time in times}
        return [self.field, *(Acting(self.field, together, 0.0) for together in sets if together)]


def with_interventions(field: Field, interventions: Sequence[Intervention] | None) -> Field:
    """The field in which the interventions act, checked; `field` itself where there are none.

    Raises ValueError for what is no intervention, for units and values that do not fit the field, and for two
    interventions that hold the same unit at the same time.
    """
    if interventions is None or not len(interventions):
        return field
    for each in interventions:
        if not isinstance(each, Intervention):
            raise ValueError(f"interventions hold a {type(each).__name__}; values such as vd.Silence are wanted")
    earlier = field.interventions if isinstance(field, Intervened) else ()
    field = field.field if isinstance(field, Intervened) else field
    found = Intervened(field, (*earlier, *interventions))
    for each in found.interventions:
        # Units and values that do not fit are found here, before anything runs.
        Acting(field, [each], each.begins if each.start is not None else 0.0)
    for one, other in itertools.combinations(found.interventions, 2):
        _check_together(field, one, other)
    return found


def _check_together(field: Field, one: Intervention, other: Intervention) -> None:
    """Raise ValueError if both hold the same of a unit at the same time, or if one would have no effect."""
    if min(one.ends, other.ends) <= max(one.begins, other.begins):
        return
    clash = (one.holds & other.holds) | (one.holds & other.needs) | (one.needs & other.holds)
    if not clash:
        return
    for kind, size in (("neurons", field.dictionary.signal_size), ("atoms", field.dictionary.code_size)):
        sets = [range(size) if (of := getattr(each, kind)) == "all" else of or () for each in (one, other)]
        if shared := sorted(set(sets[0]) & set(sets[1])):
            raise ValueError(
                f"{one!r} and {other!r} act on {kind[:-1]} {shared[0]} at the same time; times or units that do not "
                "overlap are wanted"
            )
