"""What a field that wraps another shares with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from vars_dyn.dynamics.base import Field, State
from vars_dyn.interventions.base import Intervention

__all__ = ["Wrapped"]


class Wrapped(Field):
    """A field with interventions. Signals, dictionary and constants are those of `field`, the one without."""

    field: Field
    interventions: tuple[Intervention, ...]

    @abstractmethod
    def around(self, field: Field, interventions: Sequence[Intervention]) -> Self:
        """The same for another field and other interventions."""

    def __getattr__(self, name: str) -> Any:
        if "field" in self.__dict__ and not name.startswith("__"):
            return getattr(self.__dict__["field"], name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the state's parts."""
        return self.field.state_names

    def state_at(self, code: Tensor) -> State:
        return self.field.state_at(code)

    def initial_state(self) -> State:
        return self.field.initial_state()

    def parameters(self) -> dict[str, float | str]:
        return self.field.parameters()

    def tensors(self) -> tuple[Tensor, ...]:
        """The field's tensors, and those that the interventions were given."""
        return (*self.field.tensors(), *(t for each in self.interventions for t in each.tensors()))

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        count = len(self.field.tensors())
        rest, changed = list(tensors[count:]), []
        for each in self.interventions:
            own = len(each.tensors())
            changed.append(each.with_tensors(rest[:own]))
            rest = rest[own:]
        return self.around(self.field.with_tensors(tensors[:count]), changed)

    @property
    def rests_from(self) -> float:
        """When x has moved and an intervention has changed for the last time."""
        return max((*self.boundaries, self.field.rests_from))

    def amplitude(self) -> Tensor:
        return self.field.amplitude()

    def flat(self) -> Self:
        return self.around(self.field.flat(), self.interventions)

    def select(self, index: Tensor) -> Self:
        return self.around(self.field.select(index), self.interventions)

    def times_two_to(self, power: int) -> Self:
        return self.around(self.field.times_two_to(power), [each.amplified(power) for each in self.interventions])

    def __repr__(self) -> str:
        return f"{self.field!r} with {', '.join(map(repr, self.interventions))}"


def _delegated(name: str) -> property:
    def get(self: Wrapped) -> Any:
        return getattr(self.field, name)

    return property(get)


# The base class keeps these as attributes of its own, so that `__getattr__` would not be asked for them.
_OWN = (
    "dictionary",
    "x",
    "lam",
    "constants",
    "varied",
    "stimulus",
    "shown",
    "tau_ms",
    "moves",
    "dtype",
    "device",
    "signal_batch",
)
for _name in _OWN:
    setattr(Wrapped, _name, _delegated(_name))
