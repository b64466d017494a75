"""Accuracy under the 15 common corruptions, made here or read from files, and the two mean errors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from experiments.data.images import Labelled, folder_images
from experiments.evaluation.corruptions import ALEXNET_ERRORS, CORRUPTIONS, SEVERITIES, VERSION, corrupt_all
from experiments.evaluation.suites.classification import Batch, Classification, accuracy, interval_of
from experiments.evaluation.suites.suite import Options, SuitePart, Tally, chunks
from experiments.report import plots
from vars_dyn import _files

__all__ = ["THREE_D", "Corrupted", "Corruptions", "ImageNet3DCC", "ImageNetC"]

#: The corruptions of ImageNet-3DCC.
THREE_D = (
    "near_focus",
    "far_focus",
    "bit_error",
    "color_quant",
    "flash",
    "fog_3d",
    "h265_abr",
    "h265_crf",
    "iso_noise",
    "low_light",
    "xy_motion_blur",
    "z_motion_blur",
)


@dataclass
class Corruptions:
    """Corrupted images.

    Attributes:
        names: which corruptions; empty: all 15.
        severities: which severities, from 1 to 5.
        folder: a folder laid out like ImageNet-C, <corruption>/<severity>/<class>/*, from which the images are read
            instead of being made; if all are there, mCE, normalised by AlexNet's errors, is reported too.
        cache: a folder that keeps the images made, for evaluations of other models on the same images.
    """

    names: list[str] = field(default_factory=list)
    severities: list[int] = field(default_factory=lambda: list(SEVERITIES))
    folder: str | None = None
    cache: str | None = None

    def check(self) -> None:
        """Raise ValueError for an unknown corruption or severity."""
        for name in self.names:
            if name not in CORRUPTIONS:
                raise ValueError(f"corruptions.names has {name!r}; one of {', '.join(CORRUPTIONS)} is wanted")
        if not self.severities:
            raise ValueError("corruptions.severities is empty; integers from 1 to 5 are wanted")
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise ValueError(f"corruptions.severities has {severity}; integers from 1 to 5 are wanted")


class _Options(Options, Protocol):
    """The options of corrupted images."""

    corruptions: Corruptions


class Corrupted(Classification):
    """Validation images, corrupted here with a seed, or those of a folder like ImageNet-C's.

    Attributes:
        normalised: whether mCE, which divides by AlexNet's errors, is reported for images that are read.
    """

    how: _Options
    name = "corruptions"
    groups = ("corruptions",)
    normalised: ClassVar[bool] = True

    @property
    def folder(self) -> Path | None:
        """Where the images are read from; None: they are made."""
        return None if self.how.corruptions.folder is None else Path(self.how.corruptions.folder)

    def options(self) -> Any:
        return ["read"] if self.folder is not None else ["made", self.how.seed, VERSION]

    def selection(self) -> Any:
        chosen = self.how.corruptions
        return [super().selection(), sorted(self.corruptions), sorted(chosen.severities), str(self.folder)]

    @property
    def corruptions(self) -> Sequence[str]:
        """The names of the corruptions."""
        return self.how.corruptions.names or tuple(CORRUPTIONS)

    def parts(self) -> Iterator[SuitePart]:
        for name in self.corruptions:
            for severity in self.how.corruptions.severities:
                cell = {"corruption": name, "severity": severity}
                for part in chunks(f"{name}/{severity}", self._cell(name, severity)):
                    yield replace(part, notes=cell)

    def _cell(self, name: str, severity: int) -> Labelled:
        if self.folder is None:
            return self.images
        return folder_images(self.folder / name / str(severity), self.subject.classes)

    def tally(self, part: SuitePart) -> Tally:
        name, severity = part.notes["corruption"], part.notes["severity"]
        if self.folder is not None:
            # The images are cropped already, and resizing would soften the corruption.
            return self.count(part, self.batches(part, replace(self.subject.data, crop=1.0)))
        return self.count(part, self._made(self.batches(part), name, severity))

    def _made(self, batches: Iterator[Batch], name: str, severity: int) -> Iterator[Batch]:
        """Corrupted batches. The cache, where there is one, keeps each under a digest of what it was made from."""
        seed, cache = self.how.seed, self.how.corruptions.cache
        for pixels, labels, first in batches:
            numbers = range(first, first + len(pixels))
            if cache is None:
                yield corrupt_all(pixels, name, severity, seed, numbers), labels, first
                continue
            made = f"{name} {severity} {seed} {first} {VERSION}"
            key = hashlib.sha256(pixels.tobytes() + made.encode()).hexdigest()[:24]
            path = Path(cache) / f"{name}-{severity}-{key}.npy"
            if not path.exists():
                with _files.replacing(path) as partial:
                    np.save(partial, corrupt_all(pixels, name, severity, seed, numbers), allow_pickle=False)
            yield np.load(path, allow_pickle=False), labels, first

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        errors: dict[str, list[float]] = {}
        cells: dict[tuple[str, str], list[str]] = {}
        for part in tallies:
            name, severity, _ = part.split("/")
            cells.setdefault((name, severity), []).append(part)
        source = "generated" if self.folder is None else str(self.folder)
        wrong, trust = [], []
        for (name, severity), parts in cells.items():
            record = accuracy([tallies[part] for part in parts])
            errors.setdefault(name, []).append(1 - record["value"])
            wrong.append((~self.right(parts)).astype(np.float32))
            trust.append({each["metric"]: each["value"] for each in self.trust(parts)})
            where = {"corruption": name, "severity": int(severity), "source": source}
            yield {**record, **where, **interval_of(1 - wrong[-1], self.how.seed)}
        for record in mean_errors(errors, mce=self.normalised and self.folder is not None):
            yield {**record, **self._interval(record["metric"], list(cells), wrong)}
        for metric in trust[0]:
            value = math.fsum(each[metric] for each in trust) / len(trust)
            yield {"metric": metric, "value": value, "corruptions": len(errors)}

    def _interval(self, metric: str, cells: Sequence[tuple[str, str]], wrong: Sequence[np.ndarray]) -> dict[str, Any]:
        """The number of images and the interval of a mean error. Every cell must have the same images, in one order.

        Images are drawn with all their corruptions, because the errors on one image under several are not independent.
        """
        if len({len(each) for each in wrong}) > 1:
            return {}
        share = 100 / len(CORRUPTIONS) / len(SEVERITIES)
        weights = [share / ALEXNET_ERRORS[name] if metric == "mce_alexnet" else 1 / len(wrong) for name, _ in cells]
        values = np.sum([weight * each for weight, each in zip(weights, wrong, strict=True)], axis=0)
        return {"images": len(values), **interval_of(values, self.how.seed)}


def mean_errors(errors: Mapping[str, Sequence[float]], mce: bool = True) -> Iterator[dict[str, Any]]:
    """The plain mean error over corruptions, and mCE. `errors` has, by corruption, the error at each severity.

    mCE (Hendrycks & Dietterich, ICLR 2019, in per cent) divides each corruption's mean error by AlexNet's. It is given
    only if `errors` has all 15 corruptions at all 5 severities.
    """
    means = {name: math.fsum(values) / len(values) for name, values in errors.items()}
    mean = math.fsum(means.values()) / len(means)
    yield {"metric": "mean_corruption_error_unnormalised", "value": mean, "corruptions": len(means)}
    if mce and set(means) == set(CORRUPTIONS) and all(len(values) == len(SEVERITIES) for values in errors.values()):
        ratios = [error / ALEXNET_ERRORS[name] for name, error in means.items()]
        yield {"metric": "mce_alexnet", "value": 100 * math.fsum(ratios) / len(ratios)}


class ImageNetC(Corrupted):
    """ImageNet-C as it is stored, in <corruption>/<severity>/<class>/*. The images have the model's size."""

    name = "imagenet-c"
    needs = "imagenet-c"

    @property
    def folder(self) -> Path:
        return self.subject.folder(self.needs)

    @classmethod
    def report(cls, found: Sequence[Mapping[str, Any]], out: Path) -> None:
        plots.severity([{**record, "on": "corruptions"} for record in found], out / "imagenet-c.png")


class ImageNet3DCC(Corrupted):
    """ImageNet-3DCC (Kar et al., "3D Common Corruptions", CVPR 2022), laid out as ImageNet-C. All 12 corruptions count.

    Only the severities can be chosen. AlexNet's errors are known for ImageNet-C alone, so there is no mCE.
    """

    name = "imagenet-3dcc"
    needs = "imagenet-3dcc"
    normalised = False

    @property
    def folder(self) -> Path:
        return self.subject.folder(self.needs)

    @property
    def corruptions(self) -> Sequence[str]:
        return THREE_D
