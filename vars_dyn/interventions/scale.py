"""Synapses that are stronger or weaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.interventions.base import Intervention
from vars_dyn.interventions.course import Course, Value, checked_value, ramp_at
from vars_dyn.interventions.effect import Effect, Part

__all__ = ["Scale"]

_SYNAPSES = ("all", "feedforward", "feedback", "inhibition")


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Intervention):
    """Multiply synapses by a factor: the rows of P that belong to neurons, or the columns that belong to atoms.

    Args:
        factor: a number, or one per unit (a list or a tensor (n,)); constant in time.
        synapses: "all" scales P wherever it occurs: in P^T z, in P a and in the inhibition P^T P a. The field is then
            that of the scaled dictionary, with its problem. "feedforward" scales P^T z alone, "feedback" P a alone as
            z sees it, "inhibition" the inhibition gamma (P^T P - I) a as the given atoms receive it. These three break
            the symmetry of the synapses, on which the Lyapunov function and the problem rest: there is no certificate
            while they act, and it is reported as NaN.
        neurons, atoms: flat indices, or "all"; one of the two.
        start, stop: times in membrane time constants; None for the beginning and the end of the run.

    Factors of several interventions on the same synapses multiply. Raises ValueError for values, indices and times that
    do not fit, and for fields without encoding neurons.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> field = vd.SparseRecurrent(P, torch.ones(3, dtype=torch.float64), lam=0.1)
        >>> times = torch.tensor([0.0, 60.0], dtype=torch.float64)
        >>> run = vd.integrate(field, field.initial_state(), times, interventions=[vd.Scale(0.0, atoms=[2])])
        >>> [round(v, 3) for v in field.code(tuple(part[-1] for part in run.states)).tolist()]
        [0.9, 0.9, 0.0]
    """

    factor: Value
    _: KW_ONLY
    synapses: str = "all"

    valued: ClassVar[tuple[str, ...]] = ("factor",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.factor, Course):
            raise ValueError("factor is a Course; a number, or one per unit, is wanted: use one Scale for each time")
        object.__setattr__(self, "factor", checked_value("factor", self.factor))
        _checks.choice("synapses", self.synapses, _SYNAPSES)
        if self.synapses == "inhibition" and self.atoms is None:
            raise ValueError("synapses is 'inhibition', which only encoding neurons receive; atoms are wanted")

    def amplified(self, power: int) -> Self:
        return self

    def act(self, effect: Effect, time: float) -> None:
        name = type(effect.field).__name__
        if not effect.has_atoms:
            raise ValueError(f"Scale came, but {name} has no encoding neurons, and so no synapses P to scale")
        rows = self._factors(effect.neurons, self.neurons, time)
        columns = self._factors(effect.atoms, self.atoms, time)
        if self.synapses == "all":
            effect.rows, effect.columns = _times(effect.rows, rows), _times(effect.columns, columns)
            return
        if not effect.has_neurons:
            raise ValueError(f"synapses is {self.synapses!r}, which {name} has joined with others; 'all' is wanted")
        if self.synapses == "inhibition":
            effect.inhibition = _times(effect.inhibition, columns)
        elif self.synapses == "feedforward":
            effect.feedforward = (_times(effect.feedforward[0], rows), _times(effect.feedforward[1], columns))
        else:
            effect.feedback = (_times(effect.feedback[0], rows), _times(effect.feedback[1], columns))

    def _factors(self, part: Part, units: Sequence[int] | str | None, time: float) -> Tensor | None:
        """The factors of all units of a population, ones where none is given; None if no unit of it is meant."""
        if units is None:
            return None
        index = part.index(units)
        given: Any = self.factor
        own = ramp_at("factor", given, time, len(index), part.like).value
        return torch.index_copy(part.like.new_ones(part.size), 0, index, own).reshape(part.shape)


def _times(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one * other
