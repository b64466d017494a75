"""Checks of the gradients that attacks follow: whether they vanish, are right, and lead uphill.

Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018; Carlini et al., "On
Evaluating Adversarial Robustness", 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from experiments.evaluation.attacks.ball import Ball, Generators, value_and_gradient
from experiments.evaluation.attacks.losses import cross_entropy, margin

__all__ = ["difference_errors", "in_float64", "repeats", "uphill", "zero_gradients"]

#: The step of the finite differences, in float64, and along how many directions they are taken.
_STEP, _DIRECTIONS = 1e-5, 4


def zero_gradients(model: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> dict[str, Tensor]:
    """Whether an image's gradient vanishes, for the margin and the cross-entropy, and the margin's share of zeros."""
    gradients = {
        name: value_and_gradient(model, images, labels, loss)[1].flatten(1)
        for name, loss in (("margin", margin), ("cross_entropy", cross_entropy))
    }
    vanished = {name: ~(each.abs() > 0).any(1) for name, each in gradients.items()}
    return {**vanished, "zeros": (gradients["margin"] == 0).float().mean(1)}


def difference_errors(
    model: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], generators: Generators
) -> Float[Tensor, " b"]:
    """How far the margin's gradient is from central differences along random directions, relative to the larger.

    0: they agree; 1 or more: they have nothing in common. Computed in float64 at images moved off 0 and 1, where a
    model may clamp. Both may vanish, and then they agree.
    """
    with in_float64(model):
        at = images.double().clamp(10 * _STEP, 1 - 10 * _STEP)
        directions = _normal(at, generators, _DIRECTIONS)
        directions = directions / directions.flatten(2).norm(dim=2)[..., None, None, None]
        _, gradient, _ = value_and_gradient(model, at, labels, margin)
        slopes = (directions * gradient).flatten(2).sum(2)
        with torch.no_grad():
            ends = [[margin(model(at + sign * _STEP * each), labels) for sign in (1, -1)] for each in directions]
        measured = torch.stack([(up - down) / (2 * _STEP) for up, down in ends]).to(slopes)
    error = (slopes - measured).norm(dim=0)
    return torch.where(error > 0, error / torch.maximum(slopes.norm(dim=0), measured.norm(dim=0)), error)


def uphill(
    model: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], ball: Ball, generators: Generators
) -> Bool[Tensor, " b"]:
    """Whether a step of a tenth of the radius along the gradient raises the margin more than a random step."""
    before, gradient, _ = value_and_gradient(model, images, labels, margin)
    (random,) = _normal(images, generators, 1)
    with torch.no_grad():
        ends = [(images + ball.radius / 10 * ball.steepest(each)).clamp(0, 1) for each in (gradient, random)]
        along, aside = (margin(model(end), labels) - before for end in ends)
    return (along > aside) & (along > 0)


@torch.no_grad()
def repeats(model: nn.Module, images: Float[Tensor, "b c h w"]) -> Bool[Tensor, " b"]:
    """Whether the model gives an image the same logits twice. Attacks on random answers must average over draws."""
    return (model(images) == model(images)).all(1)


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Give the model's parameters and buffers float64, and at the end their own dtypes and values again."""
    tensors = [each for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()]
    before = [each.data for each in tensors]
    try:
        for each in tensors:
            each.data = each.data.double()
        yield
    finally:
        for each, data in zip(tensors, before, strict=True):
            each.data = data


def _normal(images: Tensor, generators: Generators, count: int) -> Float[Tensor, "count b c h w"]:
    """Numbers that are normally distributed; those of an image are from its own generator."""
    shape = (count, *images.shape[1:])
    drawn = [torch.randn(shape, generator=own, dtype=images.dtype, device=own.device) for own in generators]
    return torch.stack(drawn, 1).to(images.device)
