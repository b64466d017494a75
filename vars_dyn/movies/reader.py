"""Read a movie frame by frame."""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vars_dyn.images import IMAGE_SUFFIXES, Pages, Picture, crop, resized
from vars_dyn.movies.source import MOVIE_SUFFIXES, Source
from vars_dyn.movies.stills import Folder, Paged
from vars_dyn.movies.video import Video

__all__ = ["MovieReader", "frames", "is_movie"]


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
        seconds: the time of each frame after the first one's, in seconds; None where the file does not say.
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
        # A stimulus keeps its reader open for as long as it lives.
        self._closing = weakref.finalize(self, self._source.close)
        self.count, self.rate, self.seconds = self._source.count, self._source.rate, self._source.seconds
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

    def sha256(self) -> str:
        """SHA-256 of the file; for a folder that of the names and hashes of its frames, in their order."""
        files = self._source.files
        if not self.path.is_dir():
            return _sha256(files[0])
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.name}\0{_sha256(file)}\0".encode())
        return total.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from None


def _source(path: Path) -> Source:
    if not path.exists():
        raise ValueError(f"{path} does not exist; a movie, a folder of images or a TIFF is wanted")
    if path.is_dir():
        return Folder(path)
    if path.suffix.lower() in MOVIE_SUFFIXES:
        return Video(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Paged(path)
    raise ValueError(f"{path} is no movie; a file ending in {', '.join(MOVIE_SUFFIXES)}, .tif or .tiff is wanted")
