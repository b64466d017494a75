"""The contract of an intervention: which units, from when to when, and what it does to the field."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from vars_dyn import _checks
from vars_dyn.interventions.course import Course, amplified, described, knots, replaced, tensor_of
from vars_dyn.interventions.effect import Effect

__all__ = ["Intervention", "Units", "of_class"]

#: Flat indices of units, or all of them.
Units = Sequence[int] | str


@dataclass(frozen=True, eq=False)
class Intervention(ABC):
    """What is done to some units of a field from `start` to `stop`; a plain value.

    Attributes:
        neurons: flat indices of the layer's neurons z, in row-major order of the signal's shape, or "all".
        atoms: flat indices of the encoding neurons u, in row-major order of the code's shape, or "all".
        start: the first moment at which it acts, in membrane time constants; None from the beginning of the run.
        stop: the moment from which it no longer acts; None to the end of the run.
    """

    _: KW_ONLY
    neurons: Units | None = None
    atoms: Units | None = None
    start: float | None = None
    stop: float | None = None

    #: The names of the fields that hold a `Value`.
    valued: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        name = type(self).__name__
        if (self.neurons is None) == (self.atoms is None):
            came = "neither neurons nor atoms" if self.neurons is None else "neurons and atoms together"
            raise ValueError(f"{name} got {came}; one of them is wanted")
        for kind in ("neurons", "atoms"):
            object.__setattr__(self, kind, _indices(kind, getattr(self, kind)))
        for when in ("start", "stop"):
            if getattr(self, when) is not None:
                object.__setattr__(self, when, float(_checks.number(when, getattr(self, when))))
        if not self.begins < self.ends:
            raise ValueError(f"{name} has start {self.start} and stop {self.stop}; a stop after the start is wanted")

    @abstractmethod
    def act(self, effect: Effect, time: float) -> None:
        """Add what this does from `time` on to the effect; ValueError where the field has nothing to do it to."""

    @property
    def holds(self) -> frozenset[str]:
        """What it takes hold of, of "output" and "potential"; a unit's can be held by one intervention at a time."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """What must not be held by another for it to have an effect."""
        return frozenset()

    @property
    def begins(self) -> float:
        """When it starts: minus infinity where it acts from the beginning."""
        return -math.inf if self.start is None else self.start

    @property
    def ends(self) -> float:
        """When it stops: infinity where it acts to the end."""
        return math.inf if self.stop is None else self.stop

    @property
    def boundaries(self) -> tuple[float, ...]:
        """The times at which what it does jumps."""
        inside = (t for name in self.valued for t in knots(getattr(self, name)) if self.begins < t < self.ends)
        return tuple(sorted({*(t for t in (self.start, self.stop) if t is not None), *inside}))

    def acts_at(self, time: float) -> bool:
        """Whether it acts at `time`: from `start` on, and before `stop`."""
        return self.begins <= time < self.ends

    def changes_at(self, time: float) -> bool:
        """Whether a value changes along a line just after `time`."""
        courses = (getattr(self, name) for name in self.valued)
        return any(isinstance(c, Course) and c.between == "linear" and time < c.times[-1] for c in courses)

    def amplified(self, power: int) -> Self:
        """The same where signals are two to the `power` times as large."""
        changed = {name: amplified(getattr(self, name), power) for name in self.valued}
        return replace(self, **changed) if changed else self

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that it was given, in a fixed order; they may require gradients."""
        return tuple(t for name in self.valued if (t := tensor_of(getattr(self, name))) is not None)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Self:
        """The same intervention holding `tensors` (ordered as in `tensors()`)."""
        rest, changed = iter(tensors), {}
        for name in self.valued:
            value = getattr(self, name)
            if tensor_of(value) is not None:
                changed[name] = replaced(value, next(rest))
        return replace(self, **changed) if changed else self

    def parameters(self) -> dict[str, Any]:
        """Everything that defines it, as values of JSON, for the record; None becomes "none"."""
        own = {each.name: described(getattr(self, each.name)) for each in fields(self)}
        return {"kind": type(self).__name__, **{k: "none" if v is None else v for k, v in own.items()}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervention) and self.parameters() == other.parameters()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.parameters().items() if k != "kind" and v != "none"}
        return f"{type(self).__name__}({', '.join(f'{k}={_short(v)}' for k, v in shown.items())})"


def of_class(kind: str) -> type[Intervention]:
    """The class of interventions with that name; ValueError if there is none."""
    known = {each.__name__: each for each in Intervention.__subclasses__()}
    return known[_checks.choice("kind", kind, tuple(known))]


def _indices(kind: str, given: Any) -> Any:
    if given is None or given == "all":
        return given
    if isinstance(given, str) or not isinstance(given, Sequence | range):
        raise ValueError(f'{kind} is {_checks.describe(given)}; a list of indices, or "all", is wanted')
    found = tuple(given)
    whole = all(isinstance(k, int) and not isinstance(k, bool) and k >= 0 for k in found)
    if not found or not whole or len(set(found)) < len(found):
        raise ValueError(f'{kind} is {list(found)[:10]}; distinct indices of at least zero, or "all", are wanted')
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
