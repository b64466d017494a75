"""The constants of a field: numbers, and those of which each signal or each unit has its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.shapes import expand_trailing, flat_spread, spread

__all__ = [
    "checked_constants",
    "extreme",
    "flat_constants",
    "has_own",
    "largest",
    "of_elements",
    "of_signals",
    "over_signals",
    "selected_constants",
    "smallest",
    "snapped",
]

_GAMMA = (
    "; one per atom is refused, because gamma_i G_ij is then not gamma_j G_ji, a symmetry that the Lyapunov function "
    'and the problem need (vd.Scale(..., synapses="inhibition") does it without them)'
)
_ROWS = "because the neurons' leaks weigh the rows of the problem's dictionary, which all signals share"

Constant = float | Tensor


def checked_constants(
    positive: Mapping[str, Constant],
    other: Mapping[str, Constant],
    shapes: Mapping[str, tuple[int, ...]],
    batch: tuple[int, ...],
    x: Tensor,
) -> tuple[dict[str, Constant], dict[str, Tensor]]:
    """The constants that are numbers, and those of which signals or units have their own, as `spread` has them.

    The smallest of varied time constants is among the numbers too, since it bounds the rates. `shapes` has the shape of
    the units that a constant belongs to. Raises ValueError for anything that does not fit.
    """
    numbers: dict[str, Constant] = {}
    each: dict[str, Tensor] = {}
    for name, value in {**positive, **other}.items():
        if not isinstance(value, Tensor) or not value.ndim:
            numbers[name] = _checks.number(name, value, positive=name in positive)
            continue
        each[name] = _varied(name, value, shapes[name], batch, x)
        if name in positive and value.numel():
            least = _checks.number(f"the smallest {name}", smallest(each[name]), positive=True)
            if name.startswith("tau"):
                numbers[name] = least
    if "alpha" in each and "gamma" in each and each["alpha"].ndim == len(shapes["alpha"]):
        raise ValueError(
            f"alpha is one per neuron and gamma one per signal; a number is wanted for one of them, {_ROWS}"
        )
    return numbers, each


def _varied(name: str, value: Tensor, event: tuple[int, ...], batch: tuple[int, ...], x: Tensor) -> Tensor:
    """`value` as `spread` has it; ValueError where the field would have no problem."""
    alone = (1,) * len(event)
    shape = tuple(value.shape)
    if name == "gamma" and shape != batch and (len(shape) <= len(event) or shape[-len(event) :] != alone):
        raise ValueError(f"gamma is {_checks.describe(value)}; a number or one per signal, {batch}, is wanted{_GAMMA}")
    value = value.reshape(*shape, *alone) if name == "gamma" and shape == batch else value
    found = spread(name, value, event, batch, x, "neuron" if name in ("alpha", "tau_z") else "atom")
    if name == "alpha" and found.ndim > len(event) and tuple(found.shape[len(batch) :]) != alone:
        raise ValueError(f"alpha is one per signal and neuron; one per signal or one per neuron is wanted, {_ROWS}")
    return found


def flat_constants(
    each: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], lead: tuple[int, ...]
) -> dict[str, Tensor]:
    """Constants that vary, for signals whose batch is flattened to `lead`."""
    return {name: torch.as_tensor(flat_spread(value, len(shapes[name]), lead)) for name, value in each.items()}


def selected_constants(
    each: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], index: Tensor
) -> dict[str, Tensor]:
    """Constants that vary, for the rows `index` of the signals."""
    return {n: value if value.ndim <= len(shapes[n]) else value[index] for n, value in each.items()}


def of_signals(value: Constant, dims: int, wanted: int = 0) -> Constant:
    """One value per signal, (*batch, 1, ..) with `dims` ones, with `wanted` ones in their place; others as they are."""
    if not isinstance(value, Tensor) or value.ndim <= dims:
        return value
    return expand_trailing(value.reshape(value.shape[:-dims]), wanted)


def has_own(value: Constant, event: tuple[int, ...]) -> bool:
    """Whether signals have their own numbers, for units of the shape `event`."""
    return isinstance(value, Tensor) and value.ndim > len(event)


def smallest(value: Constant) -> float:
    """The smallest of a constant's numbers; one where there are none."""
    if not isinstance(value, Tensor):
        return float(value)
    return float(value.detach().min()) if value.numel() else 1.0


def largest(value: Constant) -> float:
    """The largest of a constant's numbers; one where there are none."""
    return -smallest(-value) if not isinstance(value, Tensor) or value.numel() else 1.0


def extreme(value: Constant, dims: int, like: Tensor, *, least: bool = False) -> Tensor:
    """The largest (or smallest) number over the units, per signal where signals have their own; without a gradient.

    `dims` counts the dimensions of the units.
    """
    found = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
    if found.ndim:
        found = found.flatten(-dims)
        found = found.amin(-1) if least else found.amax(-1)
    return found


def of_elements(value: Tensor) -> Tensor:
    """One value per dictionary, shaped to broadcast against one per signal."""
    return value[..., None] if value.ndim else value


def over_signals(value: Tensor, elements: tuple[int, ...]) -> Tensor:
    """The largest of the signals' values, of the dictionary's batch shape `elements`."""
    if not value.numel():
        return value.new_ones(elements)
    return value.amax(tuple(range(len(elements), value.ndim))) if value.ndim > len(elements) else value


def snapped(one: Constant, other: Constant) -> Constant:
    """one - other; exactly zero (with its gradient) where it is zero to the rounding of the two."""
    value, eps = one - other, 8 * torch.finfo(torch.float64).eps
    if isinstance(value, Tensor):
        still = value.detach().abs()
        limit = eps * torch.maximum(*(torch.as_tensor(part).detach().abs().to(still) for part in (one, other)))
        return torch.where(still > limit, value, value - value.detach())
    return value if abs(value) > eps * max(abs(float(one)), abs(float(other))) else 0.0
