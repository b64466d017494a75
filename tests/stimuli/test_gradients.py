"""Gradients through a run with moving input, in every mode, also with respect to the stimulus itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal

S = vd.stimuli
TIMES = torch.tensor([0.0, 0.8, 1.5], dtype=torch.float64)
KNOTS = [0.0, 0.5, 1.3, 2.5]


def course(t: float, amplitude: Tensor, speed: Tensor) -> Tensor:
    return amplitude * torch.sin(speed * t + torch.arange(5, dtype=torch.float64)) + (1.0 if t >= 1.3 else 0.0)


#: A stimulus made of the tensors that gradients are wanted of.
MADE: dict[str, tuple[Callable[..., vd.stimuli.Stimulus], tuple[Tensor, ...]]] = {
    "hold": (lambda values: S.Sampled(values, KNOTS), (normal(1, 4, 2, 5),)),
    "linear": (lambda values: S.Sampled(values, KNOTS, "linear"), (normal(2, 4, 2, 5),)),
    "function": (
        lambda a, w: S.Function(course, like=torch.full((2, 5), 2.0).double(), tensors=(a, w), jumps=[1.3]),
        (normal(3, 2, 5), torch.tensor(0.7, dtype=torch.float64)),
    ),
    "composed": (
        lambda values: S.Sum(S.Sequence((S.Sampled(values, KNOTS), S.Constant(values[0])), (0.0, 1.0)), still(values)),
        (normal(4, 4, 2, 5),),
    ),
}


def still(values: Tensor) -> vd.stimuli.Stimulus:
    return S.Scaled(S.Sampled(values.mean(0, keepdim=True), [0.0]), 0.5)


def loss(
    make: Callable[..., vd.stimuli.Stimulus], weight: Tensor, own: tuple[Tensor, ...], **options: object
) -> Tensor:
    field = vd.SparseRecurrent(vd.DenseDictionary(weight), make(*own), lam=0.2)
    # A start that does not depend on x, so that all of the gradient comes through f.
    start = (normal(8, 2, 5), normal(9, 2, 7))
    states = vd.integrate(field, start, TIMES, rtol=1e-8, atol=1e-10, **options).states
    return sum((part[1:] * normal(20 + k, *part[1:].shape)).sum() for k, part in enumerate(states))


@pytest.mark.parametrize("name", MADE)
def test_all_modes_agree_with_finite_differences(name: str) -> None:
    make, given = MADE[name]
    weight = normal(5, 5, 7) / 2
    leaves = tuple(t.clone().requires_grad_() for t in (weight, *given))
    directions = tuple(normal(30 + k, *t.shape) for k, t in enumerate(leaves))

    def moved(step: float) -> Tensor:
        w, *own = (t.detach() + step * d for t, d in zip(leaves, directions, strict=True))
        return loss(make, w, tuple(own))

    difference = float(moved(1e-3) - moved(-1e-3)) / 2e-3
    found = {}
    for mode in ("backprop", "checkpoint", "adjoint"):
        gradients = torch.autograd.grad(loss(make, leaves[0], leaves[1:], gradient=mode), leaves)
        assert all(float(g.abs().max()) > 0 for g in gradients)
        found[mode] = gradients
        along = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        size = sum(float(g.square().sum()) for g in gradients) ** 0.5
        # Kinks that are crossed at inexact times leave an error of about sqrt(rtol).
        assert along == pytest.approx(difference, rel=0, abs=2e-3 * size)
    for a, b in zip(found["backprop"], found["checkpoint"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_implicit_gradient_is_that_of_the_signal_at_rest() -> None:
    P, values = vd.DenseDictionary(normal(5, 5, 7) / 2), normal(1, 3, 2, 5).requires_grad_()
    field = vd.SparseRecurrent(P, S.Sampled(values, [0.0, 1.0, 2.0]), lam=0.2)
    last = values[-1].detach().clone().requires_grad_()
    for target in (field, vd.SparseRecurrent(P, last, lam=0.2)):
        vd.equilibrium(target).code.square().sum().backward()
    assert bool((values.grad[:-1] == 0).all())
    torch.testing.assert_close(values.grad[-1], last.grad, rtol=1e-9, atol=1e-12)


def test_a_function_tells_of_a_tensor_that_it_hides() -> None:
    hidden = torch.ones(5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="pass it in `tensors`"):
        S.Function(lambda t: t * hidden, like=hidden)
