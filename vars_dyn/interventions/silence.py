"""Units without an output."""

from __future__ import annotations

from dataclasses import dataclass

from vars_dyn.interventions.base import Intervention
from vars_dyn.interventions.effect import Effect

__all__ = ["Silence"]


@dataclass(frozen=True, eq=False, repr=False)
class Silence(Intervention):
    """Set the output of units to zero: g(u_i) of atoms, and what the others see of neurons z_j.

    Their potentials go on following what the other units send. Silencing an atom for good leaves the problem without
    that atom. Arguments: `neurons` or `atoms`, `start` and `stop`, as for every `vars_dyn.interventions.Intervention`:
    flat indices or "all", and times in membrane time constants. Raises ValueError for indices and times that do not
    fit.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> field = vd.SparseRecurrent(P, torch.ones(3, dtype=torch.float64), lam=0.1)
        >>> times = torch.tensor([0.0, 5.0], dtype=torch.float64)
        >>> silent = vd.Silence(atoms=[0], start=2.0, stop=10.0)
        >>> run = vd.integrate(field, field.initial_state(), times, interventions=[silent])
        >>> [round(v, 2) for v in run.states[0][-1].tolist()]  # the first neuron gets no feedback
        [1.02, 1.74, 1.74]
    """

    @property
    def holds(self) -> frozenset[str]:
        return frozenset({"output"})

    def act(self, effect: Effect, time: float) -> None:
        part = effect.part(self.neurons, self.atoms)
        part.hold(self.neurons or self.atoms or (), 0.0, time)
