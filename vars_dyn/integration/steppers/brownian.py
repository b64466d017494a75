"""Brownian motion as a function of seed, signal, unit and time.

Every time constant is a cell. The increment over a cell, and the middle of every dyadic piece of it given its ends, are
normal numbers that a counter-based generator (Philox 4x64, Salmon et al., SC 2011) gives for the key (seed) and the
counter (signal and unit, level, position, cell). So W(t) can be asked for at any time and in any order, with the same
bits: Levy's construction, as in the virtual Brownian tree of Li et al. (AISTATS 2020), with random access. Numbers are
drawn on the CPU, so that a GPU sees the same path.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DEPTH", "Brownian"]

#: Pieces of a cell are halved this often at most; inside the last ones the path is a straight line.
DEPTH = 26

_KEY = 0x766172735F64796E


class Brownian:
    """The paths of some signals' units.

    Args:
        seed: the seed.
        part: a number that tells the parts of a state apart.
        paths: the number of every signal's path.
        units: the number of units of a signal.
    """

    def __init__(self, seed: int, part: int, paths: Sequence[int] | range, units: int) -> None:
        self.seed, self.part, self.units = seed, part, units
        self._runs = list(_runs(paths))
        #: The middles on the way to the time that was asked for last: cell, level, position and value.
        self._way: dict[tuple[int, int, int], NDArray[np.float64]] = {}

    def increment(self, start: float, end: float) -> Tensor:
        """W(end) - W(start), of shape (signals, units) and float64."""
        first, last = math.floor(start), math.floor(end)
        before = self._inside(first, start - first)
        for cell in range(first, last):
            before = before - self._normal(cell, 0, 0)
        return torch.from_numpy(self._inside(last, end - last) - before)

    def _inside(self, cell: int, share: float) -> NDArray[np.float64]:
        """The path at `share` of a cell, from zero at its start."""
        low, high, position = 0.0, 1.0, 0
        left = np.zeros((sum(count for _, count in self._runs), self.units))
        if share == 0:
            return left
        right = self._kept((cell, 0, 0), functools.partial(self._normal, cell, 0, 0))
        way = {(cell, 0, 0): right}
        for level in range(1, DEPTH + 1):
            key, middle = (cell, level, position), (low + high) / 2
            spread = 0.5 * math.sqrt(high - low)
            middle_of = functools.partial(self._middle, left, right, spread, key)
            at = self._kept(key, middle_of)
            way[key] = at
            if share == middle:
                self._way = way
                return at
            position *= 2
            if share < middle:
                high, right = middle, at
            else:
                low, left, position = middle, at, position + 1
        self._way = way
        return left + (right - left) * ((share - low) / (high - low))

    def _middle(
        self, left: NDArray[np.float64], right: NDArray[np.float64], spread: float, key: tuple[int, int, int]
    ) -> NDArray[np.float64]:
        return 0.5 * (left + right) + spread * self._normal(*key)

    def _kept(self, key: tuple[int, int, int], compute: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        found = self._way.get(key)
        return compute() if found is None else found

    def _normal(self, cell: int, level: int, position: int) -> NDArray[np.float64]:
        """Standard normal numbers of shape (signals, units) for a node of the tree."""
        from scipy.special import ndtri  # deferred: only noise needs it

        blocks = -(-self.units // 4)
        rows = []
        for first, count in self._runs:
            counter = np.array([first * blocks, level + (self.part << 8), position, cell % 2**64], dtype=np.uint64)
            generator = np.random.Philox(key=np.array([self.seed, _KEY], dtype=np.uint64), counter=counter)
            raw = generator.random_raw(count * blocks * 4).reshape(count, blocks * 4)[:, : self.units]
            rows.append((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54)
        return ndtri(np.concatenate(rows)) if rows else np.zeros((0, self.units))


def _runs(paths: Sequence[int] | range) -> Iterator[tuple[int, int]]:
    """The first number and the length of every run of consecutive numbers."""
    for _, group in itertools.groupby(enumerate(paths), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in group]
        yield numbers[0], len(numbers)
