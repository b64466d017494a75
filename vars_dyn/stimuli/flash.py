"""A stimulus that appears and vanishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite
from vars_dyn.stimuli.constant import Constant

__all__ = ["Flash"]


class Flash(Composite):
    """The stimulus from `onset_ms` on for `duration_ms`, and a uniform background before and after.

    Args:
        stimulus: what is shown; its own clock goes on while it is not seen.
        onset_ms: when it appears, in milliseconds.
        duration_ms: how long it is seen, in milliseconds.
        background: what is seen before and after, a number.
        tau_ms: the membrane time constant in milliseconds; by default the stimulus's, or 10 where that has none.
    """

    def __init__(
        self,
        stimulus: Stimulus,
        *,
        onset_ms: float = 0.0,
        duration_ms: float = 100.0,
        background: float = 0.0,
        tau_ms: float | None = None,
    ) -> None:
        super().__init__((stimulus,))
        if tau_ms is not None and self.tau_ms not in (None, tau_ms):
            raise ValueError(f"tau_ms is {tau_ms}, and that of the stimulus is {self.tau_ms}; one is wanted")
        self.tau_ms = float(_checks.number("tau_ms", tau_ms or self.tau_ms or 10.0, positive=True))
        self.onset_ms = float(_checks.number("onset_ms", onset_ms))
        self.duration_ms = float(_checks.number("duration_ms", duration_ms, positive=True))
        self.background = float(_checks.number("background", background))

    @property
    def window(self) -> tuple[float, float]:
        """When it is seen: from the first to before the second time, in membrane time constants."""
        tau = self.tau_ms or 1.0
        return self.onset_ms / tau, (self.onset_ms + self.duration_ms) / tau

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    @property
    def moves(self) -> bool:
        return True

    @property
    def jumps(self) -> tuple[float, ...]:
        on, off = self.window
        return (on, *(t for t in self.parts[0].jumps if on < t < off), off)

    @property
    def rests_from(self) -> float:
        return self.window[1]

    def during(self, start: float, end: float) -> Stimulus:
        on, off = self.window
        return self.parts[0].during(start, end) if on <= start + (end - start) / 2 < off else self._nothing()

    def _nothing(self) -> Stimulus:
        return Constant(torch.full(self.shape, self.background, dtype=self.dtype, device=self.device))

    def _at(self, t: float) -> Tensor:
        on, off = self.window
        return self.parts[0](t) if on <= t < off else self._nothing()(t)

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        return values[0]

    def size(self) -> Tensor:
        return self.parts[0].size().clamp(min=abs(self.background))

    def parameters(self) -> dict[str, Any]:
        names = ("onset_ms", "duration_ms", "background", "tau_ms")
        return {**super().parameters(), **{name: getattr(self, name) for name in names}}
