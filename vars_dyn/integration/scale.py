"""How large a field's signals are: what tolerances are relative to, and the power of two that a run is scaled by.

The fields are homogeneous: (s x, s lam, s q) has s times the trajectory of (x, lam, q), q the bias. To make the
integration homogeneous too, the absolute tolerance of a signal is relative to the signal's own size. Numbers far from
one are brought near it by a power of two before the integration, and brought back after it. This loses no digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vars_dyn._scaling import by_power
from vars_dyn.dynamics.base import Field, State
from vars_dyn.dynamics.constants import largest

__all__ = ["Tolerance", "field_times", "power_of", "state_times", "tolerances"]

#: For every part of the state, the tolerance that is added to rtol times its modulus: a number, or one per signal.
Tolerance = tuple[float | Tensor, ...]

#: Numbers below two to this power, and above its inverse, are integrated as they are.
_NEAR = 32

#: Potentials that stay smaller than the signal by more than this factor have a tolerance of their own.
_SMALLER = 8.0


def power_of(field: Field, state: State) -> int:
    """The exponent of two that brings the largest number in x and the state near one; zero where it is near already."""
    with torch.no_grad():
        largest = max(_largest(part) for part in (field.amplitude(), *state))
        if not 0 < largest < math.inf:
            return 0
        power = -math.frexp(largest)[1]
        if abs(power) <= _NEAR:
            return 0
        # A lam far above the signals must stay finite.
        room = math.frexp(torch.finfo(field.dtype).max)[1] - 8 - math.frexp(_largest(field.lam))[1]
        return min(power, room)


def field_times(field: Field, power: int) -> Field:
    """The same field for x and lam times two to the `power`."""
    return field.times_two_to(power) if power else field


def state_times(state: State, power: int) -> State:
    """The parts times two to the `power`."""
    return tuple(by_power(part, power) for part in state)


def tolerances(field: Field, atol: float) -> Tolerance:
    """`atol` times the size of each signal of a flat field, for every part of the state.

    The size is max |x|, over all times if x moves. Where x is zero it is lam; where lam is zero too, it is the
    largest size in the batch; if all are zero, it is one. Where the field keeps potentials more than eight times
    smaller than x, their tolerance is multiplied by 8 / alpha for z and by 8 |P| / (alpha beta) for u. None of this
    depends on the state, so a run that resumes from a snapshot has the same tolerances.
    """
    with torch.no_grad():
        fields = field.detach()
        shares = _shares(fields)
        size = _sizes(fields)
        if not size.numel():
            return tuple(atol * share for share in shares)
        first = float(size.flatten()[0])
        if bool((size == first).all()):
            return tuple(atol * share * first for share in shares)
        tiny = torch.finfo(size.dtype).tiny
        return tuple((size * (atol * share)).clamp(min=tiny) for share in shares)


def _sizes(field: Field) -> Tensor:
    """The size of every signal, of the shape of `signal_batch`."""
    event = len(field.dictionary.signal_shape)
    x = field.amplitude()
    size = x.abs().flatten(-event).amax(-1) if x.numel() else x.new_ones(field.signal_batch)
    size = torch.where(size > 0, size, field.lam.to(size.dtype))
    size = torch.where(size.isfinite(), size, 0.0)
    largest = size.max() if size.numel() else size.new_ones(())
    return torch.where(size > 0, size, torch.where(largest > 0, largest, 1.0))


def _shares(field: Field) -> list[float]:
    alpha, beta = (largest(getattr(field, name, 1.0)) for name in ("alpha", "beta"))
    found = {"z": min(1.0, _SMALLER / alpha)}
    if "u" in field.state_names:
        found["u"] = min(1.0, _SMALLER * _norm_of(field, alpha * beta / _SMALLER) / (alpha * beta))
    return [found[name] for name in field.state_names]


def _norm_of(field: Field, enough: float) -> float:
    """A bound on |P|, or `enough` where |P| is at least that, which one signal mostly suffices to show."""
    dictionary = field.dictionary
    x = field.amplitude()
    one = x[:, :1] if dictionary.batch_shape else x[:1]
    one = one / one.abs().max() if one.numel() else one
    shown = torch.linalg.vector_norm(dictionary.encode(one)) / torch.linalg.vector_norm(one)
    if float(shown) >= enough:
        return enough
    norm = math.sqrt(max(float(dictionary.lipschitz().max()), 0.0))
    return norm if 0 < norm < math.inf else enough


def _largest(value: Tensor) -> float:
    return float(value.detach().abs().max()) if value.numel() else 0.0
