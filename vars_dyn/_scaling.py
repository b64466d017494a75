"""Powers of two that bring numbers near one. Scaling by them rounds nothing, so results keep their last bit."""

from __future__ import annotations

import torch
from torch import Tensor


def exponent(value: Tensor, event_dims: int) -> Tensor:
    """The integer e with 2^(e-1) <= max |value| < 2^e over the last `event_dims` dimensions; 0 where all are zero.

    Shape: that of `value` without its event dimensions; dtype int32.
    """
    largest = value.detach().abs()
    if event_dims:
        if not largest.numel():
            return torch.zeros(value.shape[: value.ndim - event_dims], dtype=torch.int32, device=value.device)
        largest = largest.flatten(-event_dims).amax(-1)
    return torch.frexp(largest).exponent


def scaled(value: Tensor, exponent: Tensor) -> Tensor:
    """value 2^exponent, for an integer tensor that broadcasts against `value`; exact while the result is normal.

    The factor is applied in three parts, because 2^exponent itself may lie beyond the dtype: the sum of a signal's and
    a dictionary's exponents may reach twice its range.
    """
    third = torch.div(exponent, 3, rounding_mode="floor")
    one = torch.ones(exponent.shape, dtype=value.dtype, device=value.device)
    part = torch.ldexp(one, third)
    return value * part * part * torch.ldexp(one, exponent - 2 * third)


def by_power(value: Tensor, power: int) -> Tensor:
    """`value` times two to the `power`, the same for all entries."""
    return scaled(value, torch.tensor(power, dtype=torch.int32, device=value.device)) if power else value


def largest(value: Tensor, event_dims: int | None = None) -> Tensor:
    """max |value| over the last `event_dims` dimensions, or over all for None; zero where there are no entries.

    The result is cut from the graph.
    """
    value = value.detach()
    dims = tuple(range(-(value.ndim if event_dims is None else event_dims), 0))
    if not dims or not value.numel():
        return value.abs() if not dims else value.new_zeros(value.shape[: value.ndim - len(dims)])
    if len(dims) == value.ndim:
        low, high = torch.aminmax(value)
        return torch.maximum(-low, high)
    return torch.maximum(value.amax(dims), -value.amin(dims))


def within(exponent: Tensor, dtype: torch.dtype) -> bool:
    """Whether numbers of these exponents, their squares and the products of two lie well within the dtype's range."""
    limit = 100 if dtype == torch.float64 else 16
    return bool((exponent.abs() <= limit).all())
