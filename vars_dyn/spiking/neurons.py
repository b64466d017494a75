"""The spiking LCA: integrate-and-fire units that inhibit each other by spikes, and what is proved of their rates."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.problems import SparseProblem
from vars_dyn.shapes import expand_trailing, per_signal

__all__ = ["SpikingLCA"]

#: The most atoms for which P^T P is kept as a matrix.
_MOST_ATOMS = 2048


class SpikingLCA:
    """Integrate-and-fire units with lateral inhibition by spikes; their mean rates converge to the sparse code:

        v' = P^T x - lam - leak (v - theta) - q P^T P s(t),   s(t) = the spikes, as Dirac pulses

    A unit i fires when v_i reaches its threshold theta_i = q |P_i|^2. The spike takes q (P^T P)_ij from each v_j, which
    resets v_i itself to zero. The averaged code after time T is a = q n / T, with n the numbers of spikes. At leak = 0
    (perfect integrators), v(T) / T is the negative gradient of the objective at a, exactly. From this follow
    max_i (P^T (x - P a))_i <= lam + theta / T and E(a) - E* = O(1 / T) (docs/mathematics.md, "Spiking neurons").
    Tang, Lin and Davies (arXiv 1705.05475, 2017), with synapses that act at once; Shapero, Zhu, Hasler and Rozell (Int.
    J. Neural Syst. 24, 1440001, 2014).

    Args:
        dictionary: P, without a batch.
        x: signals (*any, *signal_shape), float64.
        lam: weight of |a|_1 in the objective, at least zero; a number or one per signal.
        nonnegative: whether the code must not be negative. Otherwise each atom has two units, on and off, which stand
            for P_i and -P_i; the code is their difference.
        quantum: q, the code that one spike per unit of time stands for; a number or one per signal, above zero. The
            default, max_i (|P^T x|_i - lam) / |P_i|^2, lets the unit with the most drive start with one spike per unit
            of time. With it, spike times do not change where x and lam are scaled together.
        leak: leak of the membrane in 1 / tau, at least zero; then tau / leak is the membrane's time constant. With a
            leak, a unit still fires only if its input exceeds lam, but its rate is a concave function of the input. So
            the averaged code keeps a bias, of the order of leak times q. The certificate measures it. At the threshold
            the leak takes leak q |P_i|^2, which must not exceed lam; where it is lam, no further bias current is left,
            and the leak alone makes the code sparse. The default q is lowered accordingly.

    Time is in tau, as everywhere. Raises ValueError for a batched dictionary, other dtypes than float64, and arguments
    out of range.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> neurons = vd.SpikingLCA(P, torch.tensor([[1.0, 0.5, 0.2]], dtype=torch.float64), lam=0.3)
        >>> run = vd.spike(neurons, 200.0, every=100.0)
        >>> [round(v, 1) for v in run.code.values[-1, 0].tolist()]
        [0.7, 0.2, 0.0]
    """

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "*shape"] | _checks.Numbers,
        lam: float | Tensor | _checks.Numbers = 0.3,
        *,
        nonnegative: bool = False,
        quantum: float | Tensor | None = None,
        leak: float = 0.0,
    ) -> None:
        if dictionary.batch_shape:
            raise ValueError(f"dictionary has batch_shape {dictionary.batch_shape}; one dictionary for all is wanted")
        x = _checks.floating_tensor("x", x)
        self.problem = SparseProblem(dictionary, x, lam, nonnegative=nonnegative)
        if x.dtype != torch.float64:
            raise ValueError(f"x is {x.dtype}; torch.float64 is wanted, since spike times are sums of many intervals")
        self.leak = _checks.plain(_checks.number("leak", leak, nonnegative=True))
        with torch.no_grad():
            self._prepare(dictionary.detach(), quantum)

    def _prepare(self, dictionary: Dictionary, quantum: float | Tensor | None) -> None:
        atoms = dictionary.code_size
        self._dictionary = dictionary
        self._gram: Tensor | None = None
        if atoms <= _MOST_ATOMS:
            matrix = dictionary.matrix()
            if not self.problem.nonnegative:
                matrix = torch.cat([matrix, -matrix], -1)
            self._gram = matrix.mT @ matrix
        squares = _squares(dictionary) if self._gram is None else self._gram.diagonal()[:atoms].clone()
        pull = dictionary.encode(self.problem.x.detach()).reshape(-1, atoms)
        lam = self.problem.lam.detach().reshape(-1, 1)
        if quantum is None:
            size = pull if self.problem.nonnegative else pull.abs()
            most = torch.where(squares > 0, (size - lam) / squares, 0.0).amax(-1)
            self.quantum = torch.where(most > 0, most, 1.0)
            if self.leak > 0:
                self.quantum = torch.minimum(self.quantum, lam[:, 0] / (self.leak * squares.amax()))
        else:
            own = per_signal("quantum", quantum, self.problem.batch_shape, self.problem.x).detach().reshape(-1)
            if not bool((own > 0).all()):
                raise ValueError(f"quantum holds {float(own.min())}; numbers above zero are wanted")
            self.quantum = own
        if self.leak > 0:
            self._check_leak(lam, squares)
        polarities = 1 if self.problem.nonnegative else 2
        #: theta, one per unit; infinite where an atom is zero, whose unit has nothing to say.
        resets = self.quantum[:, None] * squares.repeat(polarities)
        self.threshold = torch.where(resets > 0, resets, math.inf)
        signed = pull if polarities == 1 else torch.cat([pull, -pull], -1)
        #: v' between spikes where v = 0.
        self.drive = signed - lam + self.leak * resets
        self._largest = squares.amax()

    def _check_leak(self, lam: Tensor, squares: Tensor) -> None:
        """ValueError unless the current that the leak takes at the threshold, leak q |P_i|^2, is at most lam.

        Otherwise atoms whose sum is nearly zero, such as an on and an off unit, could excite one another without end.
        """
        most = self.leak * self.quantum[:, None] * squares
        if not bool((self.quantum > 0).all()) or bool((most > lam * (1 + 1e-12)).any()):
            raise ValueError(
                f"leak times quantum times |P_i|^2 is up to {float(most.max()):g}, lam down to {float(lam.min()):g}; "
                "at most lam, and above zero, is wanted: a smaller quantum, a smaller leak or a larger lam"
            )

    @property
    def dictionary(self) -> Dictionary:
        """P."""
        return self.problem.dictionary

    @property
    def signals(self) -> int:
        """The number of signals."""
        return len(self.drive)

    @property
    def atoms(self) -> int:
        """d', the number of atoms."""
        return self.dictionary.code_size

    @property
    def units(self) -> int:
        """The number of units of each signal: one per atom, or an on and an off unit. Off units follow all on units."""
        return self.drive.shape[-1]

    def lateral(self, unit: Tensor) -> Tensor:
        """What a spike of `unit` (n,) takes from every unit's potential, over q, (n, units)."""
        if self._gram is not None:
            return self._gram[unit]
        one = torch.nn.functional.one_hot(unit % self.atoms, self.atoms).to(self.drive.dtype)
        row = self._dictionary.gram(one.reshape(-1, *self.dictionary.code_shape)).flatten(1)
        if self.problem.nonnegative:
            return row
        return torch.cat([row, -row], -1) * torch.where(unit < self.atoms, 1.0, -1.0)[:, None]

    def potential(self, time: float, counts: Tensor) -> Tensor:
        """v at `time` where leak = 0, from the numbers of spikes (n, units) alone: drive T - q P^T P n."""
        inhibition = self._dictionary.gram(self._net(counts).reshape(-1, *self.dictionary.code_shape)).flatten(1)
        own = self.quantum[:, None] * inhibition
        return self.drive * time - (own if self.problem.nonnegative else torch.cat([own, -own], -1))

    def code(self, time: float, counts: Tensor) -> Tensor:
        """The averaged code q n / time, of the codes' shape (*any, *code_shape)."""
        flat = self.quantum[:, None] * self._net(counts) / time
        return flat.reshape(*self.problem.batch_shape, *self.dictionary.code_shape)

    def _net(self, counts: Tensor) -> Tensor:
        real = counts.to(self.drive.dtype)
        return real if self.problem.nonnegative else real[:, : self.atoms] - real[:, self.atoms :]

    def bound(self, time: float, code: Tensor) -> Tensor:
        """A bound on E(a) - E* of the averaged code a after `time`, one value per signal, of order log T / T:

            c / T (1 + max(0, log(T / t1))),   c = q max_i |P_i|^2 E0 / lam,   E0 = min(E(a), |x|^2 / 2)

        with t1 = min_i theta_i / drive_i the time of the first spike (docs/mathematics.md, "Spiking neurons"). It is
        infinite where lam = 0, and where leak > 0, since nothing is proved there.
        """
        with torch.no_grad():
            energy = 0.5 * self.problem.sum_signal(self.problem.x.square())
            energy = torch.minimum(energy, self.problem.objective(code)).reshape(-1)
            lam = self.problem.lam.reshape(-1)
            cost = self.quantum * self._largest * energy / lam
            first = torch.where(self.drive > 0, self.threshold / self.drive, math.inf).amin(-1)
            value = cost / time * (1 + (time / first).log().clamp(min=0))
            value = torch.where(energy == 0, 0.0, value)
            value = torch.where((lam > 0) & (self.leak == 0), value, math.inf)
            return value.reshape(self.problem.batch_shape)

    def per_code(self, value: Tensor) -> Tensor:
        """One value per signal, shaped to broadcast against codes."""
        return expand_trailing(value, len(self.dictionary.code_shape))

    def parameters(self) -> dict[str, float | str | bool]:
        """The parameters that are the same for all signals, by name."""
        return {"neurons": type(self).__name__, "nonnegative": self.problem.nonnegative, "leak": self.leak}

    def __repr__(self) -> str:
        kind = "one unit" if self.problem.nonnegative else "an on and an off unit"
        return f"SpikingLCA({self.signals} signals with {self.dictionary}, {kind} per atom, leak {self.leak:g})"


def _squares(dictionary: Dictionary) -> Tensor:
    """|P_i|^2, (atoms,), without P as a matrix."""
    found = []
    for start in range(0, dictionary.code_size, 256):
        atom = torch.arange(start, min(start + 256, dictionary.code_size), device=dictionary.device)
        one = torch.nn.functional.one_hot(atom, dictionary.code_size).to(dictionary.dtype)
        found.append(dictionary.decode(one.reshape(-1, *dictionary.code_shape)).flatten(1).square().sum(-1))
    return torch.cat(found)
