"""The precision in which a layer computes between its projections."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["full_precision", "working"]


def working(x: Tensor) -> Tensor:
    """`x` in the precision of features, Gram matrices and thresholds: half precision becomes float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which autocast is off on the device of `x`. The meta device has no autocast to turn off."""
    return nullcontext() if x.is_meta else torch.autocast(device_type=x.device.type, enabled=False)
