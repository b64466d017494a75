"""Solvers that take a fixed number of steps, and the gates that they apply."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from vars_dyn.attention.autograd import plain_tensors, soft_step
from vars_dyn.thresholds import gelu_threshold, soft_threshold

__all__ = ["GATES", "UNROLLED", "Gate", "Map", "fista", "ista"]

Map = Callable[[Tensor], Tensor]
Observe = Callable[[Tensor], None]
Gate = Callable[[Tensor, Tensor | float], Tensor]

#: Gates by their names in a `Variant`.
GATES: dict[str, Gate] = {"soft": soft_threshold, "gelu": gelu_threshold}


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
    fast = gate is soft_threshold and plain_tensors(b, start, norm)
    for _ in range(num_steps):
        if fast and isinstance(lam, float) and lam > 0:
            a = soft_step(a, gram(a), b, norm, lam)
        else:
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
    """`ista` with Nesterov's momentum (Beck & Teboulle, SIAM J. Imaging Sciences 2009)."""
    a, y, t = start, start, 1.0
    for _ in range(num_steps):
        previous = a
        a = gate(y - (gram(y) - b) / norm, lam / norm)
        t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        y = a + (before - 1) / t * (a - previous)
        if observe is not None:
            observe(a)
    return a


#: The unrolled solvers. They take `num_steps` steps, and gradients are backpropagated through the steps.
UNROLLED = {"ista": ista, "fista": fista}
