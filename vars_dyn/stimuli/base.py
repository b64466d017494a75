"""The contract of a stimulus: a signal that is a function of time, x(t)."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from vars_dyn import _checks

__all__ = ["Stimulus"]


class Stimulus(ABC):
    """A signal x(t) for a field, in place of a tensor that stays the same.

    Time is in membrane time constants, as everywhere in this package. A stimulus that is defined in milliseconds or
    hertz has `tau_ms`, the membrane time constant in milliseconds, which turns one into the other. Where x jumps, it
    has already its new value at the time of the jump. A stimulus is a plain value, like a dictionary.

    A subclass defines `shape`, `_at`, `size`, `tensors`, `_assign` and `parameters`, and the properties below where
    the defaults do not fit.

    Attributes:
        tau_ms: the membrane time constant in milliseconds; None where the stimulus knows of none.
        event_dims: how many trailing dimensions make one signal, where nothing else tells.
    """

    tau_ms: float | None = None
    event_dims: int = 1

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of x(t)."""

    @abstractmethod
    def _at(self, t: float) -> Tensor:
        """x(t)."""

    @abstractmethod
    def size(self) -> Tensor:
        """For every entry of x, the modulus that it does not exceed, or hardly ever: tolerances are relative to it."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that x depends on, at least one, in a fixed order. They may require gradients."""

    @abstractmethod
    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        """Replace the tensors, ordered as in `tensors()`."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """What defines the stimulus, as values of JSON, for the record: its class as `stimulus`, and its arguments.

        Tensors are not among them: the record keeps those of `stored()`.
        """

    def stored(self) -> tuple[Tensor, ...]:
        """The tensors that the record stores by value, because `parameters()` do not define them."""
        return ()

    @property
    def jumps(self) -> tuple[float, ...]:
        """The times at which x or its slope jumps, increasing. No step of an integration straddles one."""
        return ()

    @property
    def moves(self) -> bool:
        """Whether x changes with time at all. A field whose stimulus does not move is that of the still signal."""
        return True

    @property
    def rests_from(self) -> float:
        """The time from which on x stays the same; infinity where it never does."""
        return math.inf if self.moves else -math.inf

    @property
    def duration(self) -> float:
        """How long what is shown lasts, in membrane time constants; infinity where it has no end of its own."""
        return math.inf

    def during(self, start: float, end: float) -> Stimulus:
        """The stimulus on the way from `start` to `end`, between which there is no jump.

        It goes on smoothly beyond both ends, so that no step sees the other side of a jump there.
        """
        return self

    def __call__(self, t: float | Tensor) -> Tensor:
        """x at the time t, in membrane time constants."""
        return self._at(_checks.plain(t))

    def seconds(self, t: float) -> float:
        """The time t in seconds; ValueError where the stimulus knows of no time constant."""
        if self.tau_ms is None:
            raise ValueError(f"{type(self).__name__} has no tau_ms, which turns times into seconds")
        return t * self.tau_ms / 1000

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """The same stimulus holding `tensors` (ordered as in `tensors()`)."""
        twin = copy.copy(self)
        twin._assign(tensors)
        return twin

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same stimulus on another device or in another floating-point dtype."""
        return self.with_tensors(tuple(t.to(device=device, dtype=dtype) for t in self.tensors()))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x."""
        return self.tensors()[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of x."""
        return self.tensors()[0].device

    def __repr__(self) -> str:
        own = ", ".join(f"{k}={v}" for k, v in self.parameters().items() if k != "stimulus")
        return f"{type(self).__name__}({own})"
