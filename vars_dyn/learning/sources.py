"""Where the signals of a training run come from: rows of arrays, streams, and patches of image files.

The batch of a step depends only on the seed and the step's number, so that a resumed run sees the same signals. No
source holds more than a fixed amount of memory, however large the corpus is.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.images import image_files, read_image
from vars_dyn.learning.preprocessing import Centre, Preparation

__all__ = ["ON_BAD", "Patches", "Rows", "Source", "Stream", "source_for"]

#: What to do with a signal or an image that holds NaN or infinity, or cannot be read.
ON_BAD = ("refuse", "skip")
#: Chunks of a zarr array that one batch is drawn from.
_CHUNKS = 8


@runtime_checkable
class Source(Protocol):
    """A supply of batches."""

    def batch(self, step: int, count: int, seed: int) -> NDArray[np.float64] | None:
        """`count` signals (count, *signal_shape) for the step of that number; None where a stream has ended.

        Steps are asked for in order, starting at any.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What the signals are, as plain data."""
        ...


class Rows:
    """Signals drawn at random, with replacement, from an array (n, *signal_shape), or a zarr array on disk.

    A batch from a zarr array comes from at most eight of its chunks, which are read one at a time.

    Args:
        values: a numpy array, a tensor, or a zarr array.
        on_bad: "refuse" raises ValueError for a signal that holds NaN or infinity, and names it; "skip" warns of it and
            draws another.
    """

    def __init__(self, values: Any, on_bad: str = "refuse") -> None:
        self.values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        shape = tuple(self.values.shape)
        if len(shape) < 2 or not all(shape):
            raise ValueError(f"signals have shape {shape}; (n, *signal_shape), none of them 0, is wanted")
        if np.dtype(self.values.dtype).kind not in "fiu":
            raise ValueError(f"signals have dtype {self.values.dtype}; real numbers are wanted")
        self.on_bad = _checks.choice("on_bad", on_bad, ON_BAD)
        self._told: set[int] = set()

    def batch(self, step: int, count: int, seed: int) -> NDArray[np.float64]:
        generator = np.random.default_rng((seed, step))
        good: list[NDArray[np.float64]] = []
        found = 0
        for _ in range(1000):
            index, rows = self._drawn(generator, count - found)
            keep = np.isfinite(rows).reshape(len(rows), -1).all(1)
            for number in index[~keep]:
                self._bad(int(number))
            good.append(rows[keep])
            found += int(keep.sum())
            if found == count:
                return np.concatenate(good)
        raise ValueError("nearly all signals hold NaN or infinity; finite numbers are wanted")

    def _drawn(self, generator: np.random.Generator, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        total = int(self.values.shape[0])
        if not isinstance(self.values, zarr.Array):
            index = generator.integers(total, size=count)
            return index, np.asarray(self.values[index], dtype=np.float64)
        length = self.values.chunks[0]
        chunks = -(-total // length)
        # A place anywhere in the array chooses a chunk, so that a short last chunk is not preferred.
        chosen = generator.integers(total, size=min(_CHUNKS, chunks, count)) // length
        parts, numbers = [], []
        for part, share in zip(chosen, np.array_split(np.arange(count), len(chosen)), strict=True):
            first, last = int(part) * length, min((int(part) + 1) * length, total)
            own = generator.integers(last - first, size=len(share))
            parts.append(np.asarray(self.values[first:last], dtype=np.float64)[own])
            numbers.append(first + own)
        return np.concatenate(numbers), np.concatenate(parts)

    def _bad(self, number: int) -> None:
        if self.on_bad == "refuse":
            raise ValueError(f"signal {number} holds NaN or infinity; finite numbers are wanted, or on_bad 'skip'")
        if number not in self._told:
            self._told.add(number)
            warnings.warn(f"signal {number} holds NaN or infinity and is skipped", stacklevel=4)

    def facts(self) -> dict[str, Any]:
        return {"signals": "rows", "signals_shape": list(self.values.shape), "on_bad": self.on_bad}


class Stream:
    """Signals in the order of an iterable, each of signal_shape, or several in an array (any, *signal_shape).

    Args:
        make: returns the iterable, from its start. A resumed run calls it again and skips what was seen, so it must
            give the same signals each time. An iterable that can be iterated anew, such as a list, does as well.
        signal_shape: the shape of one signal.
        on_bad: as in `Rows`.

    The training ends where the iterable does; signals that fill no batch are not used.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[Any]] | Iterable[Any],
        signal_shape: tuple[int, ...],
        on_bad: str = "refuse",
    ) -> None:
        self.make, self.signal_shape = make, tuple(signal_shape)
        self.on_bad = _checks.choice("on_bad", on_bad, ON_BAD)
        self._next = -1
        self._flow: Iterator[NDArray[np.float64]] = iter(())

    def batch(self, step: int, count: int, seed: int) -> NDArray[np.float64] | None:
        if step != self._next:
            self._flow = self._signals()
            for _ in range(step * count):
                if next(self._flow, None) is None:
                    return None
        self._next = step + 1
        found = list(itertools.islice(self._flow, count))
        return np.stack(found) if len(found) == count else None

    def _signals(self) -> Iterator[NDArray[np.float64]]:
        number = 0
        for item in self.make() if callable(self.make) else self.make:
            plain = item.detach().cpu().numpy() if isinstance(item, Tensor) else np.asarray(item)
            given = plain.shape
            if given[len(given) - len(self.signal_shape) :] != self.signal_shape:
                raise ValueError(f"the stream gave an array of shape {given}; (*any, *{self.signal_shape}) is wanted")
            for one in np.asarray(plain, dtype=np.float64).reshape(-1, *self.signal_shape):
                number += 1
                if np.isfinite(one).all():
                    yield one
                elif self.on_bad == "refuse":
                    raise ValueError(f"signal {number - 1} holds NaN or infinity; finite numbers are wanted")
                else:
                    warnings.warn(f"signal {number - 1} holds NaN or infinity and is skipped", stacklevel=2)

    def facts(self) -> dict[str, Any]:
        return {"signals": "stream", "on_bad": self.on_bad}


class Patches:
    """Square patches at random places of images of any size, from files, folders or arrays.

    At most `pool` images are in memory. A larger corpus is visited pool by pool, each drawn at random, and a pool
    serves `visits` steps. Within a pool every place is equally likely.

    Args:
        images: files, folders of them, or arrays (colour, row, column).
        size: the patch's side in pixels.
        colour: whether files are read in colour.
        image_steps: steps on each whole image, such as `OlshausenField()`.
        patch_steps: steps on the patches; by default their mean is subtracted.
        flat: whether a patch is a vector, for a dense dictionary; otherwise it is (colour, size, size).
        on_bad: "refuse" raises ValueError for an image that cannot be read, holds NaN or infinity or is smaller than a
            patch, and names it; "skip" warns of it once and goes on with the others.
        pool: the most images in memory.
        visits: the steps for which a pool stays.
    """

    def __init__(
        self,
        images: Sequence[Path | str | NDArray[Any]],
        size: int,
        *,
        colour: bool = False,
        image_steps: Sequence[Preparation] = (),
        patch_steps: Sequence[Preparation] = (Centre(),),
        flat: bool = True,
        on_bad: str = "refuse",
        pool: int = 16,
        visits: int = 50,
    ) -> None:
        self.images: list[Path | NDArray[Any]] = []
        for image in images:
            if isinstance(image, np.ndarray):
                self.images.append(image)
                continue
            path = Path(image)
            if not path.exists():
                raise ValueError(f"{path} does not exist; an image or a folder of images is wanted")
            self.images += image_files(path) if path.is_dir() else [path]
        if not self.images:
            raise ValueError("images is empty; at least one image is wanted")
        self.size, self.colour, self.flat = _checks.count("size", size), colour, flat
        self.image_steps, self.patch_steps = tuple(image_steps), tuple(patch_steps)
        self.on_bad = _checks.choice("on_bad", on_bad, ON_BAD)
        self.pool, self.visits = _checks.count("pool", pool), _checks.count("visits", visits)
        self._held: dict[int, NDArray[np.float64]] = {}
        self._bad: dict[int, str] = {}

    def batch(self, step: int, count: int, seed: int) -> NDArray[np.float64]:
        generator = np.random.default_rng((seed, step))
        return self._changed(self._cut(self._pool(step, seed), generator, count))

    def sample(self, count: int, seed: int) -> NDArray[np.float64]:
        """Patches before the patch steps, to estimate a whitening from: (count, colour, size, size)."""
        return self._cut(self._pool(0, seed), np.random.default_rng((seed, count, 1)), count)

    def _cut(self, pool: list[NDArray[np.float64]], generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        places = np.array([(i.shape[1] - self.size + 1) * (i.shape[2] - self.size + 1) for i in pool])
        chosen = generator.choice(len(pool), size=count, p=places / places.sum())
        cut = np.empty((count, pool[0].shape[0], self.size, self.size))
        for number, which in enumerate(chosen):
            image = pool[which]
            row = generator.integers(image.shape[1] - self.size + 1)
            column = generator.integers(image.shape[2] - self.size + 1)
            cut[number] = image[:, row : row + self.size, column : column + self.size]
        return cut

    def _changed(self, cut: NDArray[np.float64]) -> NDArray[np.float64]:
        for each in self.patch_steps:
            cut = each.apply(cut).values
        return cut.reshape(len(cut), -1) if self.flat else cut

    def _pool(self, step: int, seed: int) -> list[NDArray[np.float64]]:
        """The images of the pool that this step draws from; those of other pools leave the memory."""
        if len(self.images) <= self.pool:
            order: Sequence[int] = range(len(self.images))
        else:
            # Drawn with replacement one by one, and once each: the memory does not grow with the corpus.
            generator = np.random.default_rng((seed, step // self.visits, 2))
            order = generator.integers(len(self.images), size=50 * self.pool).tolist()
        wanted: dict[int, NDArray[np.float64]] = {}
        for number in order:
            if number in wanted:
                continue
            image = self._held.get(number)
            image = self._loaded(number) if image is None else image
            if image is not None:
                wanted[number] = image
            if len(wanted) == self.pool:
                break
        if not wanted:
            raise ValueError(f"none of {len(self.images)} images can be used, such as {next(iter(self._bad.values()))}")
        self._held = wanted
        return [wanted[number] for number in sorted(wanted)]

    def _loaded(self, number: int) -> NDArray[np.float64] | None:
        if number in self._bad:
            return None
        given = self.images[number]
        name = f"image {number}" if isinstance(given, np.ndarray) else str(given)
        try:
            read = read_image(given, colour=self.colour) if isinstance(given, Path) else np.asarray(given, np.float64)
            image = read[None] if read.ndim == 2 else read
            if image.ndim != 3:
                raise ValueError(f"{name} has shape {image.shape}; (colour, row, column) is wanted")
            if not np.isfinite(image).all():
                raise ValueError(f"{name} holds NaN or infinity; finite numbers are wanted")
            if min(image.shape[1:]) < self.size:
                raise ValueError(
                    f"{name} has {image.shape[1]} x {image.shape[2]} pixels; at least the patch of {self.size} x "
                    f"{self.size} is wanted"
                )
            for step in self.image_steps:
                image = step.apply(image).values
        except ValueError as error:
            if self.on_bad == "refuse":
                raise
            self._bad[number] = str(error)
            warnings.warn(f"skipped: {error}", stacklevel=5)
            return None
        return image

    def facts(self) -> dict[str, Any]:
        steps = [each.facts() for each in (*self.image_steps, *self.patch_steps)]
        return {
            "signals": "patches",
            "patch_size": self.size,
            "patch_colours": 3 if self.colour else 1,
            "image_count": len(self.images),
            "preparation": steps,
            "on_bad": self.on_bad,
            "pool": self.pool,
            "visits": self.visits,
        }


def source_for(signals: Any, signal_shape: tuple[int, ...]) -> Source:
    """A source of whatever a user gives: a source itself, an array, or an iterable of signals."""
    if hasattr(signals, "batch") and hasattr(signals, "facts"):
        return signals
    if isinstance(signals, (Tensor, np.ndarray, zarr.Array)):
        return Rows(signals)
    if isinstance(signals, Iterable) or callable(signals):
        return Stream(signals, signal_shape)
    raise ValueError(
        f"signals is {_checks.describe(signals)}; an array, a zarr array, an iterable of signals, or a source of "
        "vars_dyn.learning is wanted"
    )


def as_tensor(batch: NDArray[np.float64], like: Tensor) -> Tensor:
    """The batch in the dtype and on the device of `like`."""
    return torch.from_numpy(np.ascontiguousarray(batch)).to(like)
