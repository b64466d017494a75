"""Whether a model resists attacks, or its gradients mislead them: several attacks and checks on the same images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from experiments.data.images import as_images
from experiments.evaluation.attacks import checks
from experiments.evaluation.attacks.ball import Ball, wrong
from experiments.evaluation.attacks.gradient import pgd
from experiments.evaluation.attacks.losses import margin
from experiments.evaluation.measures import masking
from experiments.evaluation.per_image import Described
from experiments.evaluation.suites import attacked
from experiments.evaluation.suites.attacked import Attacked, Attacks
from experiments.evaluation.suites.classification import Classification, interval_of
from experiments.evaluation.suites.suite import Options, SuitePart, Tally, chunks
from experiments.evaluation.varied import solved_otherwise
from experiments.options.limits import between, whole
from experiments.report import tables

__all__ = ["AttackAudit", "Audit"]

#: The attacks that follow the model's gradient, with the fewest classes that each can be asked of.
_BY_GRADIENT: dict[type[Attacked], int] = {
    attacked.Fgsm: 2,
    attacked.Pgd: 2,
    attacked.PgdMargin: 2,
    attacked.ApgdCrossEntropy: 2,
    attacked.ApgdDlr: 3,
    attacked.ApgdTargeted: 4,
}

#: How many images a part has, so that an interruption loses little.
_IMAGES_OF_A_PART = 100


@dataclass
class Audit:
    """What an audit of attacks checks, besides the attacks themselves.

    Attributes:
        images: how many validation images are attacked, at most.
        steps: numbers of steps of PGD, over which accuracy should fall.
        radii: radii as multiples of that of the attacks, over which accuracy should fall.
        climb: how many steps PGD takes at each of the radii, and on other models and solvers.
    """

    images: int = 200
    steps: list[int] = field(default_factory=lambda: [1, 5, 20, 80])
    radii: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0])
    climb: int = 20

    def check(self) -> None:
        """Raise ValueError for numbers that cannot be, or that do not rise."""
        whole("audit.images", self.images, 1)
        whole("audit.climb", self.climb, 1, 100_000)
        for number in self.steps:
            whole("audit.steps", number, 1, 100_000)
        for radius in self.radii:
            between("audit.radii", radius, 1e-6, 1e6)
        for name in ("steps", "radii"):
            given = getattr(self, name)
            if not given or any(b <= a for a, b in itertools.pairwise(given)):
                raise ValueError(f"audit.{name} is {given}; one or more rising numbers are wanted")


class _Options(Options, Protocol):
    """The options of attacks and of their audit."""

    attacks: Attacks
    audit: Audit


class AttackAudit(Classification):
    """The accuracy after the worst of all attacks on each image, and signs that the gradients mislead attacks.

    The attacks are those of the suites of these names; `square` for the ball of the maximum norm only; PGD on another
    model, if there is one, whose images are tried on this one (`transfer`); and for models with VARS layers PGD through
    the same layers solved in another way (`pgd-implicit` or `pgd-unrolled`). Only images that are classified right are
    attacked.
    """

    how: _Options
    name = "attack-audit"
    groups = ("attacks", "audit")
    default = False

    @property
    def ball(self) -> Ball:
        """The ball of the attacks."""
        return Ball(self.how.attacks.radius / 255, self.how.attacks.norm)

    @property
    def largest(self) -> float:
        """A radius within which any image can become grey, and so every model's answer can be changed."""
        pixels = 3 * self.subject.data.image_size**2
        return 0.5 if self.ball.norm == "linf" else 0.5 * pixels**0.5

    @property
    def radii(self) -> list[float]:
        """The radii over which accuracy should fall, in values of [0, 1]."""
        own = [self.ball.radius * factor for factor in self.how.audit.radii]
        return [*(radius for radius in own if radius < self.largest), self.largest]

    @property
    def by_gradient(self) -> list[Attacked]:
        """The attacks that follow the model's gradient."""
        classes = len(self.subject.classes)
        return [kind(self.subject, self.how) for kind, least in _BY_GRADIENT.items() if classes >= least]

    @property
    def others(self) -> list[str]:
        """The attacks that do not need the model's gradient to be right."""
        solved = [] if (found := solved_otherwise(self.subject.model)) is None else [f"pgd-{found[0]}"]
        square = ["square"] if self.ball.norm == "linf" else []
        transfer = [] if self.subject.other is None else ["transfer"]
        return ["noise", *square, *solved, *transfer]

    @property
    def stored(self) -> Mapping[str, Described]:
        return {
            "right": Described("whether the answer is right after the attack", ("attack",)),
            "right_by_steps": Described("whether it is right after PGD of so many steps", ("steps",)),
            "right_by_radius": Described("whether it is right after PGD in a ball of this radius", ("radius",)),
            "zero": Described("whether the gradient of the margin vanishes"),
            "zero_cross_entropy": Described("whether the gradient of the cross-entropy vanishes"),
            "zeros": Described("share of zeros in the gradient of the margin"),
            "difference_error": Described("relative error of the gradient against finite differences"),
            "uphill": Described("whether the gradient raises the margin more than a random direction"),
            "repeats": Described("whether the model gives the same logits twice"),
        }

    @property
    def attacks(self) -> list[str]:
        """The names of all attacks, after `none`."""
        return ["none", *(attack.name for attack in self.by_gradient), *self.others]

    def axes(self, part: SuitePart) -> Mapping[str, Sequence[Any]]:
        return {"attack": self.attacks, "steps": self.how.audit.steps, "radius": self.radii}

    def options(self) -> Any:
        other = None if self.subject.other is None else self.subject.other.digest()
        return [asdict(self.how.attacks), asdict(self.how.audit), self.how.seed, other]

    def parts(self) -> Iterator[SuitePart]:
        self._check_other()
        images = self.images
        chosen = images.subset(min(self.how.audit.images, len(images)), "images")
        yield from chunks(self.name, chosen, _IMAGES_OF_A_PART)

    def _check_other(self) -> None:
        other = self.subject.other
        if other is None:
            return
        if list(other.classes) != list(self.subject.classes) or other.data.image_size != self.subject.data.image_size:
            raise ValueError(
                f"transfer-from is a model of {len(other.classes)} classes for images of {other.data.image_size} "
                f"pixels; the same {len(self.subject.classes)} classes and {self.subject.data.image_size} pixels are "
                "wanted"
            )

    def tally(self, part: SuitePart) -> Tally:
        batches = [
            self._audited(as_images(pixels).to(self.subject.device), labels.to(self.subject.device), first)
            for pixels, labels, first in self.batches(part)
        ]
        found = {name: np.concatenate([each[name] for each in batches]) for name in self.stored}
        self.kept.add(part, found)
        return {"images": len(part.images), "right": int(found["right"].all(1).sum())}

    def _audited(self, images: Tensor, labels: Tensor, first: int) -> dict[str, np.ndarray]:
        model, numbers = self.subject.model, range(first, first + len(images))
        zero = checks.zero_gradients(model, images, labels)
        chosen = (~wrong(model, images, labels)).nonzero().flatten()
        attacked_images = _Batch(images, labels, chosen, [numbers[i] for i in chosen.tolist()])
        audit = self.how.audit
        found = {
            "right": self._right(attacked_images, [images, *self._attacks(attacked_images)]),
            "right_by_steps": self._right(
                attacked_images, [self._pgd(model, attacked_images, self.ball, steps) for steps in audit.steps]
            ),
            "right_by_radius": self._right(
                attacked_images,
                [self._pgd(model, attacked_images, Ball(r, self.ball.norm), audit.climb) for r in self.radii],
            ),
            "zero": zero["margin"],
            "zero_cross_entropy": zero["cross_entropy"],
            "zeros": zero["zeros"],
            "difference_error": checks.difference_errors(
                model, images, labels, attacked.generators(self.how.seed, numbers)
            ),
            "uphill": checks.uphill(model, images, labels, self.ball, attacked.generators(self.how.seed, numbers)),
            "repeats": checks.repeats(model, images),
        }
        return {name: each.cpu().numpy() for name, each in found.items()}

    def _attacks(self, batch: _Batch) -> Iterator[Tensor]:
        """The images after each of `attacks` but the first."""
        attackers: list[Attacked] = [*self.by_gradient, attacked.Noise(self.subject, self.how)]
        if "square" in self.others:
            attackers.append(attacked.SquareSearch(self.subject, self.how))
        model, seed = self.subject.model, self.how.seed
        for attack in attackers:
            yield batch.changed(lambda *own, by=attack: by.attack(model, *own, self.ball, batch.generators(seed)))
        if (otherwise := solved_otherwise(model)) is not None:
            with otherwise[1]:
                yield self._pgd(model, batch, self.ball, self.how.audit.climb)
        if self.subject.other is not None:
            yield self._pgd(self.subject.other.model, batch, self.ball, self.how.audit.climb)

    def _pgd(self, model: nn.Module, batch: _Batch, ball: Ball, steps: int) -> Tensor:
        """The images after PGD on the margin, with steps that together are 2.5 times as long as the radius."""
        generators, step = batch.generators(self.how.seed), 2.5 * ball.radius / steps
        return batch.changed(lambda images, labels: pgd(model, images, labels, ball, step, steps, generators, margin))

    def _right(self, batch: _Batch, attacked_images: Sequence[Tensor]) -> Bool[Tensor, "b attacks"]:
        """Whether the model is right about each image after each attack, and about the image itself."""
        clean = ~wrong(self.subject.model, batch.images, batch.labels)
        found = [clean & ~wrong(self.subject.model, each, batch.labels) for each in attacked_images]
        return torch.stack(found, 1)

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        found = self.kept.together(list(tallies), list(self.stored))
        images, seed = len(found["zero"]), self.how.seed
        ball = {"norm": self.ball.norm, "radius": self.ball.radius, "images": images}
        right = dict(zip(self.attacks, found["right"].T, strict=True))
        by_gradient = {attack.name for attack in self.by_gradient}
        broken = {name: right["none"] & ~each for name, each in right.items()}
        seen = np.any([broken[name] for name in by_gradient], axis=0)
        signs: list[str] = []

        def record(metric: str, value: float, sign: str | None, **more: Any) -> dict[str, Any]:
            signs.extend([sign] if sign else [])
            return {"metric": metric, "value": float(value), **ball, **more, "sign": sign}

        for name, each in right.items():
            sign = None if name in {"none", *by_gradient} else masking.missed(name, broken[name] & ~seen, right["none"])
            yield record("accuracy", each.mean(), sign, attack=name, **interval_of(each, seed))
        worst = np.all(list(right.values()), axis=0)
        bounds = interval_of(worst, seed)
        yield record("worst_case_accuracy", worst.mean(), None, **bounds)
        steps, radii = self.how.audit.steps, self.radii
        for number, each, sign in masking.falling("steps", steps, found["right_by_steps"]):
            yield record("accuracy_by_steps", each, sign, steps=number)
        shown = [f"{255 * radius:g}/255" for radius in radii]
        for number, (_, each, sign) in zip(
            radii, masking.falling("radius", shown, found["right_by_radius"], right["none"]), strict=True
        ):
            yield record("accuracy_by_radius", each, sign, radius=number)
        for metric, (value, sign) in masking.gradients(found).items():
            yield record(metric, value, sign)
        attack = f"{len(self.attacks) - 1} attacks ({ball['norm']}, {self.how.attacks.radius:g}/255)"
        verdict = masking.verdict(signs, right["none"].mean(), worst.mean(), bounds, images, attack)
        yield {**record("signs_of_masking", len(signs), None), "verdict": verdict}

    @classmethod
    def report(cls, found: Sequence[Mapping[str, Any]], out: Path) -> None:
        rows = [[_title(record), _shown(record), record["sign"]] for record in found if "verdict" not in record]
        (verdict,) = [record["verdict"] for record in found if "verdict" in record]
        table = tables.markdown(["check", "value", "sign that gradients mislead"], rows, left=1)
        (out / "attack-audit.md").write_text(f"{table}\n{verdict}\n")


class _Batch:
    """Images, and those of them that are attacked."""

    def __init__(self, images: Tensor, labels: Tensor, chosen: Tensor, numbers: Sequence[int]) -> None:
        self.images, self.labels, self.chosen, self.numbers = images, labels, chosen, numbers

    def generators(self, seed: int) -> list[torch.Generator]:
        """New generators for the images that are attacked."""
        return attacked.generators(seed, self.numbers)

    def changed(self, attack: Callable[..., Tensor]) -> Tensor:
        """All images, where those that are attacked are what `attack` makes of them and their labels."""
        if not len(self.chosen):
            return self.images
        return self.images.index_copy(0, self.chosen, attack(self.images[self.chosen], self.labels[self.chosen]))


_TITLES = {
    "worst_case_accuracy": "accuracy after the worst attack on each image",
    "zero_gradients": "images whose gradient of the margin vanishes",
    "zero_cross_entropy_gradients": "images whose gradient of the cross-entropy vanishes",
    "zeros_in_gradients": "zeros in the gradient of the margin",
    "difference_error": "median error of the gradient against finite differences",
    "difference_disagreement": "images with an error above 1 %",
    "uphill": "images on which the gradient beats a random direction",
    "repeatable": "images with the same logits twice",
}


def _title(record: Mapping[str, Any]) -> str:
    if record["metric"] == "accuracy":
        return "accuracy without attack" if record["attack"] == "none" else f"accuracy after {record['attack']}"
    if record["metric"] == "accuracy_by_steps":
        return f"accuracy after PGD of {record['steps']} step{'' if record['steps'] == 1 else 's'}"
    if record["metric"] == "accuracy_by_radius":
        return f"accuracy after PGD of radius {255 * record['radius']:.4g}/255"
    return _TITLES[record["metric"]]


def _shown(record: Mapping[str, Any]) -> str:
    if record["metric"] == "difference_error":
        return f"{record['value']:.1e}"
    bounds = f" [{100 * record['low']:.1f}, {100 * record['high']:.1f}]" if "low" in record else ""
    return f"{100 * record['value']:.1f} %{bounds}"
