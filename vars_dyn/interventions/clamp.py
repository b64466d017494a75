"""Units whose potential or output is given."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from vars_dyn import _checks
from vars_dyn.interventions.base import Intervention
from vars_dyn.interventions.course import Value, checked_value
from vars_dyn.interventions.effect import Effect

__all__ = ["Clamp"]


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Intervention):
    """Hold the potential, or the output, of units at a value or along a time course.

    Args:
        value: a number, one per unit (a list or a tensor (n,)), or a `vars_dyn.interventions.Course` of them.
        of: "potential" sets z_j or u_i, which jumps to the value at `start` and goes on from there at `stop`; "output"
            sets what the others see, g(u_i) or z_j, while the potential goes on following what they send.
        neurons, atoms: flat indices, or "all"; one of the two.
        start, stop: times in membrane time constants; None for the beginning and the end of the run.

    The problem that is certified is the residual one: the others', given what is held. Raises ValueError for values,
    indices and times that do not fit.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> field = vd.SparseRecurrent(P, torch.ones(3, dtype=torch.float64), lam=0.5)
        >>> times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> held = vd.Clamp(2.0, neurons=[0])
        >>> vd.integrate(field, field.initial_state(), times, interventions=[held]).states[0][:, 0].tolist()
        [2.0, 2.0]
    """

    value: Value
    _: KW_ONLY
    of: str = "potential"

    valued: ClassVar[tuple[str, ...]] = ("value",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", checked_value("value", self.value))
        _checks.choice("of", self.of, ("potential", "output"))

    @property
    def holds(self) -> frozenset[str]:
        return frozenset({"output"} if self.of == "output" else {"output", "potential"})

    def act(self, effect: Effect, time: float) -> None:
        part, units = effect.part(self.neurons, self.atoms), self.neurons or self.atoms or ()
        if self.of == "potential":
            part.freeze(units, self.value, time)
        else:
            part.hold(units, self.value, time)
