"""Where the frames of a movie come from, as the reader of movies sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vars_dyn.images import Picture

__all__ = ["MOVIE_SUFFIXES", "Source"]

#: The suffixes of files that hold movies.
MOVIE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".y4m", ".gif")


class Source(ABC):
    """Where frames come from: their number, their rate and times, and each as it is stored.

    Attributes:
        count: the number of frames.
        rate: frames per second; None where the source does not say.
        seconds: the time of each frame after the first one's, in seconds; None where the source does not say.
        files: the files that hold the frames, in the order of the frames.
    """

    count: int
    rate: float | None = None
    seconds: NDArray[np.float64] | None = None
    files: Sequence[Path]

    @abstractmethod
    def picture(self, number: int, *, colour: bool) -> Picture: ...

    @abstractmethod
    def close(self) -> None: ...
