"""Accuracy on clean, corrupted and attacked images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from experiments import attacks
from experiments.corruptions import ALEXNET_ERRORS, CORRUPTIONS, SEVERITIES, corrupt_all
from experiments.data import Labelled, as_images, evaluation_images, folder_classes, image_files, read_image
from experiments.settings import Data

__all__ = ["KINDS", "Attacks", "Corruptions", "Evaluation", "evaluate"]

KINDS = ("clean", "corruptions", "fgsm", "pgd")


@dataclass
class Corruptions:
    """Corrupted images.

    Attributes:
        names: which; empty: all 15.
        severities: which.
        folder: a folder laid out like ImageNet-C, <corruption>/<severity>/<class>/*, to read instead of making them;
            mCE, normalised by AlexNet's errors, is reported too if all are there.
        cache: a folder to keep the images made in, for evaluations of other models on the same images.
    """

    names: list[str] = field(default_factory=list)
    severities: list[int] = field(default_factory=lambda: list(SEVERITIES))
    folder: str | None = None
    cache: str | None = None


@dataclass
class Attacks:
    """The L-infinity ball of FGSM and PGD, in steps of 1/255.

    Attributes:
        radius: of the ball.
        step: of PGD.
        steps: of PGD.
        images: how many images to attack; None: all that are evaluated.
    """

    radius: float = 1.0
    step: float = 0.5
    steps: int = 5
    images: int | None = None


@dataclass
class Evaluation:
    """What to evaluate on, and how.

    Attributes:
        on: kinds of images: clean, corruptions, fgsm, pgd.
        seed: of corruptions and attacks.
        batch_size: images at a time.
        device: cpu, cuda, ...; auto: a GPU if there is one.
        progress: show the progress bar.
    """

    on: Sequence[str] = KINDS
    corruptions: Corruptions = field(default_factory=Corruptions)
    attacks: Attacks = field(default_factory=Attacks)
    seed: int = 0
    batch_size: int = 128
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        for kind in self.on:
            if kind not in KINDS:
                raise ValueError(f"on has {kind!r}; of {', '.join(KINDS)}, separated by commas, is wanted")
        for name in self.corruptions.names:
            if name not in CORRUPTIONS:
                raise ValueError(f"corruptions.names has {name!r}; of {', '.join(CORRUPTIONS)} is wanted")
        for severity in self.corruptions.severities:
            if severity not in SEVERITIES:
                raise ValueError(f"corruptions.severities has {severity}; integers from 1 to 5 are wanted")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; an integer of at least 1 is wanted")


def evaluate(model: nn.Module, images: Labelled, data: Data, how: Evaluation | None = None) -> Iterator[dict[str, Any]]:
    """Yield a record {metric, on, value, images, ...} per number, as it is measured.

    `model` maps images in [0, 1] to logits over `images.classes` (see `experiments.networks.Normalized`); it is
    evaluated in eval mode, in float32.
    """
    how = how or Evaluation()
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if how.device == "auto" else how.device)
    was_training = model.training
    model.to(device).eval()
    images = images.decoded(data)
    try:
        yield from _clean(model, images, data, how, device)
        yield from _corruptions(model, images, data, how, device)
        for name in ("fgsm", "pgd"):
            if name in how.on:
                yield from _attacked(name, model, images, data, how, device)
    finally:
        model.train(was_training)


def _clean(
    model: nn.Module, images: Labelled, data: Data, how: Evaluation, device: torch.device
) -> Iterator[dict[str, Any]]:
    if "clean" not in how.on:
        return
    right = _correct(model, _batches(images, data, how, "clean"), device)
    yield {"metric": "accuracy", "on": "clean", "value": right / len(images), "images": len(images)}


def _corruptions(
    model: nn.Module, images: Labelled, data: Data, how: Evaluation, device: torch.device
) -> Iterator[dict[str, Any]]:
    if "corruptions" not in how.on:
        return
    folder = how.corruptions.folder
    errors: dict[str, list[float]] = {}
    shown = None if how.progress else True
    cells = [(n, s) for n in how.corruptions.names or CORRUPTIONS for s in how.corruptions.severities]
    for name, severity in tqdm(cells, desc="corruptions", unit=" sets", disable=shown, leave=False):
        if folder is None:
            right = _correct(model, _corrupted(images, data, how, name, severity), device)
            count = len(images)
        else:
            stored = _stored(Path(folder) / name / str(severity), images.classes)
            right = _correct(model, _batches(stored, data, how, name), device)
            count = len(stored)
        errors.setdefault(name, []).append(1 - right / count)
        record = {"metric": "accuracy", "on": "corruptions", "corruption": name, "severity": severity}
        yield {**record, "value": right / count, "images": count, "source": folder or "generated"}
    means = {name: math.fsum(values) / len(values) for name, values in errors.items()}
    mean = math.fsum(means.values()) / len(means)
    yield {
        "metric": "mean_corruption_error_unnormalised",
        "on": "corruptions",
        "value": mean,
        "corruptions": len(means),
    }
    if folder is not None and set(means) == set(CORRUPTIONS) and list(how.corruptions.severities) == list(SEVERITIES):
        ratios = [error / ALEXNET_ERRORS[name] for name, error in means.items()]
        yield {"metric": "mce_alexnet", "on": "corruptions", "value": 100 * math.fsum(ratios) / len(ratios)}


def _stored(folder: Path, classes: Sequence[str]) -> Labelled:
    """The images of an ImageNet-C style folder, whose classes must be the model's."""
    found = folder_classes(folder)
    if found != list(classes):
        raise ValueError(f"{folder} has {len(found)} classes, not the model's {len(classes)}; the same are wanted")
    files = [(path, label) for label, name in enumerate(found) for path in image_files(folder / name)]
    return Labelled([path for path, _ in files], [label for _, label in files], found, read_image)


Batch = tuple[UInt8[np.ndarray, "n h w 3"], Int[Tensor, " n"]]


def _batches(images: Labelled, data: Data, how: Evaluation, what: str) -> Iterator[Batch]:
    starts = range(0, len(images), how.batch_size)
    for start in tqdm(starts, desc=what, unit=" batches", disable=None if how.progress else True, leave=False):
        yield evaluation_images(images, data, start, start + how.batch_size)


def _corrupted(images: Labelled, data: Data, how: Evaluation, name: str, severity: int) -> Iterator[Batch]:
    """Batches of corrupted images, kept in the cache, where there is one, under a digest of what they were made of."""
    for start in range(0, len(images), how.batch_size):
        pixels, labels = evaluation_images(images, data, start, start + how.batch_size)
        numbers = range(start, start + len(pixels))
        if how.corruptions.cache is None:
            yield corrupt_all(pixels, name, severity, how.seed, numbers), labels
            continue
        key = hashlib.sha256(pixels.tobytes() + f"{name} {severity} {how.seed} {start}".encode()).hexdigest()[:24]
        path = Path(how.corruptions.cache) / f"{name}-{severity}-{key}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, corrupt_all(pixels, name, severity, how.seed, numbers), allow_pickle=False)
            partial.replace(path)
        yield np.load(path, allow_pickle=False), labels


def _attacked(
    name: str, model: nn.Module, images: Labelled, data: Data, how: Evaluation, device: torch.device
) -> Iterator[dict[str, Any]]:
    options = how.attacks
    chosen = images.subset(options.images, "images")
    radius = options.radius / 255
    generator = torch.Generator(device).manual_seed(how.seed)
    attack: Callable[[Tensor, Tensor], Tensor]
    if name == "fgsm":
        attack = lambda x, y: attacks.fgsm(model, x, y, radius)  # noqa: E731
    else:
        attack = lambda x, y: attacks.pgd(model, x, y, radius, options.step / 255, options.steps, generator)  # noqa: E731
    right = _correct(model, _batches(chosen, data, how, name), device, attack)
    record = {"metric": "accuracy", "on": name, "value": right / len(chosen), "images": len(chosen), "radius": radius}
    yield record if name == "fgsm" else {**record, "step": options.step / 255, "steps": options.steps}


def _correct(
    model: nn.Module,
    batches: Iterator[Batch],
    device: torch.device,
    attack: Callable[[Float[Tensor, "b 3 h w"], Tensor], Tensor] | None = None,
) -> int:
    """How many images are classified right, after `attack` if there is one."""
    right = 0
    for pixels, labels in batches:
        images, labels = as_images(pixels).to(device), labels.to(device)
        if attack is not None:
            images = attack(images, labels)
        with torch.no_grad():
            right += int((model(images).argmax(-1) == labels).sum())
    return right
