"""Powers of two that bring numbers near one. Scaling by them loses nothing, so results keep their last bit."""

from __future__ import annotations

import torch
from torch import Tensor


def exponent(value: Tensor, event_dims: int) -> Tensor:
    """The integer e with 2^(e-1) <= max |value| < 2^e over the last `event_dims` dimensions; 0 where all is zero.

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

    The factor is applied in two halves, since 2^exponent itself may lie beyond the dtype.
    """
    half = torch.div(exponent, 2, rounding_mode="floor")
    one = torch.ones(exponent.shape, dtype=value.dtype, device=value.device)
    return value * torch.ldexp(one, half) * torch.ldexp(one, exponent - half)
