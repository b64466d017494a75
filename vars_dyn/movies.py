"""Movies, frame by frame: files of a camera, folders of images, and TIFFs of many pages.

A `MovieReader` gives any frame by its number, and holds only a few at a time, so that the memory does not grow with the
movie. Files of a camera want PyAV (`pip install 'vars_dyn[movies]'`), which decodes by frame number exactly: it gives
the time stamp of each frame and seeks by it. Readers that only step through a movie, as imageio does, cannot.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vars_dyn._reading import one_line, regular_file
from vars_dyn._resources import need_memory
from vars_dyn.images import IMAGE_SUFFIXES, Pages, Picture, crop, image_files, read_picture, resized

__all__ = ["MOVIE_SUFFIXES", "MovieReader", "frames", "is_movie", "pyav"]

#: The suffixes of files that hold movies, and the containers among which FFmpeg may find their format. Playlists, which
#: name other files, are not among them.
MOVIE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".y4m", ".gif")
_CONTAINERS = "mov,matroska,webm,avi,mpeg,mpegts,ogg,yuv4mpegpipe,gif"
#: A frame at most so far ahead is reached by decoding on, one further away by seeking.
_AHEAD = 32


def is_movie(path: Path) -> bool:
    """Whether a file is a movie: by its suffix, or a TIFF of several pages. A folder is none by itself."""
    if path.suffix.lower() in MOVIE_SUFFIXES:
        return True
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return False
    try:
        pages = Pages(path)
    except ValueError:
        return False  # whoever reads it as an image says what is wrong
    pages.close()
    return pages.count > 1


def frames(
    path: Path | str, start: int = 0, stop: int | None = None, step: int = 1, **how: Any
) -> Iterator[NDArray[np.float64]]:
    """The frames `start`, `start + step`, ... before `stop` of a movie; `how` are arguments of `MovieReader`."""
    with MovieReader(path, **how) as movie:
        yield from movie.frames(start, stop, step)


class MovieReader:
    """The frames of a movie, each an array (colour, row, column) in which 1 is the white of its depth.

    Args:
        path: a movie file, a folder whose image files are the frames in the order of the numbers in their names, or a
            TIFF of one or more pages.
        colour: whether to keep the colours. Otherwise frames are grey, as `read_image` makes them.
        crop: the part (top, left, height, width) of each frame to take, in pixels.
        size: the number of rows and columns to resize each frame to, after the crop.
        background: the grey behind transparent pixels, from 0 (black) to 1 (white).
        full_scale: the stored number that becomes 1; by default the white of the depth.
        cache: the number of frames that are kept, so that asking for one of them again costs nothing.

    Attributes:
        count: the number of frames.
        rate: frames per second; None where the file does not say.
        shape: the shape (colour, row, column) of a frame.
        depth: the stored number that stands for white.
        transparent: whether a frame that was read so far had transparent pixels.

    Which frames were asked for before changes nothing. A file of a camera is read through once, without decoding it, to
    find the time of each frame; these times take 16 bytes a frame. Raises ValueError, in one sentence, for what cannot
    be read, for frames of different sizes, and where PyAV is needed and is not there.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        colour: bool = False,
        crop: Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
        background: float = 1.0,
        full_scale: float | None = None,
        cache: int = 8,
    ) -> None:
        self.path = Path(path)
        self._colour, self._crop, self._size = colour, crop, size
        self._background, self._full_scale, self._most = background, full_scale, cache
        self._kept: OrderedDict[int, NDArray[np.float64]] = OrderedDict()
        self.transparent = False
        self._source = _source(self.path)
        self.count, self.rate = self._source.count, self._source.rate
        first = self._source.picture(0, colour=colour)
        self._stored_shape, self.depth = first.stored.shape, first.depth
        self.shape: tuple[int, ...] = self._keep(0, first).shape

    def frame(self, number: int) -> NDArray[np.float64]:
        """Frame `number`, counted from 0; ValueError where there is none. Do not write into the array."""
        if not 0 <= number < self.count:
            raise ValueError(f"frame {number} of {self.path} is wanted; it has {self.count}, counted from 0")
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        return self._keep(number, self._source.picture(number, colour=self._colour))

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[NDArray[np.float64]]:
        """The frames `start`, `start + step`, ... before `stop` (by default to the end), one at a time."""
        for number in range(start, self.count if stop is None else stop, step):
            yield self.frame(number)

    def _keep(self, number: int, picture: Picture) -> NDArray[np.float64]:
        """The frame made of a picture, which is kept in place of the one that was not asked for the longest."""
        if picture.stored.shape != self._stored_shape or picture.depth != self.depth:
            sides = " x ".join(str(n) for n in picture.stored.shape[1:])
            first = " x ".join(str(n) for n in self._stored_shape[1:])
            raise ValueError(
                f"frame {number} of {self.path} has {sides} pixels of depth {picture.depth:g}; {first} of "
                f"{self.depth:g}, as in frame 0, are wanted"
            )
        self.transparent = self.transparent or picture.alpha is not None
        made = picture.over(self._background, self._full_scale)
        made = made if self._crop is None else crop(made, self._crop)
        made = made if self._size is None else resized(made, *self._size)
        self._kept[number] = made
        while len(self._kept) > max(self._most, 1):
            self._kept.popitem(last=False)
        return made

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Source(ABC):
    """Where frames come from: their number, their rate, and each as it is stored."""

    count: int
    rate: float | None = None

    @abstractmethod
    def picture(self, number: int, *, colour: bool) -> Picture: ...

    @abstractmethod
    def close(self) -> None: ...


def _source(path: Path) -> _Source:
    if not path.exists():
        raise ValueError(f"{path} does not exist; a movie, a folder of images or a TIFF is wanted")
    if path.is_dir():
        return _Folder(path)
    if path.suffix.lower() in MOVIE_SUFFIXES:
        return _Video(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _Paged(path)
    raise ValueError(f"{path} is no movie; a file ending in {', '.join(MOVIE_SUFFIXES)}, .tif or .tiff is wanted")


class _Folder(_Source):
    """The image files of a folder. The numbers in their names order them, so that 10 comes after 9."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(image_files(folder), key=lambda file: _natural(file.name))
        self.count = len(self._files)

    def picture(self, number: int, *, colour: bool) -> Picture:
        return read_picture(self._files[number], colour=colour)

    def close(self) -> None:
        """Nothing is open."""


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [*((1, int(part)) if part.isdecimal() else (0, part) for part in parts), (0, name)]


class _Paged(_Source):
    """The pages of a TIFF."""

    def __init__(self, path: Path) -> None:
        self._pages = Pages(path)
        self.count = self._pages.count

    def picture(self, number: int, *, colour: bool) -> Picture:
        return self._pages.picture(number, colour=colour)

    def close(self) -> None:
        self._pages.close()


def pyav(what: str) -> ModuleType:
    """The module av; ValueError, which names `what` it is needed for, where it is not installed."""
    try:
        import av  # deferred: optional, the extra `movies`
    except ImportError:
        raise ValueError(f"{what} wants PyAV, which is not installed: pip install 'vars_dyn[movies]'") from None
    return av


class _Video(_Source):
    """A movie file, decoded by PyAV.

    Frames are known by their time stamps, which the packets tell without being decoded. Where packets have none, the
    frames are counted by decoding all of them, and a frame behind the present one is found by starting again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._av = pyav(f"{path}, a movie,")
        regular_file(path, "a movie")
        self._open()
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = float(rate) if rate else None
        with self._explained():
            self._stamps = self._indexed()
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

    def _indexed(self) -> list[int] | None:
        """The time stamps of all frames, in order; None where a packet has none, or where two agree."""
        stamps = []
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:  # the mark of the end, and frames that are cut away
                continue
            if packet.pts is None:
                return None
            stamps.append(int(packet.pts))
        stamps.sort()
        return stamps if len(set(stamps)) == len(stamps) else None

    def picture(self, number: int, *, colour: bool) -> Picture:
        with self._explained():
            return _picture(self._found(number), colour=colour)

    def _found(self, number: int) -> Any:
        if self._stamps is not None:
            if not 0 <= number - self._at <= _AHEAD:
                self._seek(number, self._stamps[number])
            found = self._next_at(self._stamps[number])
            if found is None:  # the index of the file led too far: decode from the start
                self._open()
                found = self._next_at(self._stamps[number])
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
