"""The sizes that the kernels take. They stand here so that they can be read without importing Triton."""

from __future__ import annotations

__all__ = ["NARROW", "SHARED", "WIDEST"]

#: The widest head and the most features that the kernels take.
WIDEST = (64, 128)
#: The shared memory, in bytes, that one program needs at the sizes of `WIDEST`.
SHARED = 144 << 10
#: The widest head and the most features for which half of `SHARED` holds all matrices at once.
NARROW = (32, 64)
