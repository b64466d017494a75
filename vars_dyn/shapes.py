"""Values of which each signal has one, and the shapes of flattened batches of signals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary

__all__ = ["expand_trailing", "flat_lead", "per_signal"]


def flat_lead(dictionary: Dictionary, batch: tuple[int, ...]) -> tuple[tuple[int, ...], Dictionary]:
    """The leading shape of flattened signals, (signals,) or (elements, n), and the dictionary, flattened alike."""
    if not dictionary.batch_shape:
        return (math.prod(batch),), dictionary
    elements = math.prod(dictionary.batch_shape)
    flat = dictionary.select(torch.arange(elements, device=dictionary.device))
    return (elements, batch[-1]), flat


def per_signal(name: str, value: float | Tensor, batch: tuple[int, ...], like: Tensor) -> Tensor:
    """`value` as a tensor of shape `batch`.

    `value` is a number of at least zero, or a tensor with one per signal; anything else raises ValueError.
    """
    if isinstance(value, Tensor) and value.ndim:
        _checks.floating_tensor(name, value)
        _checks.same_kind(name, value, like, "x")
        if tuple(value.shape) != batch:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; a number or one per signal, {batch}, is wanted")
        if not bool((value.detach() >= 0).all()):
            raise ValueError(f"{name} holds negative entries; numbers of at least zero are wanted")
        return value
    _checks.number(name, value, nonnegative=True)
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(batch)


def expand_trailing(value: Tensor, dims: int) -> Tensor:
    """`value` with `dims` dimensions of size one appended."""
    return value.reshape(*value.shape, *(1,) * dims)
