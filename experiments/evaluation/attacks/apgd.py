"""Auto-PGD: gradient ascent with momentum whose step halves when it stalls; only the number of steps is chosen.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
2020, Algorithm 1 and Sec. 3-4. With `dlr` and `apgd_targeted` it is the white-box half of AutoAttack.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from experiments.evaluation.attacks.ball import Ball, Generators, keep_worse, value_and_gradient
from experiments.evaluation.attacks.losses import Loss, cross_entropy, targeted_dlr

__all__ = ["apgd", "apgd_targeted"]

#: The share of steps that must raise the loss between two checkpoints, and the weight of the new step.
_RISING, _NEW = 0.75, 0.75


def apgd(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    ball: Ball,
    steps: int = 100,
    restarts: int = 1,
    generators: Generators | None = None,
    loss: Loss = cross_entropy,
) -> Float[Tensor, "b c h w"]:
    """A point of each ball that fools the model, where one is found; elsewhere the one with the largest loss.

    Each of the `restarts` starts at a random point that `generators` draw, or at the image if there are none. Only
    images that still resist are attacked again.
    """
    worst, found = images, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    top = torch.full((len(images),), -torch.inf, dtype=images.dtype, device=images.device)
    for _ in range(restarts if generators is not None else 1):
        left = (~found).nonzero().flatten()
        if not len(left):
            break
        own = images[left]
        start = own if generators is None else ball.random(own, [generators[int(i)] for i in left])
        at, value, fooled = _climb(model, own, labels[left], ball, steps, start, loss)
        better = fooled | (value > top[left])
        worst = worst.index_copy(0, left, keep_worse(better, at, worst[left]))
        top = top.index_copy(0, left, torch.maximum(value, top[left]))
        found = found.index_copy(0, left, fooled)
    return worst


def apgd_targeted(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    ball: Ball,
    steps: int = 100,
    targets: int = 9,
    generators: Generators | None = None,
) -> Float[Tensor, "b c h w"]:
    """APGD with the targeted loss, towards each of the `targets` most likely other classes in turn.

    Images that no target fools are returned at the point of the last one.
    """
    with torch.no_grad():
        order = model(images).scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
    worst, left = images, torch.arange(len(images), device=images.device)
    for number in range(min(targets, order.shape[1] - 1)):
        if not len(left):
            break
        own, goals = images[left], order[left, number]
        start = own if generators is None else ball.random(own, [generators[int(i)] for i in left])

        def towards(logits: Tensor, labels: Tensor, goals: Tensor = goals) -> Tensor:
            return targeted_dlr(logits, labels, goals)

        at, _, fooled = _climb(model, own, labels[left], ball, steps, start, towards)
        worst = worst.index_copy(0, left, at)
        left = left[~fooled]
    return worst


def _checkpoints(steps: int) -> set[int]:
    """The numbers of steps after which the step's length is judged: rarely at first, then more often."""
    found, gap, at = set(), max(int(0.22 * steps), 1), 0
    while at + gap <= steps:
        at += gap
        found.add(at)
        gap = max(gap - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return found


def _climb(
    model: nn.Module,
    images: Tensor,
    labels: Int[Tensor, " b"],
    ball: Ball,
    steps: int,
    start: Tensor,
    loss: Loss,
) -> tuple[Tensor, Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """The worst point of one run, its loss, and whether it fools the model."""
    at = before = best = fooling = start
    value, gradient, found = value_and_gradient(model, at, labels, loss)
    top, top_gradient = value, gradient
    size = torch.full_like(value, 2 * ball.radius)
    rises, top_then, halved_then = torch.zeros_like(value), top, torch.zeros_like(found)
    judged, checkpoints = 0, _checkpoints(steps)
    for number in range(1, steps + 1):
        if bool(found.all()):
            break
        ahead = ball.project(at + size[:, None, None, None] * ball.steepest(gradient), images)
        if number > 1:
            ahead = ball.project(at + _NEW * (ahead - at) + (1 - _NEW) * (at - before), images)
        before, at = at, ahead
        last = value
        value, gradient, fooled = value_and_gradient(model, at, labels, loss)
        fooling = keep_worse(fooled & ~found, at, fooling)
        found = found | fooled
        rises = rises + (value > last)
        higher = value > top
        best, top = keep_worse(higher, at, best), torch.where(higher, value, top)
        top_gradient = keep_worse(higher, gradient, top_gradient)
        if number in checkpoints:
            halve = (rises < _RISING * (number - judged)) | (~halved_then & (top == top_then))
            size = torch.where(halve, size / 2, size)
            at, value = keep_worse(halve, best, at), torch.where(halve, top, value)
            gradient = keep_worse(halve, top_gradient, gradient)
            judged, rises, top_then, halved_then = number, torch.zeros_like(rises), top, halve
    return keep_worse(found, fooling, best), top, found
