"""Stimuli that are added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite

__all__ = ["Sum"]


class Sum(Composite):
    """x(t) = sum of the parts' signals.

    Args:
        parts: stimuli whose shapes broadcast against each other.
    """

    def __init__(self, *parts: Stimulus) -> None:
        super().__init__(parts)
        try:
            self._shape = tuple(torch.broadcast_shapes(*(part.shape for part in parts)))
        except RuntimeError:
            shapes = " and ".join(str(part.shape) for part in parts)
            raise ValueError(f"the parts have the shapes {shapes}; shapes that broadcast are wanted") from None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total.expand(self._shape)

    def size(self) -> Tensor:
        return self.combined([part.size() for part in self.parts])
