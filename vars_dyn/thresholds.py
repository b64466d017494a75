"""Gates g of the encoding neurons, a = g(u), and the penalty that belongs to each.

A gate that is the proximal operator of a penalty has an equilibrium problem, a Lyapunov function and a certificate.
Any other gate has none of these, and serves ISTA-form layers only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.penalties import L1, NonNegativeL1, Penalty, nonnegative_threshold, soft_threshold

__all__ = [
    "GeluThreshold",
    "NonNegativeSoftThreshold",
    "ProximalThreshold",
    "SoftThreshold",
    "Threshold",
    "gelu_threshold",
    "nonnegative_threshold",
    "soft_threshold",
]


def gelu_threshold(u: Tensor, theta: float | Tensor) -> Tensor:
    """sgn(u) gelu(|u| - theta), without checks of theta."""
    return u.sign() * torch.nn.functional.gelu(u.abs() - theta)


class Threshold(ABC):
    """A gate g with threshold theta >= 0: a number, or a tensor that broadcasts against the neurons.

    Raises ValueError for a threshold below zero.

    Examples:
        >>> gate: vd.Threshold = vd.SoftThreshold(0.5)
        >>> gate.derivative(torch.tensor([0.2, 2.0], dtype=torch.float64)).tolist()
        [0.0, 1.0]
    """

    def __init__(self, theta: float | Tensor) -> None:
        if isinstance(theta, Tensor) and theta.ndim:
            if not bool((theta.detach() >= 0).all()):
                raise ValueError("theta holds negative or NaN entries; thresholds of at least zero are wanted")
        else:
            _checks.number("theta", theta, nonnegative=True)
        self.theta = theta

    @abstractmethod
    def __call__(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The code a = g(u), of the shape of u."""

    @abstractmethod
    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """g'(u); at a kink, the derivative from the side where the code is not zero."""

    @property
    def penalty(self) -> Callable[[Tensor], Tensor] | None:
        """The penalty of each entry of a code, if g is its proximal operator; None where there is no such penalty."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_checks.describe(self.theta)})"


class ProximalThreshold(Threshold):
    """The proximal operator of theta r, for a penalty r of `vars_dyn.penalties`."""

    def __init__(self, proximal_of: Penalty, theta: float | Tensor) -> None:
        super().__init__(theta)
        self.proximal_of = proximal_of

    @property
    def penalty(self) -> Callable[[Tensor], Tensor]:
        return lambda a: self.proximal_of.value(a, self.theta)

    def __call__(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.proximal_of.prox(u, self.theta)

    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.proximal_of.derivative(u, self.theta)


class SoftThreshold(ProximalThreshold):
    """g(u) = sgn(u) max(|u| - theta, 0), the proximal operator of theta |a| (Eq. 9).

    Raises ValueError for a threshold below zero.

    Examples:
        >>> vd.SoftThreshold(0.5)(torch.tensor([-2.0, 0.3, 2.0], dtype=torch.float64)).tolist()
        [-1.5, 0.0, 1.5]
    """

    def __init__(self, theta: float | Tensor) -> None:
        super().__init__(L1(), theta)


class NonNegativeSoftThreshold(ProximalThreshold):
    """g(u) = max(u - theta, 0), the proximal operator of theta a on a >= 0.

    Raises ValueError for a threshold below zero.

    Examples:
        >>> vd.NonNegativeSoftThreshold(0.5)(torch.tensor([-2.0, 0.3, 2.0], dtype=torch.float64)).tolist()
        [0.0, 0.0, 1.5]
    """

    def __init__(self, theta: float | Tensor) -> None:
        super().__init__(NonNegativeL1(), theta)


class GeluThreshold(Threshold):
    """g(u) = sgn(u) gelu(|u| - theta), the released VARS code's gate.

    It jumps at 0 and falls where |u| < theta - 0.752, so it is the proximal operator of no penalty. Its equilibrium
    therefore solves no problem, and has no certificate. Use it only to reproduce the released layers.

    Raises ValueError for a threshold below zero.

    Examples:
        >>> u = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
        >>> [round(v, 3) for v in vd.GeluThreshold(1.0)(u).tolist()]
        [-0.841, -0.154, 1.954]
    """

    def __call__(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return gelu_threshold(u, self.theta)

    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        v = u.abs() - self.theta
        cdf = 0.5 * (1 + torch.erf(v / math.sqrt(2)))
        return torch.where(u == 0, torch.zeros_like(u), cdf + v * torch.exp(-(v**2) / 2) / math.sqrt(2 * math.pi))
