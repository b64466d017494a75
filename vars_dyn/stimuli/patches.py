"""The square patches of a stimulus, as a batch of signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite

__all__ = ["Patches"]


class Patches(Composite):
    """The square patches of every frame, row by row: x(t) has the shape (*lead, patches, side^2).

    A patch of a stimulus in colour holds one colour after another, and has 3 side^2 entries.

    Args:
        stimulus: frames of shape (*lead, height, width), or (*lead, colours, height, width) if they have colours
            (`event_dims` is 3).
        side: the side of a patch in pixels.
        stride: pixels from one patch to the next; by default the side.
        subtract_mean: whether every patch's own mean is subtracted from it, at every time.

    Raises ValueError for frames that are smaller than a patch.
    """

    def __init__(
        self, stimulus: Stimulus, side: int, stride: int | None = None, *, subtract_mean: bool = False
    ) -> None:
        super().__init__((stimulus,))
        self._colours = stimulus.shape[-3] if stimulus.event_dims == 3 else None
        self.event_dims = 1
        self.side = _checks.count("side", side)
        self.stride = side if stride is None else _checks.count("stride", stride)
        self.subtract_mean = subtract_mean
        if len(stimulus.shape) < 2 or min(stimulus.shape[-2:]) < side:
            raise ValueError(f"the stimulus has shape {stimulus.shape}; frames of at least {side} pixels are wanted")

    @property
    def places(self) -> tuple[int, int]:
        """How many patches there are above and beside each other."""
        height, width = self.parts[0].shape[-2:]
        return (height - self.side) // self.stride + 1, (width - self.side) // self.stride + 1

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.places
        shape = self.parts[0].shape[: -2 if self._colours is None else -3]
        return *shape, rows * columns, (self._colours or 1) * self.side**2

    def _cut(self, value: Tensor) -> Tensor:
        windows = value.unfold(-2, self.side, self.stride).unfold(-2, self.side, self.stride)
        if self._colours is not None:
            windows = windows.movedim(-5, -3)
        return windows.reshape(self.shape)

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        cut = self._cut(values[0])
        return cut - cut.mean(-1, keepdim=True) if self.subtract_mean else cut

    def size(self) -> Tensor:
        cut = self._cut(self.parts[0].size())
        return cut + cut.mean(-1, keepdim=True) if self.subtract_mean else cut

    def parameters(self) -> dict[str, Any]:
        own = {"side": self.side, "stride": self.stride, "subtract_mean": self.subtract_mean}
        return {**super().parameters(), **own}
