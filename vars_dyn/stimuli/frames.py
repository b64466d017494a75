"""Stimuli made of frames: a movie in the widest sense, whose frames may be computed or read one by one."""

from __future__ import annotations

import bisect
from abc import abstractmethod

from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.constant import Constant
from vars_dyn.stimuli.line import Line

__all__ = ["Frames", "frame_times"]


class Frames(Stimulus):
    """Frames at given times, each held until the next one, or joined by straight lines.

    Before the first time x is the first frame, and from the last time on the last one. A subclass defines
    `frame(number)`. An integration asks for the frames in the order of time, so they may come from a stream. The
    subclass should keep the two that it gave last, because every look at a gap asks again.

    Args:
        times: the times of the frames, increasing, in membrane time constants.
        between: "hold" or "linear".
    """

    def __init__(self, times: tuple[float, ...], between: str = "hold") -> None:
        self.between = _checks.choice("between", between, ("hold", "linear"))
        self.frame_times = times
        self._jumps = times[1:] if between == "hold" else times

    @abstractmethod
    def frame(self, number: int) -> Tensor:
        """The frame at `frame_times[number]`."""

    @property
    def jumps(self) -> tuple[float, ...]:
        return self._jumps if self.moves else ()

    @property
    def moves(self) -> bool:
        return len(self.frame_times) > 1

    @property
    def rests_from(self) -> float:
        return self.frame_times[-1] if self.moves else super().rests_from

    def _at(self, t: float) -> Tensor:
        number = bisect.bisect_right(self.frame_times, t) - 1
        return self._piece(number)(t)

    def during(self, start: float, end: float) -> Stimulus:
        # The middle, as `start` may lie before a time by its rounding.
        return self._piece(bisect.bisect_right(self.frame_times, start + (end - start) / 2) - 1)

    def _piece(self, number: int) -> Stimulus:
        """The stimulus from frame `number` to the next; -1 stands for the time before the first."""
        last = len(self.frame_times) - 1
        if self.between == "hold" or not 0 <= number < last:
            return Constant(self.frame(min(max(number, 0), last)))
        start, end = self.frame_times[number : number + 2]
        return Line(self.frame(number), self.frame(number + 1), start, end)


def frame_times(count: int, rate: float, tau_ms: float) -> tuple[float, ...]:
    """The times of `count` frames, `rate` per second from zero on, in membrane time constants of `tau_ms`."""
    return tuple(number * 1000 / (rate * tau_ms) for number in range(count))
