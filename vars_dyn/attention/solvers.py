"""Solvers of a layer's sparse reconstruction, one function each: from signals to codes, differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["GATES", "fista", "ista"]

Map = Callable[[Tensor], Tensor]
Observe = Callable[[Tensor], None]
Gate = Callable[[Tensor, Tensor | float], Tensor]


def _soft(u: Tensor, theta: Tensor | float) -> Tensor:
    return u.sign() * F.relu(u.abs() - theta)


def _gelu(u: Tensor, theta: Tensor | float) -> Tensor:
    return u.sign() * F.gelu(u.abs() - theta)


#: Gates by the name a Variant calls them.
GATES: dict[str, Gate] = {"soft": _soft, "gelu": _gelu}


def ista(
    gram: Map,
    b: Tensor,
    start: Tensor,
    lam: Tensor | float,
    norm: Tensor,
    num_steps: int,
    gate: Gate,
    observe: Observe | None = None,
) -> Tensor:
    """`num_steps` steps of a <- g(a - (G a - b) / L, lam / L) from `start` (Eq. 12), with L = `norm`.

    `observe`, if given, is called with every iterate.
    """
    a = start
    for _ in range(num_steps):
        a = gate(a - (gram(a) - b) / norm, lam / norm)
        if observe is not None:
            observe(a)
    return a


def fista(
    gram: Map,
    b: Tensor,
    start: Tensor,
    lam: Tensor | float,
    norm: Tensor,
    num_steps: int,
    gate: Gate,
    observe: Observe | None = None,
) -> Tensor:
    """As `ista`, with Nesterov's momentum (Beck & Teboulle, SIAM J. Imaging Sciences 2009)."""
    a, y, t = start, start, 1.0
    for _ in range(num_steps):
        previous = a
        a = gate(y - (gram(y) - b) / norm, lam / norm)
        t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        y = a + (before - 1) / t * (a - previous)
        if observe is not None:
            observe(a)
    return a
