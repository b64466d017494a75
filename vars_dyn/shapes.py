"""Values of which each signal has one, and the shapes of flattened batches of signals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary

__all__ = [
    "checked_ridge",
    "expand_trailing",
    "flat_lead",
    "flat_per_atom",
    "flat_spread",
    "per_atom",
    "per_signal",
    "refuse_negative",
    "spread",
]


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
    number = _checks.number(name, value, nonnegative=True)  # type: ignore[arg-type]  # it refuses a text
    if not isinstance(number, Tensor):
        return like.new_full((), number).expand(batch)
    return number.to(dtype=like.dtype, device=like.device).expand(batch)


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


def spread(
    name: str, value: Tensor, event: tuple[int, ...], batch: tuple[int, ...], like: Tensor, unit: str = "atom"
) -> Tensor:
    """`value`, one per signal, one per unit, or one for both, as a tensor that broadcasts against (*batch, *event).

    A value of the signals' batch shape has one per signal, and becomes (*batch, 1, ...). All others must broadcast
    against the units' `event`, or against (*batch, *event). Raises ValueError for anything else, for numbers that are
    not finite, and for a shape that can be read in two ways.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} is {_checks.describe(value)}; a number or a floating tensor is wanted")
    _checks.same_kind(name, value, like, "x")
    if not bool(value.detach().isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite entries; numbers are wanted")
    shape, alone = tuple(value.shape), (1,) * len(event)
    if shape == batch:
        if _fits(shape, event) and value.numel() > 1:
            raise ValueError(
                f"{name} has shape {shape}, that of the signals' batch and of the {unit}s; {(*batch, *alone)} for one "
                f"per signal or {(1, *shape)} for one per {unit} is wanted"
            )
        return expand_trailing(value, len(event))
    if shape[-len(event) :] != alone and all(n == 1 for n in shape[: -len(event)]):
        value, shape = value.reshape(shape[-len(event) :]), shape[-len(event) :]  # the same for all signals
    if value.ndim <= len(event) and _fits(shape, event):
        return value.expand(event)
    if value.ndim > len(event) and _fits(shape, (*batch, *event)):
        return value.expand(*batch, *(alone if shape[-len(event) :] == alone else event))
    raise ValueError(
        f"{name} has shape {shape}; one number per {unit}, {event}, one per signal, {batch}, or one per signal and "
        f"{unit}, {(*batch, *event)}, is wanted"
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape can be expanded to the other."""
    ends = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(n in (1, m) for n, m in ends)


def flat_spread(value: float | Tensor, dims: int, lead: tuple[int, ...]) -> float | Tensor:
    """A number, or a value of `spread` for units of `dims` dimensions, for signals whose batch is flattened to `lead`.

    Numbers stay as they are.
    """
    if not isinstance(value, Tensor) or value.ndim <= dims:
        return value
    return value.reshape(*lead, *value.shape[-dims:])


def checked_ridge(
    ridge: float | Tensor, code_shape: tuple[int, ...], batch: tuple[int, ...], like: Tensor
) -> float | Tensor:
    """`ridge` as a number, or as `spread` expands it; ValueError where it is negative, not finite, or does not fit."""
    if not isinstance(ridge, Tensor) or not ridge.ndim:
        return _checks.number("ridge", ridge, nonnegative=True)
    ridge = spread("ridge", ridge, code_shape, batch, like)
    refuse_negative(ridge)
    return ridge


def refuse_negative(ridge: float | Tensor) -> None:
    """ValueError for a ridge that is not finite or below zero, which a change of its tensor may have made it."""
    if not isinstance(ridge, Tensor) or not ridge.ndim:
        _checks.number("ridge", ridge, nonnegative=True)
    elif not bool(((ridge.detach() >= 0) & ridge.detach().isfinite()).all()):
        raise ValueError("ridge holds entries that are negative or not finite; numbers of at least zero are wanted")


def flat_per_atom(value: Tensor | None, code_shape: tuple[int, ...], lead: tuple[int, ...]) -> Tensor | None:
    """A value of `per_atom` for signals whose batch is flattened to `lead`."""
    if value is None or value.ndim == len(code_shape):
        return value
    return value.reshape(*lead, *code_shape)


def expand_trailing(value: Tensor, dims: int) -> Tensor:
    """`value` with `dims` dimensions of size one appended."""
    return value.reshape(*value.shape, *(1,) * dims)
