"""A value over time, and how values are read at a moment."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vars_dyn import _checks

__all__ = [
    "Course",
    "Ramp",
    "Value",
    "amplified",
    "checked_value",
    "described",
    "knots",
    "ramp_at",
    "replaced",
    "tensor_of",
]


@dataclass(frozen=True, eq=False)
class Course:
    """A value given at times: held until the next time, or joined by straight lines.

    Before the first time it has the first value, after the last time the last value.

    Args:
        times: (k,) increasing numbers, in membrane time constants.
        values: (k,), or (k, n) with one value per unit. A tensor may require gradients.
        between: "hold" keeps each value until the next time; "linear" joins them.

    Raises ValueError for times that do not increase, numbers that are not finite, and shapes that do not fit.
    """

    times: Sequence[float] | Tensor
    values: Sequence[Any] | Tensor
    between: str = "hold"

    def __post_init__(self) -> None:
        _checks.choice("between", self.between, ("hold", "linear"))
        times = tuple(float(t) for t in self.times)
        if not times or any(not a < b for a, b in itertools.pairwise(times)) or not _finite(times):
            raise ValueError(f"times of a course are {list(times)[:6]}; finite numbers that increase are wanted")
        object.__setattr__(self, "times", times)
        values = self.values if isinstance(self.values, Tensor) else _tensor("values", self.values)
        _checks.floating_tensor("values", values)
        if values.ndim not in (1, 2) or len(values) != len(times):
            raise ValueError(
                f"values of a course have shape {tuple(values.shape)}; ({len(times)},) or ({len(times)}, units) is "
                "wanted"
            )
        if not isinstance(self.values, Tensor):
            object.__setattr__(self, "values", tuple(map(_frozen, self.values)))

    def parameters(self) -> dict[str, Any]:
        """The course as values of JSON."""
        return {"times": list(self.times), "values": described(self.values), "between": self.between}


#: A number, one number per unit, or a course of them.
Value = float | Sequence[float] | Tensor | Course


class Ramp(NamedTuple):
    """A value from a moment on, until its next knot: `value` + (t - `since`) `slope`; a slope of None is zero."""

    value: Tensor
    slope: Tensor | None
    since: float

    def at(self, t: float | Tensor) -> Tensor:
        """The value at time t."""
        if self.slope is None:
            return self.value
        return self.value + (t - self.since) * self.slope


def checked_value(name: str, value: Value) -> Value:
    """`value` if it is finite numbers; lists become tuples. ValueError otherwise."""
    if isinstance(value, Course):
        return value
    if isinstance(value, Tensor):
        _checks.floating_tensor(name, value)
        if value.ndim > 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; a number, or one per unit, is wanted")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(_checks.number(name, value))
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name} is {_checks.describe(value)}; a number, one per unit, or a Course is wanted")
    checked_value(name, _tensor(name, value))
    return tuple(float(v) for v in value)


def described(value: Any) -> Any:
    """A value, or a course, as values of JSON."""
    if isinstance(value, Course):
        return value.parameters()
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    return [described(v) for v in value] if isinstance(value, tuple) else value


def knots(value: Value | None) -> tuple[float, ...]:
    """The times at which a value, or its slope, jumps."""
    return tuple(value.times) if isinstance(value, Course) else ()


def tensor_of(value: Value | None) -> Tensor | None:
    """The tensor that a value holds, if it was given as one."""
    inner = value.values if isinstance(value, Course) else value
    return inner if isinstance(inner, Tensor) else None


def replaced(value: Any, tensor: Tensor) -> Any:
    """`value`, holding `tensor` in place of its own."""
    return Course(value.times, tensor, value.between) if isinstance(value, Course) else tensor


def amplified(value: Any, power: int) -> Any:
    """The value times two to the `power`."""
    if isinstance(value, Course):
        return Course(value.times, amplified(value.values, power), value.between)
    return tuple(amplified(v, power) for v in value) if isinstance(value, tuple) else value * 2.0**power


def ramp_at(name: str, value: Value, time: float, units: int, like: Tensor) -> Ramp:
    """The value of `units` units from `time` on, in the dtype and on the device of `like`.

    Raises ValueError where the number of values is not one or `units`, and for a tensor of another dtype or device.
    """
    inner = value.values if isinstance(value, Course) else value
    if isinstance(inner, Tensor):
        _checks.same_kind(name, inner, like, "x")
        numbers = inner
    else:
        numbers = torch.as_tensor(inner, dtype=like.dtype, device=like.device)
    per_unit = numbers.shape[1:] if isinstance(value, Course) else numbers.shape
    if per_unit not in ((), (1,), (units,)):
        raise ValueError(f"{name} has {per_unit[0]} values for {units} units; one, or one per unit, is wanted")
    if not isinstance(value, Course):
        return Ramp(numbers.expand(units), None, time)
    times = value.times
    index = bisect.bisect_right(times, time) - 1
    if value.between == "hold" or index < 0 or index == len(times) - 1:
        return Ramp(numbers[max(index, 0)].expand(units), None, time)
    slope = (numbers[index + 1] - numbers[index]) / (times[index + 1] - times[index])
    return Ramp((numbers[index] + (time - times[index]) * slope).expand(units), slope.expand(units), time)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {_checks.describe(value)}; numbers are wanted") from None


def _frozen(value: Any) -> Any:
    return tuple(float(v) for v in value) if isinstance(value, Sequence) else float(value)


def _finite(times: tuple[float, ...]) -> bool:
    return bool(torch.tensor(times, dtype=torch.float64).isfinite().all())
