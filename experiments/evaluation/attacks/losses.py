"""What an attack makes large: one number per image, from logits and labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["LOSSES", "Loss", "cross_entropy", "dlr", "margin", "targeted_dlr"]

Loss = Callable[[Tensor, Tensor], Tensor]

_TINY = 1e-12


def cross_entropy(logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The cross-entropy. Its gradient vanishes in float32 where the model is very sure."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The largest logit of another class less that of the label: positive where the model is wrong.

    Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own


def dlr(logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The difference of logits ratio: the margin by the distance of the largest logit to the third largest.

    Neither a shift nor a scale of the logits changes it. Croce & Hein, ICML 2020, Eq. 6. Raises ValueError for fewer
    than three classes.
    """
    _enough(logits, 3)
    ordered = logits.sort(1, descending=True).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + _TINY)


def targeted_dlr(
    logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"], targets: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """The same for one other class, `targets` (their Eq. 7). Raises ValueError for fewer than four classes."""
    _enough(logits, 4)
    ordered = logits.sort(1, descending=True).values
    difference = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
    return difference / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + _TINY)


def _enough(logits: Tensor, least: int) -> None:
    if logits.shape[1] < least:
        raise ValueError(f"the model has {logits.shape[1]} classes; at least {least} are wanted for this loss")


#: Losses by name.
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
