"""What a model can be evaluated on: one class per suite, found by the name that `--on` takes."""

from __future__ import annotations

from experiments.evaluation.suites.attacked import (
    ApgdCrossEntropy,
    ApgdDlr,
    ApgdTargeted,
    Fgsm,
    Noise,
    Pgd,
    PgdMargin,
    SquareSearch,
)
from experiments.evaluation.suites.audited import AttackAudit
from experiments.evaluation.suites.cifar_c import Cifar10C, Cifar100C
from experiments.evaluation.suites.classification import Clean
from experiments.evaluation.suites.corrupted import Corrupted, ImageNet3DCC, ImageNetC
from experiments.evaluation.suites.imagenet import (
    ImageNet,
    ImageNetA,
    ImageNetR,
    ImageNetSketch,
    ImageNetV2,
    StylizedImageNet,
)
from experiments.evaluation.suites.mit1003 import Mit1003
from experiments.evaluation.suites.pacs import PacsTransfer
from experiments.evaluation.suites.suite import Subject, Suite, SuitePart, run_suite
from experiments.evaluation.suites.voc import VocSegmentation

__all__ = ["SUITES", "Subject", "Suite", "SuitePart", "run_suite"]

_ALL: tuple[type[Suite], ...] = (
    Clean,
    Corrupted,
    Fgsm,
    Pgd,
    PgdMargin,
    ApgdCrossEntropy,
    ApgdDlr,
    ApgdTargeted,
    SquareSearch,
    Noise,
    AttackAudit,
    ImageNet,
    ImageNetC,
    ImageNetR,
    ImageNetA,
    ImageNetSketch,
    ImageNetV2,
    StylizedImageNet,
    ImageNet3DCC,
    Cifar10C,
    Cifar100C,
    PacsTransfer,
    VocSegmentation,
    Mit1003,
)

#: Name to suite.
SUITES: dict[str, type[Suite]] = {suite.name: suite for suite in _ALL}
