"""Accuracy on validation images under attack."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from experiments.evaluation.attacks.apgd import apgd, apgd_targeted
from experiments.evaluation.attacks.ball import Ball, Generators
from experiments.evaluation.attacks.gradient import fgsm, pgd
from experiments.evaluation.attacks.losses import LOSSES
from experiments.evaluation.attacks.noise import noise
from experiments.evaluation.attacks.square import square
from experiments.evaluation.suites.classification import Classification
from experiments.evaluation.suites.suite import Options, SuitePart, Tally, chunks
from experiments.options.limits import between, one_of, whole

__all__ = [
    "ApgdCrossEntropy",
    "ApgdDlr",
    "ApgdTargeted",
    "Attacked",
    "Attacks",
    "Fgsm",
    "Noise",
    "Pgd",
    "PgdMargin",
    "SquareSearch",
    "generators",
]


@dataclass
class Attacks:
    """How strong the attacks are. Lengths are in steps of 1/255.

    Attributes:
        radius: the radius of the ball.
        norm: the norm of the ball: linf (the largest change of a value) or l2; 127.5 is the usual radius 0.5 of l2.
        step: the length of a step of PGD.
        steps: how many steps PGD takes.
        apgd_steps: how many steps APGD takes.
        restarts: from how many random points APGD starts.
        targets: how many other classes the targeted APGD tries.
        queries: how often Square asks the model.
        draws: how many random points noise tries.
        images: how many images to attack; None: all validation images.
    """

    radius: float = 1.0
    norm: Literal["linf", "l2"] = "linf"
    step: float = 0.5
    steps: int = 5
    apgd_steps: int = 100
    restarts: int = 1
    targets: int = 9
    queries: int = 5000
    draws: int = 10
    images: int | None = None

    def check(self) -> None:
        """Raise ValueError for a ball, a step or a number that cannot be."""
        one_of("attacks.norm", self.norm, ("linf", "l2"))
        for name in ("radius", "step"):
            most = 255 if self.norm == "linf" else 255 * 1e4
            between(f"attacks.{name}", getattr(self, name), 0, most)
        for name in ("steps", "apgd_steps", "restarts", "targets", "queries", "draws"):
            whole(f"attacks.{name}", getattr(self, name), 1, 100_000)
        whole("attacks.images", self.images, 1)


class _Options(Options, Protocol):
    """The options of suites that attack."""

    attacks: Attacks


def generators(seed: int, numbers: Iterable[int]) -> list[torch.Generator]:
    """One generator for each image, which depends on the seed and the image's number alone."""
    states = (np.random.SeedSequence([seed, number]).generate_state(1) for number in numbers)
    return [torch.Generator().manual_seed(int(state[0])) for state in states]


class Attacked(Classification):
    """Accuracy after an attack. What is drawn for an image depends on the seed and the image's number alone.

    Attributes:
        uses: the options in `Attacks` that the attack takes besides the ball.
    """

    how: _Options
    groups = ("attacks",)
    default = False
    uses: ClassVar[tuple[str, ...]] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the attack takes, by their names in records; lengths are those of values in [0, 1]."""
        given = self.how.attacks
        lengths = {name: getattr(given, name) / 255 for name in ("radius", *self.uses) if name in ("radius", "step")}
        return {"norm": given.norm, **{name: getattr(given, name) for name in self.uses}, **lengths}

    def options(self) -> Any:
        return [self.settings, self.how.attacks.images, self.how.seed]

    def parts(self) -> Iterator[SuitePart]:
        yield from chunks(self.name, self.images.subset(self.how.attacks.images, "images"))

    def tally(self, part: SuitePart) -> Tally:
        return self.count(part, self.batches(part), self.attacked)

    def attacked(self, images: Tensor, labels: Tensor, first: int) -> Tensor:
        """The images after the attack. `first` is the number of the first of them."""
        own = generators(self.how.seed, range(first, first + len(images)))
        ball = Ball(self.how.attacks.radius / 255, self.how.attacks.norm)
        return self.attack(self.subject.model, images, labels, ball, own)

    @abstractmethod
    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, generators: Generators) -> Tensor:
        """Images in the ball that the model should get wrong."""

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        for record in super().records(tallies):
            yield {**record, **self.settings}


class Fgsm(Attacked):
    """The fast gradient sign method."""

    name = "fgsm"
    default = True

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, generators: Generators) -> Tensor:
        return fgsm(model, images, labels, ball)


class Pgd(Attacked):
    """Projected gradient descent from a random start.

    Attributes:
        loss: the name of the loss that it climbs.
    """

    name = "pgd"
    default = True
    uses = ("step", "steps")
    loss: ClassVar[str] = "cross_entropy"

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, generators: Generators) -> Tensor:
        given = self.how.attacks
        return pgd(model, images, labels, ball, given.step / 255, given.steps, generators, LOSSES[self.loss])


class PgdMargin(Pgd):
    """Projected gradient descent on the margin."""

    name = "pgd-margin"
    default = False
    loss = "margin"


class ApgdCrossEntropy(Attacked):
    """Auto-PGD on the cross-entropy.

    Attributes:
        loss: the name of the loss that it climbs.
    """

    name = "apgd-ce"
    uses = ("apgd_steps", "restarts")
    loss: ClassVar[str] = "cross_entropy"

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, generators: Generators) -> Tensor:
        given = self.how.attacks
        loss = LOSSES[self.loss]
        return apgd(model, images, labels, ball, given.apgd_steps, given.restarts, generators, loss)


class ApgdDlr(ApgdCrossEntropy):
    """Auto-PGD on the difference of logits ratio."""

    name = "apgd-dlr"
    loss = "dlr"


class ApgdTargeted(Attacked):
    """Auto-PGD towards the most likely other classes, one after the other."""

    name = "apgd-t"
    uses = ("apgd_steps", "targets")

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, generators: Generators) -> Tensor:
        given = self.how.attacks
        return apgd_targeted(model, images, labels, ball, given.apgd_steps, given.targets, generators)


class SquareSearch(Attacked):
    """The Square attack, which sees logits only."""

    name = "square"
    uses = ("queries",)

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, generators: Generators) -> Tensor:
        return square(model, images, labels, ball, self.how.attacks.queries, generators)


class Noise(Attacked):
    """The worst of some random points of the ball."""

    name = "noise"
    uses = ("draws",)

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, generators: Generators) -> Tensor:
        return noise(model, images, labels, ball, self.how.attacks.draws, generators)
