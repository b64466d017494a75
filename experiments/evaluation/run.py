"""Evaluation of a model on suites: see `experiments.evaluation.suites`."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from experiments.data.images import Labelled
from experiments.evaluation.suites import SUITES, Subject, run_suite
from experiments.evaluation.suites.attacked import Attacks
from experiments.evaluation.suites.audited import Audit
from experiments.evaluation.suites.corrupted import Corruptions
from experiments.evaluation.suites.mapped import Maps
from experiments.evaluation.suites.mit1003 import Gaze
from experiments.evaluation.suites.pacs import Pacs
from experiments.evaluation.suites.voc import Segmentation
from experiments.evaluation.trained import Trained
from experiments.options.limits import one_of, whole
from experiments.report import records
from experiments.settings import Data

__all__ = [
    "BY_DEFAULT",
    "ON_VALIDATION_IMAGES",
    "Attacks",
    "Audit",
    "Corruptions",
    "Evaluation",
    "Gaze",
    "Maps",
    "Pacs",
    "Segmentation",
    "evaluate",
    "evaluate_on",
    "measure",
]

#: The suites that measure on the images that a model was validated on. They need no other data.
ON_VALIDATION_IMAGES = tuple(name for name, suite in SUITES.items() if suite.needs is None)

#: Those of them that are measured when no suites are named. The strong attacks cost far more than the others.
BY_DEFAULT = tuple(name for name in ON_VALIDATION_IMAGES if SUITES[name].default)


@dataclass
class Evaluation:
    """What to evaluate on, and how.

    Attributes:
        on: the suites. clean, corruptions, fgsm, pgd and the other attacks measure on the validation images; imagenet,
            imagenet-c, imagenet-r, ... measure on a folder of data sets.
        corruptions: which corruptions.
        attacks: how strong the attacks are.
        audit: what the audit of attacks checks besides.
        pacs: how to fine-tune on PACS.
        maps: which attention maps.
        segmentation: what counts as foreground.
        gaze: what counts as a fixation.
        seed: the seed of corruptions, attacks and fine-tuning.
        batch_size: how many images are computed at a time.
        workers: threads that read images; 0: the main thread reads them.
        device: cpu, cuda, ...; auto: a GPU if there is one.
        predictions: what is stored of each image: scores (label, answer, its probability, and the NLL) or logits (these
            and all logits, which take 4 bytes for each image and class).
        progress: show the progress bar.
    """

    on: Sequence[str] = BY_DEFAULT
    corruptions: Corruptions = field(default_factory=Corruptions)
    attacks: Attacks = field(default_factory=Attacks)
    audit: Audit = field(default_factory=Audit)
    pacs: Pacs = field(default_factory=Pacs)
    maps: Maps = field(default_factory=Maps)
    segmentation: Segmentation = field(default_factory=Segmentation)
    gaze: Gaze = field(default_factory=Gaze)
    seed: int = 0
    batch_size: int = 128
    workers: int = 0
    device: str = "auto"
    predictions: Literal["scores", "logits"] = "scores"
    progress: bool = True

    def __post_init__(self) -> None:
        for name in self.on:
            if name not in SUITES:
                raise ValueError(f"on has {name!r}; one or more of {', '.join(SUITES)} are wanted, separated by commas")
        for group in dict.fromkeys(group for suite in SUITES.values() for group in suite.groups):
            if hasattr(getattr(self, group), "check"):
                getattr(self, group).check()
        whole("seed", self.seed, 0, 2**63 - 1)
        whole("batch_size", self.batch_size, 1)
        whole("workers", self.workers, 0, 1024)
        one_of("predictions", self.predictions, ("scores", "logits"))
        device_of(self.device)


def device_of(name: str) -> torch.device:
    """The device that an evaluation runs on. Raises ValueError for one that this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(f"device is {name!r}, which this machine does not have ({reason}); cpu is wanted") from None
    return device


def evaluate(model: nn.Module, images: Labelled, data: Data, how: Evaluation | None = None) -> Iterator[dict[str, Any]]:
    """Evaluate on the suites of validation images, and yield a record {metric, on, value, images, ...} per number.

    `model` maps images in [0, 1] to logits over `images.classes` (see `experiments.training.networks.Normalized`). It
    runs in eval mode and in float32.
    """
    yield from evaluate_on(Subject(model, data, images.classes, images), how)


def evaluate_on(subject: Subject, how: Evaluation | None = None, parts: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield a record {metric, on, value, ...} per number, suite by suite.

    The ledgers in the folder `parts` say which parts the same model has finished under the same options. These are not
    measured again.
    """
    how = how or Evaluation()
    device = device_of(how.device)
    was_training = subject.model.training
    subject.model.to(device).eval()
    if subject.other is not None:
        subject.other.model.to(device).eval()
    if subject.images is not None:
        subject = replace(subject, images=subject.images.decoded(subject.data))
    try:
        for name in how.on:
            yield from run_suite(SUITES[name](subject, how), parts)
    finally:
        subject.model.train(was_training)


def measure(
    found: Trained,
    how: Evaluation,
    out: Path,
    root: Path | None = None,
    label: str | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Evaluate a trained model, and return the records. This is the one way from a checkpoint to records.

    As soon as a suite is done, its records are put into `out`/records.jsonl, where they replace those of the same
    measurement. All others stay: those of other suites, models, labels and options, and those of an interrupted run.

    Args:
        found: the model.
        how: what to evaluate on, and how.
        out: the folder of the results; its folder parts has the ledgers of finished parts.
        root: the folder of the suites' data sets.
        label: the label of the records; None: the model's name.
        more: further fields of the records.
    """
    subject = found.subject(root, out)
    about = found.about(label, **more)
    origin = {**records.provenance(), "weights": subject.digest()[:16]}
    measured = []
    for name, figures in itertools.groupby(evaluate_on(subject, how, out / "parts"), lambda figure: figure["on"]):
        suite = SUITES[name](subject, how)
        which = [suite.measurement(), about["label"], about["seed"], how.seed]
        origin["measurement"] = hashlib.sha256(json.dumps(which, sort_keys=True).encode()).hexdigest()[:16]
        kept = {"predictions": suite.place} if suite.stored else {}
        own = [{**figure, **about, "evaluation_seed": how.seed, **origin, **kept} for figure in figures]
        records.merge(out / "records.jsonl", own)
        measured += own
    return measured
