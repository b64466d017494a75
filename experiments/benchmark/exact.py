"""The flow of the VARS neurons to machine precision, and its gradient. Integrators are compared with this reference.

While no unit crosses its threshold the field is affine, y' = J y + c, and y(t + h) = y + sum_k h^(k+1)/(k+1)! J^k f(y)
is summed until it has converged. Every signal steps from crossing to crossing, and bisection on that series finds the
crossings. Since f is continuous across a crossing, the time of the crossing does not enter the derivative. Autograd
through steps of fixed lengths therefore gives the gradient of the flow itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import vars_dyn as vd

__all__ = ["Flow", "exact_flow"]

_TERMS, _SAMPLES, _HALVINGS = 24, 32, 50


class Flow(NamedTuple):
    """The state at the end, and the number of threshold crossings on the way."""

    z: Tensor
    u: Tensor
    crossings: int


class _Constants(NamedTuple):
    """The tensors and constants of the field."""

    weight: Tensor
    x: Tensor
    theta: Tensor
    alpha: float | Tensor
    beta: float | Tensor
    gamma: float | Tensor
    tau_z: float | Tensor
    tau_u: float | Tensor

    def linear(self, z: Tensor, a: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the field without x, for a code a."""
        image = a @ self.weight.mT
        dz = (image - self.alpha * z) / self.tau_z
        du = ((z - self.gamma * image) @ self.weight + self.gamma * a - self.beta * u) / self.tau_u
        return dz, du

    def slopes(self, z: Tensor, u: Tensor, sign: Tensor) -> list[tuple[Tensor, Tensor]]:
        """J^k f(y) for k = 0, 1, ..., where `sign` holds the signs of the active units and 0 for the others."""
        on = sign != 0
        dz, du = self.linear(z, torch.where(on, u - self.theta * sign, 0.0), u)
        terms = [(dz + self.x / self.tau_z, du)]
        for _ in range(_TERMS - 1):
            v, w = terms[-1]
            terms.append(self.linear(v, torch.where(on, w, 0.0), w))
        return terms


def exact_flow(field: vd.SparseRecurrent, time: float) -> Flow:
    """The state that `field` reaches from its initial state after `time`, differentiable in all its tensors.

    The field has a dense dictionary that all signals share, the soft threshold, and signals (n, d). It should be in
    float64.
    """
    constants = _Constants(
        field.dictionary.matrix(),
        field.x,
        field.per_code(field.lam) / field.beta,
        *(field.constants[name] for name in ("alpha", "beta", "gamma", "tau_z", "tau_u")),
    )
    longest = 1.0 / float(field.stiffness().max())
    z, u = field.initial_state()
    sign = torch.where(u.abs() > constants.theta, u.sign(), 0.0).detach()
    left, crossings = torch.full_like(field.x[:, 0], time).detach(), 0
    while bool((left > 0).any()):
        step = _until_crossing(constants, z, u, sign, left.clamp(max=longest))
        z, u = checkpoint(_advance, constants, z, u, sign, step[:, None], use_reentrant=False)
        left = left - step
        with torch.no_grad():
            new = torch.where(u.abs() > constants.theta, u.sign(), 0.0)
            crossings += int((new != sign).sum())
            sign = new
    return Flow(z, u, crossings)


def _advance(constants: _Constants, z: Tensor, u: Tensor, sign: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    factor = step
    for k, (v, w) in enumerate(constants.slopes(z, u, sign)):
        z, u = z + factor * v, u + factor * w
        factor = factor * step / (k + 2)
    return z, u


@torch.no_grad()
def _until_crossing(constants: _Constants, z: Tensor, u: Tensor, sign: Tensor, longest: Tensor) -> Tensor:
    """For each signal, the time to just after its first crossing, or `longest` if that is earlier."""
    powers, factor = [u], 1.0
    for k, (_, w) in enumerate(constants.slopes(z, u, sign)):
        factor /= k + 1
        powers.append(w * factor)
    series = torch.stack(powers, 1)
    exponents = torch.arange(len(powers), dtype=u.dtype, device=u.device)

    def crossed(time: Tensor) -> Tensor:
        value = (time[:, None, None] ** exponents @ series).squeeze(1)
        outside = torch.where(sign != 0, value * sign <= constants.theta, value.abs() > constants.theta)
        return outside.any(-1)

    low, high = torch.zeros_like(longest), longest
    found = torch.zeros_like(longest, dtype=torch.bool)
    for i in range(1, _SAMPLES + 1):
        time = longest * i / _SAMPLES
        first = crossed(time) & ~found
        found = found | first
        high = torch.where(first, time, high)
        low = torch.where(found, low, time)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        after = crossed(middle)
        high, low = torch.where(found & after, middle, high), torch.where(found & ~after, middle, low)
    return torch.minimum(high.clamp(min=1e-13), longest)  # at 0 rounding could keep it at the crossing
