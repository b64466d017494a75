"""The losses of training, for labels and for the distributions over classes that mixed images have."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from experiments.settings import Settings

__all__ = ["loss_of"]


def loss_of(settings: Settings, classes: int) -> tuple[Any, Mixup | None]:
    """The loss of logits and labels (or mixed distributions), and the mixup or cutmix that mixes the images."""
    augmentation = settings.augmentation
    smoothing = augmentation.smoothing
    mixing = None
    if augmentation.mixup or augmentation.cutmix:
        mixing = Mixup(augmentation.mixup, augmentation.cutmix, label_smoothing=smoothing, num_classes=classes)
    if settings.optimization.loss == "ce":
        return (F.cross_entropy if mixing else _Smooth(smoothing)), mixing
    return _Binary(classes, 0.0 if mixing else smoothing), mixing


class _Smooth:
    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)


class _Binary:
    """Binary cross-entropy per class against one-hot or mixed labels."""

    def __init__(self, classes: int, smoothing: float) -> None:
        self.classes, self.smoothing = classes, smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 1:
            labels = F.one_hot(labels, self.classes) * (1 - self.smoothing) + self.smoothing / self.classes
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
