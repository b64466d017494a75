"""The straight way from one signal to another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vars_dyn.stimuli.base import Stimulus

__all__ = ["Line"]


class Line(Stimulus):
    """x(t) = before + (t - start) / (end - start) (after - before), at every t.

    Args:
        before, after: the signals at `start` and `end`, of the same shape.
        start, end: in membrane time constants, start < end.
    """

    def __init__(self, before: Tensor, after: Tensor, start: float, end: float) -> None:
        self.before, self.after, self.start, self.end = before, after, start, end

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.before.shape)

    def _at(self, t: float) -> Tensor:
        return torch.lerp(self.before, self.after, (t - self.start) / (self.end - self.start))

    def size(self) -> Tensor:
        return torch.maximum(self.before.detach().abs(), self.after.detach().abs())

    def tensors(self) -> tuple[Tensor, ...]:
        return self.before, self.after

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        self.before, self.after = tensors

    def stored(self) -> tuple[Tensor, ...]:
        return self.tensors()

    def parameters(self) -> dict[str, Any]:
        return {"stimulus": "Line", "start": self.start, "end": self.end}
