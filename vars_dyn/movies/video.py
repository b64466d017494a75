"""Movies of cameras: files that PyAV decodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vars_dyn._reading import one_line, regular_file
from vars_dyn._resources import need_memory
from vars_dyn.images import Picture
from vars_dyn.movies.source import Source

__all__ = ["Video", "pyav"]

#: The containers among which FFmpeg may find a file's format. Playlists, which name other files, are not among them.
_CONTAINERS = "mov,matroska,webm,avi,mpeg,mpegts,ogg,yuv4mpegpipe,gif"
#: A frame at most so far ahead is reached by decoding on, one further away by seeking.
_AHEAD = 32


def pyav(what: str) -> ModuleType:
    """The module av; ValueError, which names `what` it is needed for, where it is not installed."""
    try:
        import av  # deferred: optional, the extra `movies`
    except ImportError:
        raise ValueError(f"{what} wants PyAV, which is not installed: pip install 'vars_dyn[movies]'") from None
    return av


class Video(Source):
    """A movie file, decoded by PyAV.

    Frames are known by their time stamps, which the packets tell without being decoded. Where packets have none, the
    frames are counted by decoding all of them, and a frame behind the present one is found by starting again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.files = path, [path]
        self._av = pyav(f"{path}, a movie,")
        regular_file(path, "a movie")
        self._open()
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = float(rate) if rate else None
        with self._explained():
            self._stamps = self._indexed()
            self.seconds = self._timed()
            self._open()
            self.count = len(self._stamps) if self._stamps is not None else sum(1 for _ in self._decoded)
        if not self.count:
            raise ValueError(f"{path} holds no frame; a movie with at least one is wanted")
        self._open()

    def _open(self) -> None:
        """Open the file, or open it again at its start."""
        self.close()
        with self._explained():
            options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
            self._container = self._av.open(str(self._path.resolve()), options=options)
            if not self._container.streams.video:
                raise ValueError("it holds no moving picture")
            self._stream = self._container.streams.video[0]
            context = self._stream.codec_context
            need = 8.0 * 6 * context.width * context.height * 3
            need_memory(need, f"a movie of {context.width} x {context.height} pixels", "a smaller one is wanted")
            self._decoded = self._container.decode(self._stream)
            self._at = 0

    def _indexed(self) -> NDArray[np.int64] | None:
        """The time stamps of all frames, in order; None where a packet has none, or where two agree."""
        stamps = []
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:  # the mark of the end, and frames that are cut away
                continue
            if packet.pts is None:
                return None
            stamps.append(int(packet.pts))
        found = np.unique(np.array(stamps, dtype=np.int64))
        return found if len(found) == len(stamps) else None

    def _timed(self) -> NDArray[np.float64] | None:
        """The time of each frame after the first, in seconds; None where the frames have no time stamps."""
        base = self._stream.time_base
        if self._stamps is None or base is None or not len(self._stamps):
            return None
        return (self._stamps - self._stamps[0]) * float(base)

    def picture(self, number: int, *, colour: bool) -> Picture:
        with self._explained():
            return _picture(self._found(number), colour=colour)

    def _found(self, number: int) -> Any:
        if self._stamps is not None:
            if not 0 <= number - self._at <= _AHEAD:
                self._seek(number, int(self._stamps[number]))
            found = self._next_at(int(self._stamps[number]))
            if found is None:  # the index of the file led too far: decode from the start
                self._open()
                found = self._next_at(int(self._stamps[number]))
            if found is None:
                raise ValueError(f"its frame {number} cannot be decoded")
            self._at = number + 1
            return found
        if number < self._at:
            self._open()
        for found in self._decoded:
            self._at += 1
            if self._at == number + 1:
                return found
        raise ValueError(f"its frame {number} cannot be decoded")

    def _next_at(self, stamp: int) -> Any:
        """Decode up to the frame of that time stamp; None where a later one, or the end, comes first."""
        for frame in self._decoded:
            if frame.pts == stamp:
                return frame
            if frame.pts is not None and frame.pts > stamp:
                return None
        return None

    def _seek(self, number: int, stamp: int) -> None:
        """Go to the last frame, not after `number`, from which decoding can start."""
        if number <= _AHEAD:
            self._open()
            return
        try:
            self._decoded.close()
            self._container.seek(stamp, stream=self._stream)
            self._decoded = self._container.decode(self._stream)
        except self._av.FFmpegError:
            self._open()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of FFmpeg into a ValueError of one sentence."""
        try:
            yield
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # for a damaged file PyAV raises errors of many types
            reason = getattr(error, "strerror", None) or one_line(error) or type(error).__name__
            raise ValueError(f"{self._path} cannot be read as a movie: {reason}") from None

    def close(self) -> None:
        if hasattr(self, "_decoded"):
            self._decoded.close()  # before its container, which it refers to
            del self._decoded, self._stream
        if hasattr(self, "_container"):
            self._container.close()
            del self._container


def _picture(frame: Any, *, colour: bool) -> Picture:
    """A decoded frame as the numbers that it stores, turned upright. Grey is that of ITU-R 601-2, as for images."""
    kind = frame.format
    deep = max((part.bits for part in kind.components), default=8) > 8
    depth = 65535.0 if deep else 255.0
    if kind.name.startswith("gray"):
        grey = frame.to_ndarray(format="gray16le" if deep else "gray").astype(np.float64)
        stored, alpha = np.repeat(grey[None], 3 if colour else 1, axis=0), None
    else:
        clear = any(part.is_alpha for part in kind.components)
        form = ("rgba64le" if clear else "rgb48le") if deep else ("rgba" if clear else "rgb24")
        pixels = np.moveaxis(frame.to_ndarray(format=form).astype(np.float64), -1, 0)
        alpha = pixels[3] / depth if clear and bool((pixels[3] < depth).any()) else None
        stored = pixels[:3]
        if not colour:
            grey = np.tensordot(np.array([0.299, 0.587, 0.114]), stored, 1)
            stored = (grey if deep else np.round(grey))[None]
    turns = round((getattr(frame, "rotation", 0) or 0) / 90)
    if turns % 4:
        stored = np.rot90(stored, turns, axes=(1, 2)).copy()
        alpha = None if alpha is None else np.rot90(alpha, turns).copy()
    return Picture(np.ascontiguousarray(stored), depth, alpha)
