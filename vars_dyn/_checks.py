"""Argument checks for the whole package; each raises an error of one sentence: what came and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn._suggestions import meant

#: The most characters of a value in an error message.
_LONGEST = 200


def describe(value: Any) -> str:
    """A short description of `value` for an error message."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape {shape}"
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


#: What public functions take in place of a tensor: arrays in their own dtype, and lists of numbers as float64.
Numbers = NDArray[Any] | Sequence[Any]


def tensor(name: str, value: Any) -> Tensor:
    """`value` as a tensor: itself, a copy of an array in its own dtype, or numbers in lists as float64; on the CPU.

    ValueError for anything else.
    """
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, (list, tuple)):
            return torch.tensor(value, dtype=torch.float64)
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C", copy=True))
    except (TypeError, ValueError, RuntimeError):
        kind = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
        wanted = "numbers in equal rows, or a tensor of them, are wanted"
        raise ValueError(f"{name} is a {type(value).__name__}{kind}; {wanted}") from None
    raise ValueError(f"{name} is a {type(value).__name__}; a torch.Tensor, or an array of numbers, is wanted")


def floating_tensor(name: str, value: Any) -> Tensor:
    """`value` as a real floating-point tensor of finite numbers, as by `tensor`; ValueError where it is none."""
    value = tensor(name, value)
    if not value.is_floating_point():
        raise ValueError(f"{name} is {describe(value)}; a real floating-point dtype is wanted")
    # If the sum is finite, so is every entry, and a sum is much faster than a look at each. A sum may overflow, though.
    if not math.isfinite(value.detach().sum().item()) and not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} holds NaN or infinite entries; finite numbers are wanted")
    return value


def number(name: str, value: float | Tensor, *, positive: bool = False, nonnegative: bool = False) -> float | Tensor:
    """`value` if it is a finite number (or a zero-dimensional tensor) of the wanted sign; ValueError otherwise."""
    if isinstance(value, Tensor):
        if value.ndim != 0 or not value.is_floating_point():
            raise ValueError(f"{name} is {describe(value)}; a number or a zero-dimensional floating tensor is wanted")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {describe(value)}; a number is wanted")
    found = plain(value)
    if not math.isfinite(found):
        raise ValueError(f"{name} is {found}; a finite number is wanted")
    if positive and found <= 0:
        raise ValueError(f"{name} is {found}; a number above zero is wanted")
    if nonnegative and found < 0:
        raise ValueError(f"{name} is {found}; a number of at least zero is wanted")
    return value


def sequence(name: str, value: Any, each: str) -> Any:
    """`value` if it has a length, such as a list; ValueError, which says what it has one of, otherwise."""
    if isinstance(value, str) or not hasattr(value, "__len__") or (isinstance(value, Tensor) and not value.ndim):
        raise ValueError(f"{name} is {describe(value)}; a sequence with one for each {each} is wanted")
    return value


def rate(name: str, value: Any) -> float:
    """`value` if it is a number in [0, 1], such as a dropout rate; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {describe(value)}; a number from 0 to 1 is wanted")
    return value


def plain(value: float | Tensor) -> float:
    """The value of a constant as a float, whether it is a number or a tensor."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def count(name: str, value: Any, *, least: int = 1) -> int:
    """`value` if it is an integer of at least `least`; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {describe(value)}; an integer of at least {least} is wanted")
    return value


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """`value` if it is one of `options`; ValueError otherwise."""
    if value not in options:
        raise ValueError(f"{name} is {describe(value)}; one of {', '.join(options)} is wanted{meant(value, options)}")
    return value


def trailing(name: str, value: Tensor, event: tuple[int, ...], batch: tuple[int, ...] = ()) -> Tensor:
    """`value` if its shape is (*any, *event), or (*batch, n, *event) where `batch` is given; ValueError otherwise."""
    shape = tuple(value.shape)
    wanted = f"(*{batch}, n, *{event})" if batch else f"(*any, *{event})"
    lead = shape[: len(shape) - len(event)]
    fits = len(shape) >= len(event) and shape[len(shape) - len(event) :] == event
    if batch:
        fits = fits and len(lead) == len(batch) + 1 and lead[: len(batch)] == batch
    if not fits:
        raise ValueError(f"{name} has shape {shape}; {wanted} is wanted")
    return value


def same_kind(name: str, value: Tensor, like: Tensor, of: str) -> Tensor:
    """`value` if it has the dtype and the device of `like`; ValueError otherwise."""
    if value.dtype != like.dtype:
        raise ValueError(f"{name} is {value.dtype} but {of} is {like.dtype}; convert one of them so that they agree")
    if value.device != like.device:
        raise ValueError(
            f"{name} is on {value.device} but {of} is on {like.device}; move one of them so that they agree"
        )
    return value


def full_precision(name: str, value: Tensor) -> Tensor:
    """`value` if it is float32 or float64; ValueError otherwise."""
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} is {value.dtype}; torch.float32 or torch.float64 is wanted")
    return value
