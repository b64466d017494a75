"""What suites of classification share: batches of images, and the model's prediction for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from experiments.data.images import as_images, evaluation_images
from experiments.evaluation.measures.calibration import BINS, calibration_error
from experiments.evaluation.measures.intervals import LEVEL, mean_interval
from experiments.evaluation.per_image import Described
from experiments.evaluation.suites.suite import Suite, SuitePart, Tally, chunks
from experiments.settings import Data

__all__ = ["Batch", "Classification", "Clean", "accuracy", "interval_of"]

Batch = tuple[UInt8[np.ndarray, "n h w 3"], Int[Tensor, " n"], int]

#: What is kept of each image, with its meaning.
_SCORES = {
    "label": Described("number of the image's class"),
    "answer": Described("number of the class with the largest logit"),
    "confidence": Described("probability of the answer by the softmax"),
    "nll": Described("negative logarithm of the label's probability"),
}
_LOGITS = {"logit": Described("logit of the class", ("class",))}


class Classification(Suite):
    """Measures accuracy, NLL and calibration. A tally is the number of images, and the number classified right.

    `Suite.kept` gets the prediction for each image; with `--predictions logits` the logits, too.
    """

    @property
    def stored(self) -> Mapping[str, Described]:
        return {**_SCORES, **_LOGITS} if self.how.predictions == "logits" else _SCORES

    def axes(self, part: SuitePart) -> Mapping[str, Sequence[str]]:
        return {"class": part.images.classes}

    def batches(self, part: SuitePart, data: Data | None = None) -> Iterator[Batch]:
        """Images as bytes, their labels, and the number of the first of them in the set."""
        data, size = data or self.subject.data, self.how.batch_size
        starts = range(0, len(part.images), size)
        shown = None if self.how.progress else True
        for start in tqdm(starts, desc=part.name, unit=" batches", disable=shown, leave=False):
            pixels, labels = evaluation_images(part.images, data, start, start + size, self.how.workers)
            yield pixels, labels, part.first + start

    def logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """The model's logits of the classes that an image can have."""
        return self.subject.model(images)

    def count(
        self,
        part: SuitePart,
        batches: Iterable[Batch],
        change: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    ) -> dict[str, int]:
        """The tally of a part, and what is kept of its images.

        `change` (images, labels, number of the first) changes images before the model sees them.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for pixels, labels, first in batches:
            shown, labels = as_images(pixels).to(self.subject.device), labels.to(self.subject.device)
            if change is not None:
                shown = change(shown, labels, first)
            with torch.no_grad():
                found.append((self.logits(shown).cpu(), labels.cpu()))
        logits, labels = (torch.cat(each) for each in zip(*found, strict=True))
        scores = _scores(logits, labels)
        stored = "logit" in self.stored and self.kept.folder is not None  # they may be too large for the memory
        self.kept.add(part, {**scores, **({"logit": logits.float().numpy()} if stored else {})})
        return {"right": int((scores["answer"] == scores["label"]).sum()), "images": len(labels)}

    def tally(self, part: SuitePart) -> Tally:
        return self.count(part, self.batches(part))

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        yield {**accuracy(tallies.values()), **self.interval(list(tallies))}
        yield from self.trust(list(tallies))

    def right(self, parts: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Whether each image of some parts is classified right."""
        found = self.kept.together(parts, ("answer", "label"))
        return found["answer"] == found["label"]

    def interval(self, parts: Sequence[str]) -> dict[str, float]:
        """The bootstrap interval of the accuracy over the images of some parts."""
        return interval_of(self.right(parts), self.how.seed)

    def trust(self, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The records of the NLL and the calibration error over the images of some parts."""
        found = self.kept.together(parts, ("nll", "confidence"))
        nll = found["nll"].astype(np.float64)
        yield {"metric": "nll", "value": float(nll.mean()), "images": len(nll), **interval_of(nll, self.how.seed)}
        error = calibration_error(found["confidence"], self.right(parts))
        yield {"metric": "ece", "value": error, "images": len(nll), "bins": BINS}


def _scores(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> dict[str, np.ndarray]:
    logarithms = F.log_softmax(logits.double(), dim=1)
    answers = logits.argmax(1)
    found = {
        "label": labels.int(),
        "answer": answers.int(),
        "confidence": logarithms.gather(1, answers[:, None])[:, 0].exp().float(),
        "nll": -logarithms.gather(1, labels[:, None])[:, 0].float(),
    }
    return {name: each.numpy() for name, each in found.items()}


def interval_of(values: np.ndarray, seed: int) -> dict[str, float]:
    """The bootstrap interval of the mean of one value per image, as fields of a record."""
    low, high = mean_interval(np.asarray(values, dtype=np.float64), seed)
    return {"low": low, "high": high, "level": LEVEL}


def accuracy(tallies: Any) -> dict[str, Any]:
    """The record of the accuracy over all `tallies`."""
    right, images = (sum(tally[name] for tally in tallies) for name in ("right", "images"))
    return {"metric": "accuracy", "value": right / images, "images": images}


class Clean(Classification):
    """The validation images as they are."""

    name = "clean"

    def parts(self) -> Iterator[SuitePart]:
        yield from chunks(self.name, self.images)
