"""Steps end on the jumps of a field, so that no method sees both sides of a jump in one step."""

import math

import pytest
import torch
from torch import Tensor

import vars_dyn as vd
from vars_dyn.integration import start_of, stream

JUMP = math.sqrt(2)


class Switched(vd.FeedForward):
    """z' = -z + x before the jump, and z' = -z - x after it."""

    @property
    def boundaries(self) -> tuple[float, ...]:
        return (JUMP,)

    def during(self, start: float, end: float) -> vd.Field:
        if start < JUMP < end:
            raise AssertionError(f"a way from {start} to {end} straddles the jump")
        return vd.FeedForward(self.x if end <= JUMP else -self.x)


def exact(x: Tensor, times: Tensor) -> Tensor:
    """The exact solution from z = 0."""
    before = x * (1 - torch.exp(-times))[:, None, None]
    late = (times - JUMP)[:, None, None]
    at_jump = x * (1 - math.exp(-JUMP))
    after = -x + (at_jump + x) * torch.exp(-late)
    return torch.where(late < 0, before, after)


@pytest.mark.parametrize("method", ["dopri5", "rkc", "auto", "dopri8", "rk4"])
def test_every_method_steps_onto_a_jump(method: str) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.0, 0.5, 1.3, JUMP, 1.5, 4.0], dtype=torch.float64)
    step = 0.01 if method == "rk4" else None
    found = vd.integrate(
        Switched(x), (torch.zeros_like(x),), times, method=method, rtol=1e-8, atol=1e-10, step=step
    ).states[0]
    torch.testing.assert_close(found, exact(x, times), rtol=0, atol=1e-5 if method == "rkc" else 1e-7)


def test_a_stream_takes_the_same_steps_past_a_jump_wherever_it_resumes() -> None:
    x = torch.ones(1, 2, dtype=torch.float64)
    field, times = Switched(x), torch.linspace(0, 4, 9, dtype=torch.float64)
    start = start_of(field, (torch.zeros_like(x),), 0.0, None)
    whole = list(stream(field, start, times, chunk=3))
    resumed = list(stream(field, whole[0][2], times[3:], chunk=3))
    for (_, states, snapshot), (_, again, twin) in zip(whole[1:], resumed, strict=True):
        assert torch.equal(states[0], again[0])
        assert torch.equal(snapshot.state[0], twin.state[0])
