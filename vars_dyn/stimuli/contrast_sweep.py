"""A stimulus whose contrast changes with time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite
from vars_dyn.stimuli.constant import Constant
from vars_dyn.stimuli.sampled import Sampled

__all__ = ["ContrastSweep"]


class ContrastSweep(Composite):
    """x(t) = background + c(t) (signal - background), with c given at some times.

    Args:
        stimulus: what is shown at contrast 1.
        contrasts: the contrasts c.
        times_ms: their times in milliseconds, increasing.
        between: "hold" for steps of contrast, "linear" for ramps.
        background: what contrast 0 shows, a number.
        tau_ms: the membrane time constant in milliseconds; by default the stimulus's, or 10 where that has none.
    """

    def __init__(
        self,
        stimulus: Stimulus,
        contrasts: Sequence[float],
        times_ms: Sequence[float],
        *,
        between: str = "hold",
        background: float = 0.0,
        tau_ms: float | None = None,
    ) -> None:
        tau = float(_checks.number("tau_ms", tau_ms or stimulus.tau_ms or 10.0, positive=True))
        self.contrasts, self.times_ms = [float(c) for c in contrasts], [float(t) for t in times_ms]
        values = torch.tensor(self.contrasts, dtype=stimulus.dtype, device=stimulus.device)
        course = Sampled(values, [t / tau for t in self.times_ms], between, tau_ms=tau)
        super().__init__((stimulus, course))
        self.between, self.background = between, float(_checks.number("background", background))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    def during(self, start: float, end: float) -> Stimulus:
        contrast = self.parts[1].during(start, end)
        if not contrast.moves and float(contrast(start)) == 0:
            return Constant(self.combined([self.parts[0](start), contrast(start)]))
        return super().during(start, end)

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        return self.background + values[1] * (values[0] - self.background)

    def size(self) -> Tensor:
        largest = max(abs(c) for c in self.contrasts)
        return abs(self.background) + largest * (self.parts[0].size() + abs(self.background))

    def stored(self) -> tuple[Tensor, ...]:
        return self.parts[0].stored()

    def parameters(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("contrasts", "times_ms", "between", "background", "tau_ms")}
        return {"stimulus": "ContrastSweep", "parts": [self.parts[0].parameters()], **own}
