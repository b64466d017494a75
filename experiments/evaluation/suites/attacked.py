"""Accuracy on validation images under white-box attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from experiments.evaluation.measures import attacks
from experiments.evaluation.suites.classification import Classification
from experiments.evaluation.suites.suite import Options, SuitePart, Tally, chunks
from experiments.options.limits import between, whole

__all__ = ["Attacks", "Fgsm", "Pgd"]


@dataclass
class Attacks:
    """The L-infinity ball of FGSM and PGD, in steps of 1/255.

    Attributes:
        radius: the radius of the ball.
        step: the length of a step of PGD.
        steps: how many steps PGD takes.
        images: how many images to attack; None: all validation images.
    """

    radius: float = 1.0
    step: float = 0.5
    steps: int = 5
    images: int | None = None

    def check(self) -> None:
        """Raise ValueError for a ball, a step or a number that cannot be."""
        for name in ("radius", "step"):
            between(f"attacks.{name}", getattr(self, name), 0, 255)
        whole("attacks.steps", self.steps, 1, 100_000)
        whole("attacks.images", self.images, 1)


class _Options(Options, Protocol):
    """The options of suites that attack."""

    attacks: Attacks


class Fgsm(Classification):
    """The fast gradient sign method."""

    how: _Options
    name = "fgsm"
    groups = ("attacks",)

    def options(self) -> Any:
        return [asdict(self.how.attacks), self.how.seed]

    def parts(self) -> Iterator[SuitePart]:
        yield from chunks(self.name, self.images.subset(self.how.attacks.images, "images"))

    def tally(self, part: SuitePart) -> Tally:
        return self.count(self.batches(part), self.attacked)

    def attacked(self, images: Tensor, labels: Tensor, first: int) -> Tensor:
        """The images after the attack."""
        return attacks.fgsm(self.subject.model, images, labels, self.how.attacks.radius / 255)

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        for record in super().records(tallies):
            yield {**record, "radius": self.how.attacks.radius / 255}


class Pgd(Fgsm):
    """Projected gradient descent from a random start, which depends on the seed and the image's number alone."""

    name = "pgd"

    def attacked(self, images: Tensor, labels: Tensor, first: int) -> Tensor:
        options = self.how.attacks
        seeds = (np.random.SeedSequence([self.how.seed, first + i]).generate_state(1) for i in range(len(images)))
        generators = [torch.Generator().manual_seed(int(seed[0])) for seed in seeds]
        radius, step = options.radius / 255, options.step / 255
        return attacks.pgd(self.subject.model, images, labels, radius, step, options.steps, generators)

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        for record in super().records(tallies):
            yield {**record, "step": self.how.attacks.step / 255, "steps": self.how.attacks.steps}
