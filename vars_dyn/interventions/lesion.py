"""Units that are gone."""

from __future__ import annotations

from dataclasses import dataclass

from vars_dyn.interventions.base import Intervention
from vars_dyn.interventions.effect import Effect

__all__ = ["Lesion"]


@dataclass(frozen=True, eq=False, repr=False)
class Lesion(Intervention):
    """Remove units: their output is zero, and their potential stays as it was.

    The other units go on as if these did not exist: what is certified is the problem without the atom, or the problem
    in which the neuron's row of P has no feedforward weight. Nothing reaches a lesioned unit, noise neither. Arguments:
    `neurons` or `atoms`, `start` and `stop`, as for every `vars_dyn.interventions.Intervention`. With a `stop` the unit
    goes on from the potential that it had.

    Raises ValueError for indices and times that do not fit.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> field = vd.SparseRecurrent(P, torch.full((3,), 2.0, dtype=torch.float64), lam=0.5)
        >>> times = torch.tensor([0.0, 60.0], dtype=torch.float64)
        >>> run = vd.integrate(field, field.initial_state(), times, interventions=[vd.Lesion(atoms=[1])])
        >>> [round(v, 3) for v in run.states[1][-1].tolist()]  # u: the second one stays where it was
        [1.75, 0.0, 1.75]
    """

    @property
    def holds(self) -> frozenset[str]:
        return frozenset({"output", "potential"})

    def act(self, effect: Effect, time: float) -> None:
        part, units = effect.part(self.neurons, self.atoms), self.neurons or self.atoms or ()
        part.hold(units, 0.0, time)
        part.freeze(units, None, time)
