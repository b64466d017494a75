"""A stimulus that is given as a function of time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus

__all__ = ["Function"]


class Function(Stimulus):
    """x(t) = f(t, *tensors) for any function f.

    Args:
        f: takes the time, a float in membrane time constants, and the tensors; returns the signal. It must give the
            same signal whenever it is called with the same time. Where it jumps, its value at the jump is the new one.
        like: a signal of the shape, dtype and device that f returns. Its modulus is the size that tolerances are
            relative to, unless `size` is given.
        tensors: the tensors that f depends on and that gradients are wanted of.
        jumps: the times at which f or its slope jumps, in membrane time constants.
        rests_from: the time from which on f stays the same; infinity where it never does.
        size: for every entry of x, about the largest modulus that it reaches: a number, or a tensor that broadcasts.
        tau_ms: the membrane time constant in milliseconds, for time axes; None where there is none.

    Raises ValueError for signals of another shape, dtype or device, and for an f that depends on a tensor that requires
    a gradient and is not among `tensors`.
    """

    def __init__(
        self,
        f: Callable[..., Tensor],
        like: Float[Tensor, "*shape"],
        tensors: Sequence[Tensor] = (),
        *,
        jumps: Sequence[float] = (),
        rests_from: float = math.inf,
        size: float | Tensor | None = None,
        tau_ms: float | None = None,
    ) -> None:
        self.f, self.like = f, _checks.floating_tensor("like", like).detach()
        self.own = tuple(tensors)
        self._jumps = tuple(float(t) for t in jumps)
        if any(not a < b for a, b in zip(self._jumps, self._jumps[1:], strict=False)):
            raise ValueError(f"jumps are {list(self._jumps)}; strictly increasing times are wanted")
        self._rests_from = float(rests_from)
        known = self.like.abs() if size is None else torch.as_tensor(size, dtype=like.dtype, device=like.device)
        self._size = known.detach().abs().expand(self.like.shape)
        self.tau_ms = None if tau_ms is None else float(_checks.number("tau_ms", tau_ms, positive=True))
        self._within: tuple[float, float] | None = None
        first = self._at(0.0)
        if first.requires_grad and not any(t.requires_grad for t in self.own):
            raise ValueError(
                "f depends on a tensor that requires a gradient; pass it in `tensors`, and f takes it after the time"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.like.shape)

    @property
    def jumps(self) -> tuple[float, ...]:
        return self._jumps

    @property
    def rests_from(self) -> float:
        return self._rests_from

    def during(self, start: float, end: float) -> Stimulus:
        twin = copy.copy(self)
        # At a jump f has its new value already, so the last time before it stands for the end.
        last = math.nextafter(end, -math.inf) if end in self._jumps else math.inf
        twin._within = (start if start in self._jumps else -math.inf, last)
        return twin

    def _at(self, t: float) -> Tensor:
        if self._within is not None:
            t = min(max(t, self._within[0]), self._within[1])
        value = self.f(t, *self.own)
        if not isinstance(value, Tensor) or value.shape != self.like.shape:
            raise ValueError(f"f({t:g}) is {_checks.describe(value)}; a tensor of like's shape {self.shape} is wanted")
        _checks.floating_tensor(f"f({t:g})", value)
        return _checks.same_kind(f"f({t:g})", value, self.like, "like")

    def size(self) -> Tensor:
        return self._size

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.like, self._size, *self.own)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        self.like, self._size, *own = tensors
        self.own = tuple(own)

    def stored(self) -> tuple[Tensor, ...]:
        return self.own

    def parameters(self) -> dict[str, Any]:
        name = getattr(self.f, "__qualname__", type(self.f).__qualname__)
        rest = None if math.isinf(self._rests_from) else self._rests_from
        return {
            "stimulus": "Function",
            "f": f"{getattr(self.f, '__module__', '')}.{name}",
            "jumps": list(self._jumps),
            "rests_from": rest,
            "tau_ms": self.tau_ms,
        }
