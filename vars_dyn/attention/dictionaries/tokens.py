"""Tokens and their grid: prefix tokens (class, register) come first, then H x W image tokens, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vars_dyn import _checks

__all__ = ["Grid", "exact_layout", "grid_pair", "grid_tokens"]

Grid = tuple[int, int]


def grid_pair(grid_size: int | tuple[int, int] | None) -> Grid | None:
    """`grid_size` as (H, W). An integer stands for a square. Anything else but a pair or None raises ValueError."""
    if grid_size is None:
        return None
    pair = (grid_size, grid_size) if isinstance(grid_size, int) else grid_size
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"grid_size is {grid_size!r}; an integer or (height, width) is wanted")
    return _checks.count("grid_size", pair[0]), _checks.count("grid_size", pair[1])


def exact_layout(tokens: int, num_prefix_tokens: int | None, grid: Grid) -> tuple[int, Grid]:
    """(number of prefix tokens, `grid`) of a sequence of `tokens` tokens on a grid that is known.

    With num_prefix_tokens=None, all tokens that do not fit on the grid are prefix tokens. Raises ValueError if the
    numbers do not fit, for example because patches were dropped.
    """
    rest = tokens - grid[0] * grid[1]
    if rest < 0 or (num_prefix_tokens is not None and rest != num_prefix_tokens):
        raise ValueError(_misfit(tokens, num_prefix_tokens, f"a {grid[0]} x {grid[1]} grid"))
    return rest, grid


def grid_tokens(tokens: int, num_prefix_tokens: int | None, grid: Grid | None) -> tuple[int, Grid]:
    """(number of prefix tokens, (H, W)) of a sequence of `tokens` tokens if only the layer's own `grid` is known.

    None stands for a square. With num_prefix_tokens=None the grid is the largest that the tokens allow, and the tokens
    left over are prefix tokens. A given `grid` has to be that largest one. Raises ValueError if the tokens do not fit.
    """
    if grid is not None and num_prefix_tokens is not None:
        return exact_layout(tokens, num_prefix_tokens, grid)
    height, width = grid or (1, 1)
    common = math.gcd(height, width)
    height, width = height // common, width // common
    scale = math.isqrt(max(tokens - (num_prefix_tokens or 0), 0) // (height * width))
    rest = tokens - scale * scale * height * width
    found = (scale * height, scale * width)
    if not scale or (num_prefix_tokens is not None and rest != num_prefix_tokens) or grid not in (None, found):
        shape = "a square grid" if grid is None else f"a {grid[0]} x {grid[1]} grid"
        raise ValueError(_misfit(tokens, num_prefix_tokens, shape))
    return rest, found


def _misfit(tokens: int, num_prefix_tokens: int | None, grid: str) -> str:
    prefix = "some" if num_prefix_tokens is None else num_prefix_tokens
    return (
        f"{tokens} tokens came, which are not {prefix} prefix tokens and {grid}; a static dictionary wants all tokens "
        "of a grid that it is told: give grid_size=(height, width) and num_prefix_tokens, or take a dynamic dictionary"
    )
