"""The ball around an image that an attack may search, and what attacks need of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from experiments.evaluation.attacks.losses import Loss

__all__ = ["Ball", "Generators", "keep_worse", "value_and_gradient", "wrong"]

#: One generator per image, so that what is drawn for an image does not depend on its batch.
Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class Ball:
    """All images in [0, 1] within `radius` of an image, by the largest change of a value (linf) or its 2-norm (l2)."""

    radius: float
    norm: Literal["linf", "l2"] = "linf"

    def project(self, moved: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Move points into the ball around `images`, and into [0, 1]. The second step does not leave the ball."""
        if self.norm == "linf":
            return torch.clamp(torch.clamp(moved, images - self.radius, images + self.radius), 0, 1)
        change = moved - images
        return (images + change * (self.radius / _length(change)).clamp(max=1)).clamp(0, 1)

    def steepest(self, gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The step of length 1, in the ball's norm, along which a linear function rises most. 0 for a zero gradient."""
        return gradient.sign() if self.norm == "linf" else gradient / _length(gradient)

    def random(self, images: Float[Tensor, "b c h w"], generators: Generators) -> Float[Tensor, "b c h w"]:
        """A uniform point of each image's ball, clamped to [0, 1]."""
        drawn = [self._change(image, own) for image, own in zip(images, generators, strict=True)]
        return (images + torch.stack(drawn)).clamp(0, 1)

    def _change(self, image: Tensor, generator: torch.Generator) -> Tensor:
        empty = torch.empty(image.shape, dtype=image.dtype, device=generator.device)
        if self.norm == "linf":
            return empty.uniform_(-self.radius, self.radius, generator=generator).to(image.device)
        direction = empty.normal_(generator=generator)
        share = torch.rand((), dtype=torch.float64, generator=generator, device=generator.device)
        length = self.radius * float(share) ** (1 / image.numel())
        return (direction * (length / direction.norm())).to(image.device)


def _length(change: Tensor) -> Tensor:
    """The 2-norm of each image; the smallest positive number instead of 0."""
    return change.flatten(1).norm(dim=1).clamp_min(torch.finfo(change.dtype).tiny)[:, None, None, None]


def value_and_gradient(
    model: nn.Module, at: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], loss: Loss
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
    """The loss, its gradient in the images, and whether the model is wrong, per image."""
    at = at.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(at)
        value = loss(logits, labels)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), gradient, logits.detach().argmax(1) != labels


@torch.no_grad()
def wrong(model: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """Whether the model is wrong about each image."""
    return model(images).argmax(1) != labels


def keep_worse(better: Bool[Tensor, " b"], new: Tensor, old: Tensor) -> Tensor:
    """`new` where `better`, else `old`, image by image."""
    return torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
