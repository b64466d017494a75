"""The constants of a field: numbers, and time constants of every unit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vars_dyn import _checks
from vars_dyn.shapes import per_atom

__all__ = ["checked_constants", "flat_taus", "selected_taus"]

_GAMMA = (
    "; one per atom is refused, because gamma_i G_ij is then not gamma_j G_ji, a symmetry that the Lyapunov function "
    'and the problem need (vd.Scale(..., synapses="inhibition") does it without them)'
)


def checked_constants(
    positive: Mapping[str, float | Tensor],
    other: Mapping[str, float | Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    batch: tuple[int, ...],
    x: Tensor,
) -> tuple[dict[str, float | Tensor], dict[str, Tensor]]:
    """The constants as numbers, by name, and those that have one number per unit, expanded to it.

    Of these the numbers hold the smallest, which bounds the rates. `shapes` names the constants that may differ from
    unit to unit, with the shape of the units. Raises ValueError for anything that does not fit.
    """
    numbers: dict[str, float | Tensor] = {}
    each: dict[str, Tensor] = {}
    for name, value in {**positive, **other}.items():
        if not isinstance(value, Tensor) or not value.ndim:
            numbers[name] = _checks.number(name, value, positive=name in positive)
        elif name not in shapes:
            raise ValueError(f"{name} is {_checks.describe(value)}; a number is wanted{_GAMMA * (name == 'gamma')}")
        else:
            each[name] = per_atom(name, value, shapes[name], batch, x, unit="atom" if name == "tau_u" else "neuron")
            smallest = float(each[name].detach().min())
            numbers[name] = _checks.number(f"the smallest {name}", smallest, positive=True)
    return numbers, each


def flat_taus(
    taus: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], lead: tuple[int, ...]
) -> dict[str, Tensor]:
    """Time constants of every unit, for signals whose batch is flattened to `lead`."""
    return {
        name: value if value.ndim == len(shapes[name]) else value.reshape(*lead, *shapes[name])
        for name, value in taus.items()
    }


def selected_taus(
    taus: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], index: Tensor
) -> dict[str, Tensor]:
    """Time constants of every unit, for the rows `index` of the signals."""
    return {n: value if value.ndim == len(shapes[n]) else value[index] for n, value in taus.items()}
