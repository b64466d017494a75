"""Means and standard deviations of records over seeds, and the columns of tables that show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.report import tables
from experiments.report.published import Published, published_of

__all__ = [
    "ALL_COLUMNS",
    "VALIDATION_COLUMNS",
    "Column",
    "cell",
    "columns_of",
    "mean_and_deviation",
    "over_seeds",
]

#: Digits and scale of a metric in a table. Shares are shown in per cent. A metric without an entry is a plain number.
_FORMS = {
    **dict.fromkeys(("accuracy", "error", "mean_accuracy", "mean_corruption_error_unnormalised"), (1, 100)),
    "worst_case_accuracy": (1, 100),
    **dict.fromkeys(("iou", "false_positives", "false_negatives"), (1, 100)),
    **dict.fromkeys(("nss", "auc_judd", "cc", "sim", "kl", "auc_shuffled", "information_gain", "nll"), (3, 1)),
    **dict.fromkeys(("centre_nss", "centre_auc_judd", "centre_cc"), (3, 1)),
    "ece": (1, 100),
    "mce_alexnet": (1, 1),
}


@dataclass(frozen=True)
class Column:
    """A column of a table: which records it averages, and how it shows their mean.

    Attributes:
        on: the suite of the records; empty: any suite.
        metric: the metric of the records.
        where: further fields that the records have, with their values.
    """

    on: str
    metric: str = "accuracy"
    where: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digits(self) -> int:
        """How many digits follow the point."""
        return _FORMS.get(self.metric, (0, 1))[0]

    @property
    def scale(self) -> float:
        """What a value is multiplied with: 100 for shares, which are shown in per cent."""
        return _FORMS.get(self.metric, (0, 1))[1]

    def picks(self, record: Mapping[str, Any]) -> bool:
        """Whether the column averages this record."""
        wanted = {"metric": self.metric, **self.where, **({"on": self.on} if self.on else {})}
        return all(record.get(name) == value for name, value in wanted.items())

    def mean(self, records: Sequence[Mapping[str, Any]]) -> float | None:
        """The mean of the records that the column picks; None if it picks none."""
        values = [record["value"] for record in records if self.picks(record)]
        return math.fsum(values) / len(values) if values else None


#: The columns of the suites that are measured by default.
VALIDATION_COLUMNS = {
    "clean": Column("clean"),
    "corruptions": Column("corruptions"),
    "FGSM": Column("fgsm"),
    "PGD": Column("pgd"),
}

#: All columns. Those of the suites that have a data set of their own come last.
ALL_COLUMNS = {
    **VALIDATION_COLUMNS,
    "clean NLL": Column("clean", "nll"),
    "clean ECE": Column("clean", "ece"),
    "PGD (margin)": Column("pgd-margin"),
    "APGD-CE": Column("apgd-ce"),
    "APGD-DLR": Column("apgd-dlr"),
    "APGD-T": Column("apgd-t"),
    "Square": Column("square"),
    "noise": Column("noise"),
    "worst attack": Column("attack-audit", "worst_case_accuracy"),
    "signs of masking": Column("attack-audit", "signs_of_masking"),
    "ImageNet": Column("imagenet"),
    "IN-C (mCE)": Column("imagenet-c", "mce_alexnet"),
    "IN-C (mean error)": Column("imagenet-c", "mean_corruption_error_unnormalised"),
    "IN-A": Column("imagenet-a"),
    "IN-R": Column("imagenet-r"),
    "IN-SK": Column("imagenet-sketch"),
    "IN-V2": Column("imagenet-v2"),
    "Stylized": Column("imagenet-stylized"),
    "IN-3DCC (mean error)": Column("imagenet-3dcc", "mean_corruption_error_unnormalised"),
    "CIFAR-10-C (mean error)": Column("cifar-10-c", "mean_corruption_error_unnormalised"),
    "CIFAR-100-C (mean error)": Column("cifar-100-c", "mean_corruption_error_unnormalised"),
    "PACS (kfold)": Column("pacs", "mean_accuracy", {"split": "kfold"}),
    "PACS (DomainBed)": Column("pacs", "mean_accuracy", {"split": "domainbed"}),
    "VOC IoU": Column("voc-segmentation", "iou"),
    "VOC FP": Column("voc-segmentation", "false_positives"),
    "VOC FN": Column("voc-segmentation", "false_negatives"),
    "NSS": Column("mit1003", "nss"),
    "AUC-Judd": Column("mit1003", "auc_judd"),
    "CC": Column("mit1003", "cc"),
    "SIM": Column("mit1003", "sim"),
    "KL": Column("mit1003", "kl"),
    "AUC-shuffled": Column("mit1003", "auc_shuffled"),
    "information gain": Column("mit1003", "information_gain"),
    "centre bias NSS": Column("mit1003", "centre_nss"),
    "centre bias AUC-Judd": Column("mit1003", "centre_auc_judd"),
    "centre bias CC": Column("mit1003", "centre_cc"),
}


def columns_of(found: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns that `found` has records of."""
    return {name: column for name, column in ALL_COLUMNS.items() if any(map(column.picks, found))}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation. The latter is NaN for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def cell(values: Sequence[float], digits: int = 1, scale: float = 100) -> str:
    """A table's cell with mean and standard deviation, by default in per cent. One value has no deviation."""
    if not values:
        return "-"
    mean, deviation = (scale * value for value in mean_and_deviation(values))
    return f"{mean:.{digits}f}" if math.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _interval(records: Sequence[Mapping[str, Any]], column: Column) -> str:
    """The interval over images of the only record that a column picks; empty if there is none, or not one alone."""
    picked = [record for record in records if column.picks(record)]
    if len(picked) != 1 or "low" not in picked[0]:
        return ""
    low, high = (f"{column.scale * picked[0][name]:.{column.digits}f}" for name in ("low", "high"))
    return f" [{low}, {high}]"


def _published(paper: Published, column: Column) -> str:
    value = paper.value(column.on, column.metric)
    return "-" if value is None else cell([value], column.digits, column.scale)


def _images(records: Sequence[Mapping[str, Any]], column: Column) -> str:
    """How many images each of the values that a column picks is of; the least and the largest number if they differ."""
    found = {record["images"] for record in records if column.picks(record) and "images" in record}
    return "" if not found else f"{min(found)}" if len(found) == 1 else f"{min(found)} to {max(found)}"


def over_seeds(
    records: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Column],
    first: str = "run",
    published: bool = False,
) -> str:
    """A Markdown table with a row per label. Each column shows the mean and the standard deviation over seeds.

    The records of one seed that a column picks (such as those of all corruptions) are averaged first. A value of one
    seed alone is followed by its interval over images, if its record has one. The last row has the number of images.
    With `published` a model that the paper has is followed by the paper's row.
    """
    rows = []
    for label in dict.fromkeys(record["label"] for record in records):
        own = [record for record in records if record["label"] == label]
        by_seed = [[r for r in own if r["seed"] == seed] for seed in dict.fromkeys(record["seed"] for record in own)]
        cells = []
        for column in columns.values():
            means = [mean for same in by_seed if (mean := column.mean(same)) is not None]
            cells.append(cell(means, column.digits, column.scale) + _interval(own, column))
        rows.append([str(label), str(len(by_seed)), *cells])
        if published and (paper := published_of(own[0])) is not None:
            rows.append([f"paper: {paper.label}", "", *(_published(paper, column) for column in columns.values())])
    counts = [_images(records, column) for column in columns.values()]
    if any(counts):
        rows.append(["images", "", *(count or "-" for count in counts)])
    return tables.markdown([first, "seeds", *columns], rows, left=2)
