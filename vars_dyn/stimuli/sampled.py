"""A stimulus that is given as an array over time."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.frames import Frames

__all__ = ["Sampled"]


class Sampled(Frames):
    """Given signals at given times, each held until the next one, or joined by straight lines.

    Args:
        values: the signals, (time, *shape). They may require gradients.
        times: their times, increasing, in membrane time constants.
        between: "hold" keeps each signal until the next one's time; "linear" joins them by straight lines.
        tau_ms: the membrane time constant in milliseconds, for time axes; None where there is none.

    Before the first time x is the first signal, and from the last time on the last one. Raises ValueError for values
    and times that do not fit each other.
    """

    def __init__(
        self,
        values: Float[Tensor, "time ..."] | _checks.Numbers,
        times: Tensor | _checks.Numbers,
        between: str = "hold",
        *,
        tau_ms: float | None = None,
    ) -> None:
        values = _checks.floating_tensor("values", values)
        instants = _checks.tensor("times", times).to("cpu", torch.float64)
        if instants.ndim != 1 or values.ndim < 1 or not len(instants) or len(instants) != len(values):
            raise ValueError(
                f"values have shape {tuple(values.shape)} and times {tuple(instants.shape)}; one time for every "
                "signal, and at least one, is wanted"
            )
        if not bool(instants.isfinite().all()) or not bool((instants.diff() > 0).all()):
            raise ValueError("times are not finite and strictly increasing; times that are both are wanted")
        super().__init__(tuple(instants.tolist()), between)
        self.values = values
        self.tau_ms = None if tau_ms is None else float(_checks.number("tau_ms", tau_ms, positive=True))
        still = values.detach()
        self._moves = bool((still != still[:1]).any())

    @property
    def moves(self) -> bool:
        return self._moves

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    def frame(self, number: int) -> Tensor:
        return self.values[number]

    def size(self) -> Tensor:
        return self.values.detach().abs().amax(0)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.values,) = tensors

    def stored(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def parameters(self) -> dict[str, Any]:
        return {
            "stimulus": "Sampled",
            "between": self.between,
            "tau_ms": self.tau_ms,
            "times": list(self.frame_times),
        }
