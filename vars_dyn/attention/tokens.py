"""Tokens and the grid they lie on: prefix tokens (class, register) first, then H x W image tokens, row by row."""

from __future__ import annotations

import math

from vars_dyn import _checks

__all__ = ["grid_pair", "grid_tokens"]


def grid_pair(grid_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """`grid_size` as (H, W), an integer standing for a square; ValueError for anything else."""
    if grid_size is None:
        return None
    pair = (grid_size, grid_size) if isinstance(grid_size, int) else tuple(grid_size)
    if len(pair) != 2:
        raise ValueError(f"grid_size is {grid_size!r}; an integer or (height, width) is wanted")
    return _checks.count("grid_size", pair[0]), _checks.count("grid_size", pair[1])


def grid_tokens(
    tokens: int, num_prefix_tokens: int | None, grid_size: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """(number of prefix tokens, (H, W)) of a sequence of `tokens` tokens.

    `grid_size` is the grid if it fits, otherwise its aspect ratio is (1 : 1 if None). With num_prefix_tokens=None the
    grid is the largest of that aspect ratio, and what is left over are prefix tokens. ValueError if no grid fits.
    """
    height, width = grid_size or (1, 1)
    if num_prefix_tokens is not None and tokens - num_prefix_tokens == height * width:
        return num_prefix_tokens, (height, width)
    common = math.gcd(height, width)
    height, width = height // common, width // common
    scale = math.isqrt(max(tokens - (num_prefix_tokens or 0), 0) // (height * width))
    rest = tokens - scale * scale * height * width
    if not scale or (num_prefix_tokens is not None and rest != num_prefix_tokens):
        prefix = "any number of" if num_prefix_tokens is None else num_prefix_tokens
        shape = "square grid" if height == width else f"{height} : {width} grid"
        raise ValueError(
            f"{tokens} tokens came, which are not {prefix} prefix tokens and a {shape}; "
            "give grid_size=(height, width) and num_prefix_tokens to the layer"
        )
    return rest, (scale * height, scale * width)
