"""Stimuli one after another."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence as Many
from typing import Any

from torch import Tensor

from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite

__all__ = ["Sequence"]


class Sequence(Composite):
    """Stimuli one after another: each is shown from its start to the next one's, and its clock begins at its start.

    Args:
        parts: stimuli of the same shape.
        starts: the times at which they begin, increasing, in membrane time constants (milliseconds over `tau_ms`).
            Before the first start the first part is shown as it is before its time zero.
    """

    def __init__(self, parts: Many[Stimulus], starts: Many[float]) -> None:
        super().__init__(parts)
        self.starts = tuple(float(t) for t in starts)
        if len(self.starts) != len(self.parts) or not all(map(math.isfinite, self.starts)):
            raise ValueError(f"starts are {list(self.starts)} for {len(self.parts)} parts; one each is wanted")
        if any(not a < b for a, b in zip(self.starts, self.starts[1:], strict=False)):
            raise ValueError(f"starts are {list(self.starts)}; strictly increasing times are wanted")
        for part in self.parts[1:]:
            if part.shape != self.parts[0].shape:
                raise ValueError(
                    f"the parts have the shapes {self.parts[0].shape} and {part.shape}; one shape is wanted"
                )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    @property
    def moves(self) -> bool:
        return len(self.parts) > 1 or self.parts[0].moves

    @property
    def jumps(self) -> tuple[float, ...]:
        ends = (*self.starts[1:], math.inf)
        found = set(self.starts[1:])
        for number, (part, start, end) in enumerate(zip(self.parts, self.starts, ends, strict=True)):
            first = -math.inf if number == 0 else start
            found |= {t + start for t in part.jumps if first < t + start < end}
        return tuple(sorted(found))

    @property
    def rests_from(self) -> float:
        own = self.parts[-1].rests_from + self.starts[-1]
        return own if len(self.parts) == 1 else max(own, self.starts[-1])

    @property
    def duration(self) -> float:
        return self.starts[-1] + self.parts[-1].duration

    def _number(self, t: float) -> int:
        return max(bisect.bisect_right(self.starts, t) - 1, 0)

    def _at(self, t: float) -> Tensor:
        number = self._number(t)
        return self.parts[number](t - self.starts[number])

    def during(self, start: float, end: float) -> Stimulus:
        number = self._number(start + (end - start) / 2)
        shift = self.starts[number]
        piece = self.parts[number].during(start - shift, end - shift)
        return Sequence((piece,), (shift,)) if piece.moves else piece

    def combined(self, values: Many[Tensor]) -> Tensor:
        return values[0]

    def size(self) -> Tensor:
        largest = self.parts[0].size()
        for part in self.parts[1:]:
            largest = largest.maximum(part.size())
        return largest

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "starts": list(self.starts)}
