"""What the paper's tables say of its models, to stand beside what is measured here.

Shi et al., "Visual Attention Emerges from Recurrent Sparse Reconstruction", ICML 2022, arXiv 2204.10962, Tables 2-5.
A star marks the paper's own baselines, which have a convolutional patch embedding and Performer attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PACS_DOMAINS", "PUBLISHED", "Published", "published_for", "published_of"]

#: The domains of `Published.pacs`, in the paper's order, by their folders' names.
PACS_DOMAINS = ("photo", "sketch", "cartoon", "art_painting")


@dataclass(frozen=True)
class Published:
    """A row of Table 2, and what Tables 3 to 5 say of the same model.

    Attributes:
        label: the model's name in the paper.
        gflops: GFLOPs of an image of 224 x 224 pixels.
        parameters: in millions.
        table2: clean, mCE, ImageNet-R, ImageNet-Sketch, PGD and ImageNet-A, in per cent, in the paper's order.
        pacs: accuracy on the photo, sketch, cartoon and art painting left out, in per cent.
        voc: mIoU, false positives and false negatives, in per cent.
        nss: normalised scanpath saliency on MIT1003.
    """

    label: str
    gflops: float
    parameters: float
    table2: tuple[float, float, float, float, float, float]
    pacs: tuple[float, float, float, float] | None = None
    voc: tuple[float, float, float] | None = None
    nss: float | None = None
    values: dict[tuple[str, str], float] = field(init=False)

    def __post_init__(self) -> None:
        clean, mce, r, sketch, pgd, a = self.table2
        found = {
            ("clean", "accuracy"): clean / 100,
            ("imagenet", "accuracy"): clean / 100,
            ("pgd", "accuracy"): pgd / 100,
            ("imagenet-c", "mce_alexnet"): mce,
            ("imagenet-r", "accuracy"): r / 100,
            ("imagenet-a", "accuracy"): a / 100,
            ("imagenet-sketch", "accuracy"): sketch / 100,
        }
        if self.pacs is not None:
            found["pacs", "mean_accuracy"] = sum(self.pacs) / 400
        if self.voc is not None:
            names = ("iou", "false_positives", "false_negatives")
            found |= {("voc-segmentation", name): value / 100 for name, value in zip(names, self.voc, strict=True)}
        if self.nss is not None:
            found["mit1003", "nss"] = self.nss
        object.__setattr__(self, "values", found)

    def value(self, on: str, metric: str) -> float | None:
        """What the paper says of a metric of a suite, in the unit of our records; None if it says nothing."""
        return self.values.get((on, metric))


#: The paper's rows by the model's family and its attention here. All are of the tiny models.
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("deit", "softmax"): Published("DeiT", 1.3, 5.7, (72.2, 71.1, 32.6, 20.2, 6.2, 7.3)),
    ("deit", "performer"): Published("DeiT*", 1.3, 5.7, (74.7, 67.0, 34.5, 21.7, 11.9, 9.4)),
    ("deit", "vars_s"): Published("DeiT* with VARS-S", 1.0, 6.8, (73.7, 69.8, 36.8, 24.8, 10.8, 4.9)),
    ("deit", "vars_d"): Published("DeiT* with VARS-D", 1.4, 5.4, (75.6, 64.9, 39.6, 27.5, 13.7, 10.2)),
    ("deit", "vars_sd"): Published("DeiT* with VARS-SD", 1.4, 5.8, (76.5, 62.5, 40.2, 27.5, 13.4, 11.5)),
    ("gfnet", "global_filter"): Published("GFNet-Ti", 1.3, 7.5, (74.6, 65.9, 40.4, 27.0, 7.6, 6.3)),
    ("gfnet", "vars_s"): Published("GFNet-Ti with VARS-S", 1.3, 7.5, (74.1, 63.5, 40.8, 28.6, 9.5, 5.8)),
    ("gfnet", "vars_d"): Published("GFNet-Ti with VARS-D", 1.9, 9.8, (77.8, 58.6, 41.2, 29.0, 15.9, 12.6)),
    ("gfnet", "vars_sd"): Published("GFNet-Ti with VARS-SD", 1.9, 10.4, (78.2, 57.4, 41.0, 29.5, 16.2, 13.0)),
    ("rvt", "softmax"): Published("RVT", 1.3, 8.6, (78.4, 58.2, 43.7, 30.0, 11.7, 13.3)),
    ("rvt", "performer"): Published(
        "RVT*",
        1.3,
        8.6,
        (77.6, 60.4, 41.7, 28.7, 11.1, 11.1),
        (94.19, 81.73, 79.78, 81.25),
        (39.92, 49.41, 3.95),
        0.502,
    ),
    ("rvt", "vars_s"): Published(
        "RVT* with VARS-S",
        1.0,
        9.2,
        (76.8, 61.8, 43.2, 30.1, 7.6, 9.1),
        (93.89, 82.62, 80.16, 81.49),
        (43.33, 23.11, 12.08),
        0.737,
    ),
    ("rvt", "vars_d"): Published(
        "RVT* with VARS-D",
        1.2,
        8.0,
        (78.2, 58.7, 42.0, 29.8, 11.7, 12.4),
        (96.29, 80.40, 80.33, 84.77),
        (42.03, 25.23, 11.77),
        0.632,
    ),
    ("rvt", "vars_sd"): Published(
        "RVT* with VARS-SD",
        1.5,
        9.2,
        (78.4, 58.3, 42.5, 30.5, 11.4, 13.4),
        (96.47, 82.78, 80.98, 86.08),
        (44.15, 29.28, 8.76),
        0.678,
    ),
}

#: Other models of Table 2, by their names in timm.
_BY_NAME = {
    "regnety_040": Published("RegNetY-4GF", 4.0, 20.6, (79.2, 68.7, 38.8, 25.9, 2.4, 8.9)),
    "resnet50": Published("ResNet50", 4.1, 25.6, (79.0, 65.5, 42.5, 31.5, 12.5, 5.9)),
    "resnext50_32x4d": Published("ResNeXt50-32x4d", 4.3, 25.0, (79.8, 64.7, 41.5, 29.3, 13.5, 10.7)),
    "inception_v3": Published("InceptionV3", 5.7, 27.2, (77.4, 80.6, 38.9, 27.6, 3.1, 10.0)),
    "pit_ti_224": Published("PiT-Ti", 0.7, 4.9, (72.9, 69.1, 34.6, 21.6, 5.1, 6.2)),
    "convit_tiny": Published("ConViT", 1.4, 5.7, (73.3, 68.4, 35.2, 22.4, 7.5, 8.9)),
    "deit_tiny_patch16_224": PUBLISHED["deit", "softmax"],
}


def published_for(name: str, attention: str | None) -> Published | None:
    """The paper's row of a model, by its name and its kind of attention; None if the paper has none.

    Ours are `vars_deit_tiny`, `vars_gfnet_tiny` and `vars_rvt_tiny`, which have the sizes of the paper's.
    """
    if name.startswith("vars_"):
        family, _, size = name.removeprefix("vars_").partition("_")
        if size != "tiny":
            return None
        own = attention or ("global_filter" if family == "gfnet" else "softmax")
        return PUBLISHED.get((family, own))
    return _BY_NAME.get(name) if attention is None else None


def published_of(record: Mapping[str, Any]) -> Published | None:
    """The paper's row of the model that a record was measured on."""
    model = record.get("config", {}).get("model", {})
    return published_for(str(model.get("name", "")), (model.get("attention") or {}).get("kind"))
