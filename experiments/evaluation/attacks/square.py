"""Square: random search with squares of random colours, which asks the model for logits only.

Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search", ECCV 2020,
Algorithms 1 and 2 (the ball of the maximum norm).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.evaluation.attacks.ball import Ball, Generators
from experiments.evaluation.attacks.losses import margin

__all__ = ["square"]

#: After these many of 10 000 queries, the share of the image that a square covers is halved once more.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    ball: Ball,
    queries: int,
    generators: Generators,
    share: float = 0.8,
) -> Float[Tensor, "b c h w"]:
    """The points with the largest margin found in at most `queries` queries per image. Fooled images ask no more.

    Generators must be on the CPU. `share` is the part of the image that the first squares cover. Raises ValueError for
    a ball of another norm than linf.
    """
    if ball.norm != "linf":
        raise ValueError(f"attacks.norm is {ball.norm!r}; Square is implemented for linf")
    _, _, height, width = images.shape
    stripes = torch.stack(
        [_signs((image.shape[0], 1, width), own) for image, own in zip(images, generators, strict=True)]
    )
    best = ball.project(images + ball.radius * stripes.to(images), images)
    with torch.no_grad():
        top = margin(model(best), labels)
    for query in range(1, queries):
        left = (top <= 0).nonzero().flatten()
        if not len(left):
            break
        side = _side(query, queries, share, height, width)
        tried = best[left].clone()
        for row, i in enumerate(left.tolist()):
            own = generators[i]
            top_row = int(torch.randint(height - side + 1, (), generator=own))
            column = int(torch.randint(width - side + 1, (), generator=own))
            window = (slice(None), slice(top_row, top_row + side), slice(column, column + side))
            colour = _signs((images.shape[1], 1, 1), own).to(images)
            tried[row][window] = images[i][window] + ball.radius * colour
        tried = ball.project(tried, images[left])
        with torch.no_grad():
            value = margin(model(tried), labels[left])
        better = value > top[left]
        best[left[better]] = tried[better]
        top[left[better]] = value[better]
    return best


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2 - 1


def _side(query: int, queries: int, share: float, height: int, width: int) -> int:
    """The side of the squares at a query."""
    halvings = sum(query * 10_000 / queries > limit for limit in _HALVINGS)
    side = round(math.sqrt(share * 0.5**halvings * height * width))
    return min(max(side, 1), height, width)
