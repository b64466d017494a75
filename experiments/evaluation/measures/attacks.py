"""White-box attacks within an L-infinity ball around images in [0, 1].

FGSM: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015. PGD: Madry et al., "Towards Deep
Learning Models Resistant to Adversarial Attacks", ICLR 2018. The defaults are those of the released RVT and VARS code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["fgsm", "pgd"]


def fgsm(
    model: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], radius: float = 1 / 255
) -> Float[Tensor, "b c h w"]:
    """One step of size `radius` along the sign of the gradient of the cross-entropy, clamped to [0, 1].

    `model` takes images in [0, 1] (see `experiments.training.networks.Normalized`) and is used in the mode it is in.
    """
    return _step(model, images, images, labels, radius, radius)


def pgd(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    radius: float = 1 / 255,
    step: float = 0.5 / 255,
    steps: int = 5,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Float[Tensor, "b c h w"]:
    """`steps` steps of size `step`, each projected to the ball of `radius` and to [0, 1].

    It starts at a random point of the ball, which `generator` draws on its device, or at the image if `generator` is
    None. With one generator per image the start of each is independent of its batch.
    """
    adversarial = images
    if generator is not None:
        adversarial = (images + _noise(images, radius, generator)).clamp(0, 1)
    for _ in range(steps):
        adversarial = _step(model, adversarial, images, labels, step, radius)
    return adversarial


def _noise(images: Tensor, radius: float, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Uniform in [-radius, radius]."""
    if isinstance(generator, torch.Generator):
        empty = torch.empty(images.shape, dtype=images.dtype, device=generator.device)
        return empty.uniform_(-radius, radius, generator=generator).to(images.device)
    return torch.cat([_noise(image[None], radius, own) for image, own in zip(images, generator, strict=True)])


def _step(model: nn.Module, at: Tensor, images: Tensor, labels: Tensor, step: float, radius: float) -> Tensor:
    at = at.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = F.cross_entropy(model(at), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, at)
    moved = at.detach() + step * gradient.sign()
    return torch.clamp(torch.clamp(moved, images - radius, images + radius), 0, 1)
