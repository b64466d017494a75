from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.evaluation.measures.attacks import fgsm, pgd

RADIUS, STEP = 8 / 255, 2 / 255


@pytest.fixture
def attacked() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 5)).eval()
    return model, torch.rand(6, 3, 8, 8), torch.arange(6) % 5


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), labels, reduction="none").detach()


def test_fgsm_equals_foolbox(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = attacked
    oracle = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected = oracle.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=RADIUS)
    assert torch.allclose(fgsm(model, images, labels, RADIUS), expected, atol=1e-6)


def test_pgd_equals_foolbox(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = attacked
    oracle = foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=STEP, steps=7, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected = oracle.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=RADIUS)
    assert torch.allclose(pgd(model, images, labels, RADIUS, STEP, 7), expected, atol=1e-6)


def test_random_start_stays_in_the_ball_and_raises_the_loss(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = attacked
    first, second, other = (
        pgd(model, images, labels, RADIUS, STEP, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first - images).abs().max() <= RADIUS + 1e-6
    assert (first.min(), first.max()) >= (0, 0)
    assert first.max() <= 1
    assert (_loss(model, first, labels) > _loss(model, images, labels)).all()


def test_without_steps_a_random_start_is_all_there_is(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = attacked
    assert torch.equal(pgd(model, images, labels, steps=0), images)
    noise = pgd(model, images, labels, RADIUS, STEP, 0, torch.Generator().manual_seed(0)) - images
    assert 0.5 * RADIUS < noise.abs().max() <= RADIUS + 1e-6


def test_attacks_leave_the_model_alone(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = attacked
    with torch.no_grad():  # as an evaluation loop has
        assert not torch.equal(fgsm(model, images, labels), images)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
