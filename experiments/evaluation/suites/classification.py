"""What suites of classification share: batches of images, and the number that are classified right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from experiments.data.images import as_images, evaluation_images
from experiments.evaluation.suites.suite import Suite, SuitePart, Tally, chunks
from experiments.settings import Data

__all__ = ["Classification", "Clean"]

Batch = tuple[UInt8[np.ndarray, "n h w 3"], Int[Tensor, " n"], int]


class Classification(Suite):
    """Measures accuracy. A tally is the number of images and the number that are classified right."""

    def batches(self, part: SuitePart, data: Data | None = None) -> Iterator[Batch]:
        """Images as bytes, their labels, and the number of the first of them in the set."""
        data, size = data or self.subject.data, self.how.batch_size
        starts = range(0, len(part.images), size)
        shown = None if self.how.progress else True
        for start in tqdm(starts, desc=part.name, unit=" batches", disable=shown, leave=False):
            pixels, labels = evaluation_images(part.images, data, start, start + size, self.how.workers)
            yield pixels, labels, part.first + start

    def answers(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, " b"]:
        """The class of each image according to the model."""
        return self.subject.model(images).argmax(-1)

    def count(
        self, batches: Iterator[Batch], change: Callable[[Tensor, Tensor, int], Tensor] | None = None
    ) -> dict[str, int]:
        """How many images are classified right, after `change` (images, labels, number of the first) if it is given."""
        right = images = 0
        for pixels, labels, first in batches:
            shown, labels = as_images(pixels).to(self.subject.device), labels.to(self.subject.device)
            if change is not None:
                shown = change(shown, labels, first)
            with torch.no_grad():
                right += int((self.answers(shown) == labels).sum())
            images += len(labels)
        return {"right": right, "images": images}

    def tally(self, part: SuitePart) -> Tally:
        return self.count(self.batches(part))

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        yield accuracy(tallies.values())


def accuracy(tallies: Any) -> dict[str, Any]:
    """The record of the accuracy over all `tallies`."""
    right, images = (sum(tally[name] for tally in tallies) for name in ("right", "images"))
    return {"metric": "accuracy", "value": right / images, "images": images}


class Clean(Classification):
    """The validation images as they are."""

    name = "clean"

    def parts(self) -> Iterator[SuitePart]:
        yield from chunks(self.name, self.images)
