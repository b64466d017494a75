"""How well a thresholded attention map covers the objects of PASCAL VOC 2012 (the paper's Table 4).

Everingham et al., IJCV 2015. The suite reads VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt, JPEGImages/<name>.jpg
and SegmentationClass/<name>.png. In the masks the index 0 is background, 255 is void and left out, and all others are
foreground.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from experiments.data.images import Labelled, read_image
from experiments.evaluation.measures.maps import min_max
from experiments.evaluation.suites.mapped import MapOptions, MapSuite
from experiments.evaluation.suites.suite import SuitePart, Tally, chunks
from experiments.report import plots

__all__ = ["Segmentation", "VocSegmentation", "confusion", "read_mask"]

VOID = 255

#: The thresholds of the curve.
THRESHOLDS = tuple(i / 20 for i in range(20))

#: The metrics at a threshold.
METRICS = ("iou", "false_positives", "false_negatives")


@dataclass
class Segmentation:
    """What counts as foreground.

    Attributes:
        threshold: a pixel is foreground if the map, scaled from its minimum to its maximum, is above this value.
    """

    threshold: float = 0.3

    def check(self) -> None:
        """Raise ValueError for a threshold that no map exceeds, or that all maps do."""
        if not 0 <= self.threshold < 1:
            raise ValueError(f"segmentation.threshold is {self.threshold}; a number of at least 0, below 1, is wanted")


class _Options(MapOptions, Protocol):
    """The options of attention maps and of foreground."""

    segmentation: Segmentation


class VocSegmentation(MapSuite):
    """IoU of the foreground, and false positives and negatives as shares of all pixels that are not void.

    `iou`, `false_positives` and `false_negatives` count the pixels of all images together, at the threshold.
    `iou_mean_over_images` is the mean over the images whose mask or map has foreground. At every threshold of the curve
    the metrics are called `curve_iou` and so on. A constant map has no foreground. An image whose mask is void
    throughout counts nowhere.
    """

    how: _Options
    name = "voc-segmentation"
    needs = "VOCdevkit/VOC2012"
    groups = ("maps", "segmentation")

    def parts(self) -> Iterator[SuitePart]:
        root = self.subject.folder(self.needs)
        listing = root / "ImageSets" / "Segmentation" / "val.txt"
        if not listing.is_file():
            raise ValueError(f"{listing} is missing; the list of validation images is wanted")
        names = listing.read_text().split()
        entries = [(root / "JPEGImages" / f"{n}.jpg", root / "SegmentationClass" / f"{n}.png") for n in names]
        yield from chunks(self.name, Labelled(entries, [0] * len(entries), ["foreground"], read_image), 100)

    def options(self) -> Any:
        return [super().options(), self.how.segmentation.threshold]

    def tally(self, part: SuitePart) -> Tally:
        thresholds = [self.how.segmentation.threshold, *THRESHOLDS]
        counts = np.zeros((3, len(thresholds)), dtype=np.int64)
        pixels, unions, ious = 0, 0, 0.0
        for (path, drawn), (_, found) in zip(part.images.entries, self.maps(part), strict=True):
            mask = read_mask(drawn)
            if mask.shape != tuple(found.shape):
                raise ValueError(f"{drawn} has shape {mask.shape}, unlike the {tuple(found.shape)} of {path}")
            own = confusion(min_max(found).numpy(), mask, thresholds)
            counts += own
            pixels += int((mask != VOID).sum())
            union = own[:, 0].sum()
            unions += int(union > 0)
            ious += float(own[0, 0] / union) if union else 0.0
        names = ("true_positives", "false_positives", "false_negatives")
        sums = {name: row.tolist() for name, row in zip(names, counts, strict=True)}
        return {**sums, "pixels": pixels, "images": len(part.images), "unions": unions, "ious": ious}

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        pixels, images, unions, ious = (
            sum(tally[name] for tally in tallies.values()) for name in ("pixels", "images", "unions", "ious")
        )
        if not pixels:
            raise ValueError("every pixel of every mask is void; at least one that is not is wanted")
        tp, fp, fn = (
            np.sum([tally[name] for tally in tallies.values()], axis=0)
            for name in ("true_positives", "false_positives", "false_negatives")
        )
        for i, threshold in enumerate((self.how.segmentation.threshold, *THRESHOLDS)):
            union = tp[i] + fp[i] + fn[i]
            values = (tp[i] / union if union else 0.0, fp[i] / pixels, fn[i] / pixels)
            for name, value in zip(METRICS, values, strict=True):
                metric = f"curve_{name}" if i else name
                yield {"metric": metric, "value": float(value), "threshold": threshold, "images": images}
        threshold = self.how.segmentation.threshold
        if unions:
            yield {"metric": "iou_mean_over_images", "value": ious / unions, "threshold": threshold, "images": unions}

    @classmethod
    def report(cls, found: Sequence[Mapping[str, Any]], out: Path) -> None:
        plots.thresholds(found, METRICS, out / "voc-segmentation.png")


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The class indices of a mask, which is an image with a palette or of grey values."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"{path} has mode {image.mode}; indices (modes P, L) are wanted")
            return np.asarray(image)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a mask ({' '.join(str(error).split())})") from None


def confusion(
    scaled: Float[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], thresholds: Sequence[float]
) -> np.ndarray:
    """True positives, false positives and false negatives (3, thresholds), in pixels without the void ones."""
    seen = mask != VOID
    values, truth = scaled[seen], mask[seen] > 0
    predicted = values > np.asarray(thresholds)[:, None]
    return np.stack([(predicted & truth).sum(1), (predicted & ~truth).sum(1), (~predicted & truth).sum(1)])
