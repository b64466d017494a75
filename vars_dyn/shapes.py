"""Values of which each signal has one, and the shapes of flattened batches of signals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary

__all__ = ["expand_trailing", "flat_lead", "flat_per_atom", "per_atom", "per_signal"]


def flat_lead(dictionary: Dictionary, batch: tuple[int, ...]) -> tuple[tuple[int, ...], Dictionary]:
    """The leading shape of flattened signals, (signals,) or (elements, n), and the dictionary, flattened alike."""
    if not dictionary.batch_shape:
        return (math.prod(batch),), dictionary
    elements = math.prod(dictionary.batch_shape)
    flat = dictionary.select(torch.arange(elements, device=dictionary.device))
    return (elements, batch[-1]), flat


def per_signal(name: str, value: float | Tensor | _checks.Numbers, batch: tuple[int, ...], like: Tensor) -> Tensor:
    """`value` as a tensor of shape `batch`.

    `value` is a number of at least zero, or a tensor with one per signal; anything else raises ValueError.
    """
    if not isinstance(value, (str, int, float, Tensor)) and value is not None:
        value = _checks.floating_tensor(name, value)
    if isinstance(value, Tensor) and value.ndim:
        value = _checks.floating_tensor(name, value)
        _checks.same_kind(name, value, like, "x")
        if tuple(value.shape) != batch:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; a number or one per signal, {batch}, is wanted")
        if not bool((value.detach() >= 0).all()):
            raise ValueError(f"{name} holds negative entries; numbers of at least zero are wanted")
        return value
    _checks.number(name, value, nonnegative=True)  # type: ignore[arg-type]  # it refuses a text
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(batch)


def per_atom(
    name: str,
    value: Tensor | _checks.Numbers,
    code_shape: tuple[int, ...],
    batch: tuple[int, ...],
    like: Tensor,
    *,
    finite: bool = True,
    unit: str = "atom",
) -> Tensor:
    """`value`, expanded to `code_shape`, or to (*batch, *code_shape) where it has more dimensions.

    Anything else raises ValueError. Where `finite` is False, entries may be infinite, but not NaN. Units of another
    kind than atoms are named by `unit`, and have their own shape in place of `code_shape`.
    """
    if not isinstance(value, (str, int, float)) and value is not None:
        value = _checks.tensor(name, value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} is {_checks.describe(value)}; a floating tensor with one number per {unit} is wanted")
    _checks.same_kind(name, value, like, "x")
    bad = value.detach().isnan() if not finite else ~value.detach().isfinite()
    if bool(bad.any()):
        raise ValueError(f"{name} holds NaN{' or infinite' if finite else ''} entries; numbers are wanted")
    wanted = code_shape if value.ndim <= len(code_shape) else (*batch, *code_shape)
    try:
        return value.expand(wanted)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; one number per {unit}, {code_shape}, or one per signal and "
            f"{unit}, {(*batch, *code_shape)}, is wanted"
        ) from None


def flat_per_atom(value: Tensor | None, code_shape: tuple[int, ...], lead: tuple[int, ...]) -> Tensor | None:
    """A value of `per_atom` for signals whose batch is flattened to `lead`."""
    if value is None or value.ndim == len(code_shape):
        return value
    return value.reshape(*lead, *code_shape)


def expand_trailing(value: Tensor, dims: int) -> Tensor:
    """`value` with `dims` dimensions of size one appended."""
    return value.reshape(*value.shape, *(1,) * dims)
