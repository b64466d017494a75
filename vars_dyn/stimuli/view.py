"""A stimulus in another shape, some of its signals, or scaled by a power of two: what fields need of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from vars_dyn import _scaling
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite

__all__ = ["View", "fitted"]


class View(Composite):
    """The stimulus in another shape, then only the `rows` of its first dimension, then times two to the `power`.

    It is named by what it shows: `parameters()` are those of the stimulus.
    """

    def __init__(
        self, of: Stimulus, shape: tuple[int, ...] | None = None, rows: Tensor | None = None, power: int = 0
    ) -> None:
        super().__init__((of,))
        self._reshaped = of.shape if shape is None else shape
        self._rows, self._power = rows, power

    @property
    def shape(self) -> tuple[int, ...]:
        return self._reshaped if self._rows is None else (len(self._rows), *self._reshaped[1:])

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        value = values[0].reshape(self._reshaped)
        if self._rows is not None:
            value = value[self._rows]
        return _scaling.by_power(value, self._power)

    def size(self) -> Tensor:
        return self.combined([self.parts[0].size()])

    def parameters(self) -> dict[str, object]:
        return self.parts[0].parameters()


def fitted(stimulus: Stimulus, signal_shape: tuple[int, ...]) -> Stimulus:
    """The stimulus with signals of `signal_shape`: flat where that has one dimension, with one colour where it has
    three. ValueError where no reading of its shape fits.
    """
    shape = stimulus.shape
    if shape[len(shape) - len(signal_shape) :] == signal_shape and len(shape) >= len(signal_shape):
        return stimulus
    kept = [n for n in signal_shape if n != 1]
    for dims in range(1, len(shape) + 1):
        event = shape[len(shape) - dims :]
        flat = len(signal_shape) == 1 and math.prod(event) == signal_shape[0]
        if flat or [n for n in event if n != 1] == kept:
            return View(stimulus, (*shape[: len(shape) - dims], *signal_shape))
    raise ValueError(f"the stimulus has shape {shape}; (*any, *{signal_shape}), or frames of as many pixels, is wanted")
