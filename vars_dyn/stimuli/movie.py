"""A movie as a stimulus: its frames are read when they are needed, and not before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.movies import MovieReader
from vars_dyn.stimuli.frames import Frames

__all__ = ["Movie"]

#: Frames that are kept. Two make a straight line, and one more serves those who look back.
_KEPT = 4


class Movie(Frames):
    """A movie file, a folder of images, or a TIFF of several pages: x(t) is the frame that is seen at t.

    Each frame is shown from its own time to the next one's, or frames are joined by straight lines. The first one is
    there from time zero on, the last one stays. Frames are read one by one, so the memory does not grow with their
    number, but for 60 bytes each. The record names the file and keeps its SHA-256: a run goes on with the same frames
    only, wherever they are.

    Args:
        path: the movie; what `vars_dyn.movies.MovieReader` reads.
        rate: frames per second, of those that are taken. By default the times of the frames are those of the file.
        between: "hold" or "linear".
        clip: the first frame, the frame before which to stop (None: to the end), and, if given, the step: every
            step-th frame is taken.
        colour: whether to keep the colours. Then x(t) has the shape (3, height, width), else (height, width).
        crop: the part (top, left, height, width) of each frame to take, in pixels.
        size: the number of rows and columns to resize each frame to, after the crop.
        full_scale: the stored number that becomes 1; by default the white of the depth.
        background: the grey behind transparent pixels, from 0 (black) to 1 (white).
        tau_ms: the membrane time constant in milliseconds.
        dtype: of x.

    Raises ValueError for what cannot be read, and where no rate is given and the file knows of none.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        rate: float | None = None,
        between: str = "hold",
        clip: Sequence[int | None] = (0, None),
        colour: bool = False,
        crop: Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
        full_scale: float | None = None,
        background: float = 1.0,
        tau_ms: float = 10.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.path = Path(path).resolve()
        self.tau_ms = float(_checks.number("tau_ms", tau_ms, positive=True))
        self.rate = None if rate is None else float(_checks.number("rate", rate, positive=True))
        self.colour = colour
        how: dict[str, Any] = {
            "colour": colour,
            "crop": None if crop is None else tuple(crop),
            "size": None if size is None else tuple(size),
            "background": float(_checks.number("background", background)),
            "full_scale": None if full_scale is None else float(_checks.number("full_scale", full_scale)),
        }
        self._open = _Open(self.path, how)
        reader = self._open.reader()
        self._numbers = _chosen(clip, reader.count, self.path)
        super().__init__(self._times(reader, self.tau_ms), between)
        self.event_dims = 3 if colour else 2
        self._shape = reader.shape if colour else reader.shape[1:]
        self.full_scale = reader.depth if full_scale is None else float(full_scale)
        self.sha256 = reader.sha256()
        # Frames of floats may exceed their white. Only the first one is looked at, since others are not read yet.
        white = max(abs(reader.depth / self.full_scale), float(np.abs(reader.frame(self._numbers[0])).max()))
        self._white = torch.tensor(white, dtype=dtype)

    def _times(self, reader: MovieReader, tau_ms: float) -> tuple[float, ...]:
        """The times of the frames in membrane time constants, from zero on."""
        rate = self.rate
        if rate is None and reader.seconds is None and reader.rate is not None:
            rate = reader.rate / self._numbers.step
        if rate is not None:
            seconds = np.arange(len(self._numbers)) / rate
        elif reader.seconds is not None:
            seconds = reader.seconds[self._numbers.start : self._numbers.stop : self._numbers.step]
            seconds = seconds - seconds[0]
        else:
            raise ValueError(f"{self.path} does not say how fast its frames follow; a rate, per second, is wanted")
        return tuple((seconds * 1000 / tau_ms).tolist())

    @property
    def duration(self) -> float:
        """How long the movie lasts, in membrane time constants: the last frame counts as long as others on average."""
        last, count = self.frame_times[-1], len(self.frame_times)
        return last * count / (count - 1) if count > 1 else 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def frame(self, number: int) -> Tensor:
        pixels = self._open.reader().frame(self._numbers[number])
        return torch.tensor(pixels if self.colour else pixels[0], dtype=self.dtype, device=self.device)

    def size(self) -> Tensor:
        return self._white.expand(self.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        """The largest value of the frames, which has their dtype and device. The frames themselves have no gradient."""
        return (self._white,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (white,) = tensors
        self._white = white.detach()

    def parameters(self) -> dict[str, Any]:
        chosen = self._numbers
        return {
            "stimulus": "Movie",
            "path": str(self.path),
            "sha256": self.sha256,
            "rate": self.rate,
            "between": self.between,
            "clip": [chosen.start, chosen.stop, chosen.step],
            **{name: list(v) if isinstance(v, tuple) else v for name, v in self._open.how.items()},
            "full_scale": self.full_scale,
            "tau_ms": self.tau_ms,
        }


class _Open:
    """The open movie, which copies of a stimulus share.

    A process that was forked opens its own, because the two would share the place in the file. So does a stimulus that
    was pickled.
    """

    def __init__(self, path: Path, how: dict[str, Any]) -> None:
        self.path, self.how = path, how
        self._process = 0
        self._reader: MovieReader | None = None

    def reader(self) -> MovieReader:
        if self._reader is None or self._process != os.getpid():
            self._process, self._reader = os.getpid(), MovieReader(self.path, cache=_KEPT, **self.how)
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}


def _chosen(clip: Sequence[int | None], count: int, path: Path) -> range:
    """The numbers of the frames to take; ValueError where there are none such."""
    if len(clip) not in (2, 3):
        raise ValueError(f"clip is {tuple(clip)}; a first frame, an end, and if wanted a step, are wanted")
    start, stop, step = (*clip, 1)[:3]
    start, stop, step = start or 0, count if stop is None else stop, 1 if step is None else step
    if not 0 <= start < stop <= count or step < 1:
        raise ValueError(
            f"clip is {tuple(clip)}, but {path} has {count} frames; a start below the end, at most {count}, and a step "
            "of at least one are wanted"
        )
    return range(start, stop, step)
