"""Gates g of the encoding neurons, a = g(u), and the penalty each stands for.

A gate that is the proximal operator of a penalty has an equilibrium problem, a Lyapunov function and a certificate;
a gate that is none (`penalty` is None) serves ISTA-form layers only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks

__all__ = [
    "GeluThreshold",
    "NonNegativeSoftThreshold",
    "SoftThreshold",
    "Threshold",
    "gelu_threshold",
    "nonnegative_threshold",
    "soft_threshold",
]


def soft_threshold(u: Tensor, theta: float | Tensor) -> Tensor:
    """sgn(u) max(|u| - theta, 0), without checks of theta.

    At |u| = theta the derivative is the active side's, so that theta = 0 is the identity at u = 0 too.
    """
    if not torch.is_grad_enabled():
        # The same numbers in a third of the time.
        return u - u.clamp(-theta, theta)  # type: ignore[arg-type]
    return torch.where(u.abs() < theta, 0.0, u - theta * u.sign())


def nonnegative_threshold(u: Tensor, theta: float | Tensor) -> Tensor:
    """max(u - theta, 0), without checks of theta; at u = theta the derivative is the active side's."""
    if not torch.is_grad_enabled():
        return (u - theta).clamp(min=0)
    return torch.where(u < theta, 0.0, u - theta)


def gelu_threshold(u: Tensor, theta: float | Tensor) -> Tensor:
    """sgn(u) gelu(|u| - theta), without checks of theta."""
    return u.sign() * torch.nn.functional.gelu(u.abs() - theta)


class Threshold(ABC):
    """A gate g with threshold theta >= 0: a number, or a tensor that broadcasts against the neurons."""

    #: Elementwise penalty r with g = prox of r, as a function of the code; None where there is no such penalty.
    penalty: Callable[[Tensor], Tensor] | None = None

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_checks.describe(self.theta)})"


class SoftThreshold(Threshold):
    """g(u) = sgn(u) max(|u| - theta, 0), the proximal operator of theta |a| (Eq. 9)."""

    def __init__(self, theta: float | Tensor) -> None:
        super().__init__(theta)
        self.penalty = lambda a: self.theta * a.abs()

    def __call__(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return soft_threshold(u, self.theta)

    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (u.abs() >= self.theta).to(u.dtype)


class NonNegativeSoftThreshold(Threshold):
    """g(u) = max(u - theta, 0), the proximal operator of theta a on a >= 0."""

    def __init__(self, theta: float | Tensor) -> None:
        super().__init__(theta)
        self.penalty = lambda a: torch.where(a >= 0, self.theta * a, math.inf)

    def __call__(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return nonnegative_threshold(u, self.theta)

    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (u >= self.theta).to(u.dtype)


class GeluThreshold(Threshold):
    """g(u) = sgn(u) gelu(|u| - theta), the released VARS code's gate.

    It jumps at 0 and falls where |u| < theta - 0.752, so it is the proximal operator of no penalty: there is no problem
    that its equilibrium solves and no certificate. Use it only to reproduce the released layers.
    """

    def __call__(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return gelu_threshold(u, self.theta)

    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        v = u.abs() - self.theta
        cdf = 0.5 * (1 + torch.erf(v / math.sqrt(2)))
        return torch.where(u == 0, torch.zeros_like(u), cdf + v * torch.exp(-(v**2) / 2) / math.sqrt(2 * math.pi))
