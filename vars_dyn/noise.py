"""White noise on the neurons: how strong, of which kind, and from which seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from vars_dyn import _checks

__all__ = ["KINDS", "SCHEMES", "Noise"]

KINDS = ("additive", "multiplicative")
SCHEMES = ("stochastic_heun", "euler_maruyama")


@dataclass(frozen=True)
class Noise:
    """White noise, independent for every signal and unit: dz = f_z dt + z dW, du = f_u dt + u dW.

    Args:
        z: strength on the neurons, per square root of a membrane time constant, in units of the signals.
        u: strength on the encoding neurons.
        seed: an integer of at least zero. The Brownian path is a function of the seed, the signal's number, the unit
            and time: it does not depend on the steps, on the recorded times or on the other signals of the batch.
        kind: "additive", or "multiplicative", where the strength is multiplied by the potential, in the sense of Ito:
            dz_j = f_j dt + z z_j dW.
        scheme: "stochastic_heun", of strong order 1, and of weak order 2 for additive noise; or "euler_maruyama", of
            weak order 1, and of strong order 1 for additive and 1/2 for multiplicative noise.
        paths: the number of every signal's path; by default its index in the batch, in row-major order. A signal that
            is run alone with its own number has the noise that it had in the batch.

    Raises ValueError for strengths below zero and for unknown kinds and schemes.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> field = vd.SparseRecurrent(P, torch.ones(3, dtype=torch.float64), lam=0.5)
        >>> times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> start, noise = field.initial_state(), vd.Noise(u=0.1, seed=3)
        >>> one, other = (vd.integrate(field, start, times, noise=noise).states[1] for _ in range(2))
        >>> torch.equal(one, other)  # the path depends on the seed alone
        True
    """

    z: float = 0.0
    u: float = 0.0
    seed: int = 0
    kind: str = "additive"
    scheme: str = "stochastic_heun"
    paths: Sequence[int] | None = None

    def __post_init__(self) -> None:
        _checks.number("z", self.z, nonnegative=True)
        _checks.number("u", self.u, nonnegative=True)
        _checks.count("seed", self.seed, least=0)
        if self.seed >= 2**64:
            raise ValueError(f"seed is {self.seed}; an integer below 2^64 is wanted")
        _checks.choice("kind", self.kind, KINDS)
        _checks.choice("scheme", self.scheme, SCHEMES)
        if self.paths is not None:
            found = tuple(self.paths)
            if not all(isinstance(k, int) and 0 <= k < 2**40 for k in found):
                raise ValueError(f"paths are {list(found)[:10]}; integers from 0 to 2^40 - 1 are wanted")
            object.__setattr__(self, "paths", found)

    @property
    def is_silent(self) -> bool:
        """Whether there is none: the run is then that of the ODE, with the method asked for."""
        return self.z == 0 and self.u == 0

    def strength(self, part: str) -> float:
        """The strength on the part "z" or "u" of the state."""
        return float(self.z if part == "z" else self.u)

    def amplified(self, power: int) -> Self:
        """The same noise where signals are two to the `power` times as large."""
        if self.kind == "multiplicative" or not power:
            return self
        return replace(self, z=self.z * 2.0**power, u=self.u * 2.0**power)

    def parameters(self) -> dict[str, Any]:
        """Everything that defines it, as values of JSON, for the record."""
        paths = "all" if self.paths is None else list(self.paths)
        return {
            "z": float(self.z),
            "u": float(self.u),
            "seed": self.seed,
            "kind": self.kind,
            "scheme": self.scheme,
            "paths": paths,
        }
