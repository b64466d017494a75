from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from experiments.evaluation.attacks.apgd import apgd, apgd_targeted
from experiments.evaluation.attacks.ball import Ball, wrong
from experiments.evaluation.attacks.gradient import fgsm, pgd
from experiments.evaluation.attacks.losses import LOSSES, dlr, margin, targeted_dlr
from experiments.evaluation.attacks.noise import noise
from experiments.evaluation.attacks.square import square

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
    assert torch.allclose(fgsm(model, images, labels, Ball(RADIUS)), expected, atol=1e-6)


def test_pgd_equals_foolbox(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = attacked
    oracle = foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=STEP, steps=7, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected = oracle.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=RADIUS)
    assert torch.allclose(pgd(model, images, labels, Ball(RADIUS), STEP, 7), expected, atol=1e-6)


def test_random_start_stays_in_the_ball_and_raises_the_loss(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = attacked
    first, second, other = (
        pgd(model, images, labels, Ball(RADIUS), STEP, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
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
    noise = pgd(model, images, labels, Ball(RADIUS), STEP, 0, torch.Generator().manual_seed(0)) - images
    assert 0.5 * RADIUS < noise.abs().max() <= RADIUS + 1e-6


def test_attacks_leave_the_model_alone(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = attacked
    with torch.no_grad():  # as an evaluation loop has
        assert not torch.equal(fgsm(model, images, labels), images)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_l2_pgd_equals_foolbox(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = attacked
    oracle = foolbox.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=0.1, steps=6, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected = oracle.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=0.3)
    assert torch.allclose(pgd(model, images, labels, Ball(0.3, "l2"), 0.1, 6), expected, atol=1e-6)


def _generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def _attacks(model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, seed: int = 0) -> dict[str, Tensor]:
    def own() -> list[torch.Generator]:
        return _generators(len(images), seed)

    found = {f"apgd-{name}": apgd(model, images, labels, ball, 30, 2, own(), loss) for name, loss in LOSSES.items()}
    found["apgd-t"] = apgd_targeted(model, images, labels, ball, 30, 3, own())
    found["noise"] = noise(model, images, labels, ball, 5, own())
    if ball.norm == "linf":
        found["square"] = square(model, images, labels, ball, 100, own())
    return found


class Linear(nn.Module):
    """A linear classifier, whose worst case in a ball is known: see `_lowest`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(4, 12, generator=generator, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def _lowest(model: Linear, images: Tensor, labels: Tensor, ball: Ball) -> Tensor:
    """The smallest lead of the label over another class in the ball. The l2 ball must lie within [0, 1]."""
    lead = model.weight[labels][:, None] - model.weight  # (b, classes, d)
    x = images.flatten(1)
    if ball.norm == "l2":
        low = torch.einsum("bkd,bd->bk", lead, x) - ball.radius * lead.norm(dim=2)
    else:
        up, down = (x + ball.radius).clamp(max=1)[:, None], (x - ball.radius).clamp(min=0)[:, None]
        low = torch.where(lead > 0, lead * down, lead * up).sum(2)
    return low.scatter(1, labels[:, None], torch.inf).amin(1)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from(["linf", "l2"]))
def test_on_linear_models_apgd_finds_the_worst_case_and_none_exceeds_it(seed: int, norm: str) -> None:
    model, generator = Linear(seed), torch.Generator().manual_seed(seed + 1)
    images = torch.rand(40, 3, 2, 2, generator=generator, dtype=torch.float64)
    ball = Ball(0.08, norm)
    if norm == "l2":
        images = 0.1 + 0.8 * images
    labels = model(images).argmax(1)
    low = _lowest(model, images, labels, ball)
    for name, at in _attacks(model, images, labels, ball, seed).items():
        change = (at - images).flatten(1)
        assert (change.abs().amax(1) if norm == "linf" else change.norm(dim=1)).max() <= ball.radius + 1e-9, name
        assert at.min() >= 0, name
        assert at.max() <= 1, name
        broken = wrong(model, at, labels)
        assert not (broken & (low > 1e-9)).any(), name  # impossible in the ball
        if name.startswith("apgd"):
            missed = ~broken & (low < -0.02)
            # All classes are tried by the targeted form; the others may follow the wrong class.
            assert missed.sum() <= (0 if name == "apgd-t" else 2), (name, int(missed.sum()))


def test_the_loss_falls_neither_with_more_steps_nor_with_restarts(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, _ = attacked
    with torch.no_grad():
        model[0].weight *= 8  # far from linear
    labels = model(images).argmax(1)
    ball = Ball(0.05, "l2")

    def reached(steps: int, restarts: int) -> Tensor:
        at = apgd(model, images, labels, ball, steps, restarts, _generators(6), dlr)
        return torch.where(wrong(model, at, labels), torch.inf, dlr(model(at).detach(), labels))

    few, many, again = reached(3, 1), reached(40, 1), reached(3, 4)
    assert (again >= few).all()
    assert (many >= few - 1e-4).all()
    assert (many > few).any()


def test_results_do_not_depend_on_the_batch(attacked: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = attacked
    model, images = model.double(), images.double()
    whole = _attacks(model, images, labels, Ball(0.02))
    for i in (0, 4):
        one = slice(i, i + 1)
        generators = _generators(6)[one]
        alone = apgd(model, images[one], labels[one], Ball(0.02), 30, 2, generators, dlr)
        assert torch.allclose(whole["apgd-dlr"][one], alone, atol=1e-9)
        alone = square(model, images[one], labels[one], Ball(0.02), 100, _generators(6)[one])
        assert torch.allclose(whole["square"][one], alone, atol=1e-9)


def test_square_needs_no_gradient_and_beats_noise() -> None:
    class Rounded(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward((images * 255).round() / 255)  # its gradient is zero everywhere

    model, images = Rounded(3), torch.rand(60, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    found = {
        name: int(wrong(model, at, labels).sum()) for name, at in _attacks(model, images, labels, Ball(0.1)).items()
    }
    assert found["square"] > found["noise"]
    at = pgd(model, images, labels, Ball(0.1), 0.02, 10)
    assert int(wrong(model, at, labels).sum()) == 0
    with pytest.raises(ValueError, match="Square is implemented for linf"):
        square(model, images, labels, Ball(0.1, "l2"), 5, _generators(60))


@given(st.integers(0, 2**20), st.floats(0.1, 50), st.floats(-9, 9))
def test_losses_are_positive_where_the_model_is_wrong_and_dlr_ignores_shift_and_scale(
    seed: int, scale: float, shift: float
) -> None:
    logits = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(20) % 6
    miss = logits.argmax(1) != labels
    assert ((margin(logits, labels) > 0) == miss).all()
    assert ((dlr(logits, labels) > 0) == miss).all()
    assert torch.allclose(dlr(scale * logits + shift, labels), dlr(logits, labels), atol=1e-8)
    goals = (labels + 1) % 6
    assert torch.allclose(targeted_dlr(scale * logits + shift, labels, goals), targeted_dlr(logits, labels, goals))
    for few, loss in ((2, dlr), (3, lambda a, b: targeted_dlr(a, b, b))):
        with pytest.raises(ValueError, match="classes"):
            loss(logits[:, :few], labels % few)


def _art(model: nn.Module, images: Tensor) -> Any:
    """The model as a classifier of the Adversarial Robustness Toolbox, and its attacks."""
    evasion = pytest.importorskip("art.attacks.evasion", reason="the Adversarial Robustness Toolbox is not installed")
    estimators = pytest.importorskip("art.estimators.classification")
    loss = nn.CrossEntropyLoss()
    shape = tuple(images.shape[1:])
    wrapped = estimators.PyTorchClassifier(model, loss, shape, 5, clip_values=(0.0, 1.0), device_type="cpu")
    return evasion, wrapped


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_breaks_what_an_independent_one_breaks(norm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 5)).eval()
    images = torch.rand(60, 3, 8, 8)
    labels = model(images).argmax(1)
    ball = Ball(3 / 255) if norm == "linf" else Ball(0.15, "l2")
    evasion, wrapped = _art(model, images)
    oracle = evasion.AutoProjectedGradientDescent(
        wrapped,
        norm="inf" if norm == "linf" else 2,
        eps=ball.radius,
        eps_step=2 * ball.radius,
        max_iter=20,
        nb_random_init=1,
        batch_size=60,
        verbose=False,
    )
    np.random.seed(0)  # noqa: NPY002  # it draws from NumPy's global generator
    theirs = wrong(model, torch.from_numpy(oracle.generate(images.numpy(), labels.numpy())), labels)
    ours = wrong(model, apgd(model, images, labels, ball, 20, 1, _generators(60)), labels)
    assert 10 < int(theirs.sum()) < 50
    assert int((theirs != ours).sum()) <= 1


def test_square_breaks_what_an_independent_one_breaks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 5)).eval()
    images = torch.rand(60, 3, 8, 8)
    labels = model(images).argmax(1)
    evasion, wrapped = _art(model, images)
    oracle = evasion.SquareAttack(wrapped, eps=8 / 255, max_iter=120, batch_size=60, verbose=False)
    np.random.seed(0)  # noqa: NPY002  # it draws from NumPy's global generator
    theirs = wrong(model, torch.from_numpy(oracle.generate(images.numpy(), labels.numpy())), labels)
    ours = wrong(model, square(model, images, labels, Ball(8 / 255), 120, _generators(60)), labels)
    assert 20 < int(theirs.sum()) < 55
    assert int((theirs != ours).sum()) <= 4  # both search at random, so they may miss other images
