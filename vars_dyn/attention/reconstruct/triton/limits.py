"""The sizes that the kernels take. They stand here so that they can be read without importing Triton."""

from __future__ import annotations

__all__ = ["NARROW", "SHARED", "WIDEST", "padded"]

#: The widest head and the most features that the kernels take.
WIDEST = (64, 128)
#: The shared memory, in bytes, that one program needs at the sizes of `WIDEST`.
SHARED = 144 << 10
#: The widest head and the most features for which half of `SHARED` holds all matrices at once.
NARROW = (32, 64)


def padded(size: int) -> int:
    """`size` rounded up to a power of two that is at least 16, as matrix products on the device require."""
    return max(16, 1 << (size - 1).bit_length())
