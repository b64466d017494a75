"""Learning from the logits of a teacher, such as the softmax original of a model with another attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from experiments.settings import Distillation, Settings
from experiments.training.finetuning import stored_network

__all__ = ["Teacher", "teacher_of"]


class Teacher:
    """A network that is not trained, and how much its logits count."""

    def __init__(self, network: nn.Module, options: Distillation) -> None:
        self.network = network.eval().requires_grad_(False)
        self.options = options

    def loss(self, loss: Tensor, logits: Float[Tensor, "b c"], images: Float[Tensor, "b 3 h w"]) -> Tensor:
        """`loss` of the labels, mixed with T^2 KL(teacher || model) of the logits over T."""
        share, temperature = self.options.share, self.options.temperature
        with torch.no_grad():
            goal = self.network(images)
        parts = [F.log_softmax(each.float() / temperature, -1) for each in (logits, goal)]
        distance = F.kl_div(parts[0], parts[1], reduction="batchmean", log_target=True)
        return (1 - share) * loss + share * temperature**2 * distance


def teacher_of(settings: Settings, classes: list[str]) -> Teacher | None:
    """The teacher that the settings name, on the CPU; None if they name none.

    Raises ValueError if it is no checkpoint, or has other classes, another image size, or another normalisation.
    """
    options = settings.distillation
    if options.teacher is None:
        return None
    network, own, state = stored_network(options.teacher)
    for name, theirs, ours in (
        ("classes", list(state["classes"]), classes),
        ("data.image_size", own.data.image_size, settings.data.image_size),
        ("data.mean", list(own.data.mean), list(settings.data.mean)),
        ("data.std", list(own.data.std), list(settings.data.std)),
    ):
        if theirs != ours:
            raise ValueError(
                f"distillation.teacher is {options.teacher}, whose {name} is {theirs}; {ours}, as in the run, is wanted"
            )
    return Teacher(network, options)
