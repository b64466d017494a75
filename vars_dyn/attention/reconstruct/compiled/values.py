"""What the compiled loops work on. It can be imported without numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Code", "Geometry", "Kernels", "Slot"]

#: float32 or float64, all arrays of a call alike.
Array = NDArray[Any]


class Geometry(NamedTuple):
    """Where the pixels of images lie in a map, which is a row of numbers.

    Attributes:
        images: the number of images.
        lead: how many zeros come first, before every image, and last.
        stride: the distance of two images; each takes `lead` zeros and then its pixels, row by row.
        width: the distance of two rows of pixels, which have zeros between them.
        chunk: how many images are worked on at once.
        mask: 1 at the pixels of `chunk` images and 0 beside them, (chunk stride,).
    """

    images: int
    lead: int
    stride: int
    width: int
    chunk: int
    mask: Array

    @classmethod
    def of(cls, images: int, grid: tuple[int, int], kernel: tuple[int, int], dtype: Any) -> Geometry:
        """For images on a grid and kernels of odd sides."""
        down, across = (side // 2 for side in kernel)
        width = grid[1] + across
        lead = down * width + across
        stride = lead + grid[0] * width
        chunk = max(1, min(images, _LENGTH // stride))
        mask = np.zeros((chunk, stride), dtype)
        mask[:, lead:].reshape(chunk, grid[0], width)[..., : grid[1]] = 1
        return cls(images, lead, stride, width, chunk, mask.ravel())

    @property
    def length(self) -> int:
        """The length of a map."""
        return 2 * self.lead + self.images * self.stride


#: About how many numbers of a map are worked on at once.
_LENGTH = 1024


class Kernels(NamedTuple):
    """The kernels of P^T, (C, T, kh, kw), and those of P, which are flipped."""

    own: Array
    flipped: Array


class Slot(NamedTuple):
    """The signal in `maps` (C, slots, length) with this `number`, or none of them if it is negative."""

    maps: Array
    number: int


class Code(NamedTuple):
    """A code on the grid, with what ties it to prefix tokens. Both are empty if there are none.

    Attributes:
        maps: (C, T, length).
        sums: its sums over every image, (C, T, B).
        share: what is added to every entry of an image, (C, T, B).
    """

    maps: Array
    sums: Array
    share: Array
