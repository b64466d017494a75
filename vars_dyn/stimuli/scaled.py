"""A stimulus times a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite

__all__ = ["Scaled"]


class Scaled(Composite):
    """x(t) = factor times the signal of `stimulus`."""

    def __init__(self, stimulus: Stimulus, factor: float) -> None:
        super().__init__((stimulus,))
        self.factor = float(_checks.number("factor", factor))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        return self.factor * values[0]

    def size(self) -> Tensor:
        return abs(self.factor) * self.parts[0].size()

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "factor": self.factor}
