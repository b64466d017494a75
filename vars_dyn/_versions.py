"""Whether tensors are still those that something was computed from."""

from __future__ import annotations

from torch import Tensor

__all__ = ["unchanged", "versions"]


def versions(tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, int]]:
    """The tensors with their versions; nothing for inference tensors, which do not count their changes."""
    try:
        return [(t, t._version) for t in tensors]
    except RuntimeError:
        return []


def unchanged(old: list[tuple[Tensor, int]], new: list[tuple[Tensor, int]]) -> bool:
    """Whether the tensors are the same and have not changed."""
    return len(old) == len(new) and all(a is b and v == w for (a, v), (b, w) in zip(old, new, strict=True))
