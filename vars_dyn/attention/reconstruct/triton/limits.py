"""The sizes that the kernels take, known without Triton."""

from __future__ import annotations

__all__ = ["NARROW", "SHARED", "WIDEST"]

#: The widest head and the most features that the kernels take, ...
WIDEST = (64, 128)
#: ... for which they want this much shared memory for a program, in bytes, ...
SHARED = 144 << 10
#: ... and those for which half as much will do, and hold all matrices at once.
NARROW = (32, 64)
