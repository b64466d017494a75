"""FGSM and PGD: steps of fixed length along the steepest direction of a loss.

FGSM: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015. PGD: Madry et al., "Towards Deep
Learning Models Resistant to Adversarial Attacks", ICLR 2018. The default numbers are those of the released RVT and VARS
code. `model` maps images in [0, 1] to logits (see `experiments.training.networks.Normalized`), in the mode that it is
in.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.evaluation.attacks.ball import Ball, Generators, value_and_gradient
from experiments.evaluation.attacks.losses import Loss, cross_entropy

__all__ = ["fgsm", "pgd"]

_BALL = Ball(1 / 255)


def fgsm(
    model: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], ball: Ball = _BALL
) -> Float[Tensor, "b c h w"]:
    """One step to the border of the ball along the gradient of the cross-entropy, clamped to [0, 1]."""
    return pgd(model, images, labels, ball, ball.radius, 1)


def pgd(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    ball: Ball = _BALL,
    step: float = 0.5 / 255,
    steps: int = 5,
    generators: Generators | torch.Generator | None = None,
    loss: Loss = cross_entropy,
) -> Float[Tensor, "b c h w"]:
    """`steps` steps of length `step`, each projected to the ball.

    It starts at a random point of the ball that `generators` draw, or at the image if there are none.
    """
    at = images
    if generators is not None:
        own = [generators] * len(images) if isinstance(generators, torch.Generator) else generators
        at = ball.random(images, own)
    for _ in range(steps):
        _, gradient, _ = value_and_gradient(model, at, labels, loss)
        at = ball.project(at + step * ball.steepest(gradient), images)
    return at
