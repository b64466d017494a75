"""Random noise of an attack's radius: the weakest attack, which no other should lose to."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.evaluation.attacks.ball import Ball, Generators, keep_worse
from experiments.evaluation.attacks.losses import margin

__all__ = ["noise"]


@torch.no_grad()
def noise(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    ball: Ball,
    draws: int,
    generators: Generators,
) -> Float[Tensor, "b c h w"]:
    """The worst, by the margin, of `draws` uniform points of each image's ball."""
    worst, top = images, torch.full((len(images),), -torch.inf, dtype=images.dtype, device=images.device)
    for _ in range(draws):
        at = ball.random(images, generators)
        value = margin(model(at), labels)
        better = value > top
        worst, top = keep_worse(better, at, worst), torch.where(better, value, top)
    return worst
