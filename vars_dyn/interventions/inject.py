"""Currents into units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vars_dyn.interventions.base import Intervention
from vars_dyn.interventions.course import Value, checked_value
from vars_dyn.interventions.effect import Effect

__all__ = ["Inject"]


@dataclass(frozen=True, eq=False, repr=False)
class Inject(Intervention):
    """Add a current I to units: tau_z z_j' = ... + I, tau_u u_i' = ... + I.

    Args:
        current: a number, one per unit (a list or a tensor (n,)), or a `vars_dyn.interventions.Course` of them; in the
            units of the signals. Currents of several interventions into one unit add up.
        neurons, atoms: flat indices, or "all"; one of the two.
        start, stop: times in membrane time constants; None for the beginning and the end of the run.

    A current into neurons is the same as a change of their x. A current q into atoms adds -q.a to the objective. Raises
    ValueError for values, indices and times that do not fit.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(2, dtype=torch.float64))
        >>> field = vd.SparseRecurrent(P, torch.ones(2, dtype=torch.float64), lam=5.0)
        >>> times = torch.tensor([0.0, 40.0], dtype=torch.float64)
        >>> run = vd.integrate(field, field.initial_state(), times, interventions=[vd.Inject(0.5, neurons=[0])])
        >>> [round(v, 3) for v in run.states[0][-1].tolist()]
        [1.5, 1.0]
    """

    current: Value

    valued: ClassVar[tuple[str, ...]] = ("current",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "current", checked_value("current", self.current))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"potential"})

    def act(self, effect: Effect, time: float) -> None:
        # A current into neurons that are at rest at every moment is a change of x too.
        part = effect.part(None, self.atoms) if self.neurons is None else effect.neurons
        part.add(self.neurons or self.atoms or (), self.current, time)
