"""What stimuli that are made of others share."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.constant import Constant

__all__ = ["Composite", "same_tau"]


class Composite(Stimulus):
    """A stimulus that combines the values of its parts at the same time, by `combined`.

    Args:
        parts: the stimuli, all of the same dtype and on the same device.
        own: tensors of the combination itself.
    """

    def __init__(self, parts: Sequence[Stimulus], own: tuple[Tensor, ...] = ()) -> None:
        self.parts = tuple(parts)
        for part in self.parts:
            if not isinstance(part, Stimulus):
                raise ValueError(f"a part is a {type(part).__name__}; a Stimulus is wanted (Constant holds a tensor)")
        if not self.parts:
            raise ValueError("there are no parts; at least one stimulus is wanted")
        for part in self.parts[1:]:
            if part.dtype != self.parts[0].dtype or part.device != self.parts[0].device:
                raise ValueError(
                    f"the parts are {self.parts[0].dtype} on {self.parts[0].device} and {part.dtype} on {part.device}; "
                    "the same dtype and device are wanted"
                )
        self.own = own
        self.event_dims = self.parts[0].event_dims
        self.tau_ms = same_tau(self.parts)

    @abstractmethod
    def combined(self, values: Sequence[Tensor]) -> Tensor:
        """x, where the parts have the values."""

    def _at(self, t: float) -> Tensor:
        return self.combined([part(t) for part in self.parts])

    @property
    def jumps(self) -> tuple[float, ...]:
        if len(self.parts) == 1:
            return self.parts[0].jumps
        return tuple(sorted({t for part in self.parts for t in part.jumps}))

    @property
    def moves(self) -> bool:
        return any(part.moves for part in self.parts)

    @property
    def rests_from(self) -> float:
        return max(part.rests_from for part in self.parts)

    @property
    def duration(self) -> float:
        return max(part.duration for part in self.parts)

    def during(self, start: float, end: float) -> Stimulus:
        pieces = tuple(part.during(start, end) for part in self.parts)
        if not any(piece.moves for piece in pieces):
            return Constant(self.combined([piece(start) for piece in pieces]))
        return self if pieces == self.parts else self.with_parts(pieces)

    def with_parts(self, parts: tuple[Stimulus, ...]) -> Stimulus:
        """The same combination of other parts of the same shapes."""
        twin = copy.copy(self)
        twin.parts = parts
        return twin

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.own, *(t for part in self.parts for t in part.tensors()))

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        self.own, rest = tensors[: len(self.own)], list(tensors[len(self.own) :])
        parts = []
        for part in self.parts:
            count = len(part.tensors())
            parts.append(part.with_tensors(tuple(rest[:count])))
            rest = rest[count:]
        self.parts = tuple(parts)

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    def stored(self) -> tuple[Tensor, ...]:
        return tuple(t for part in self.parts for t in part.stored())

    def parameters(self) -> dict[str, Any]:
        return {"stimulus": type(self).__name__, "parts": [part.parameters() for part in self.parts]}


def same_tau(parts: Sequence[Stimulus]) -> float | None:
    """The membrane time constant of the parts in milliseconds; None where they know of none, ValueError where two
    differ.
    """
    found = sorted({part.tau_ms for part in parts if part.tau_ms is not None})
    if len(found) > 1:
        raise ValueError(f"the parts have the time constants {found[0]:g} and {found[1]:g} ms; one is wanted")
    return found[0] if found else None
