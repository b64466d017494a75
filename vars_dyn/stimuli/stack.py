"""Several stimuli as one batch of signals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite

__all__ = ["Stack"]


class Stack(Composite):
    """A batch of signals, one for each part: x(t) has a new first dimension.

    Args:
        parts: stimuli of the same shape.
    """

    def __init__(self, *parts: Stimulus) -> None:
        super().__init__(parts)
        for part in parts[1:]:
            if part.shape != parts[0].shape:
                raise ValueError(f"the parts have the shapes {parts[0].shape} and {part.shape}; one shape is wanted")

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.parts), *self.parts[0].shape

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values))

    def size(self) -> Tensor:
        return self.combined([part.size() for part in self.parts])
