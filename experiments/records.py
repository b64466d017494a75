"""One JSON record per measured number, with where it comes from; tables over seeds.

`python -m experiments.records FILE ...` prints the table of several evaluations: a row per label.
"""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import cli
from vars_dyn import _files
from vars_dyn.recording.provenance import command_line, now, versions

__all__ = [
    "COLUMNS",
    "SUITE_COLUMNS",
    "append",
    "cell",
    "columns",
    "commit",
    "latest",
    "main",
    "mean_and_deviation",
    "merge",
    "provenance",
    "read",
    "table",
]


@functools.cache
def commit() -> str:
    """The commit of the code at the first call, "+changes" if files differ from it; "unknown" outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance() -> dict[str, Any]:
    """Commit, versions, command and date of this process."""
    return {"commit": commit(), **versions(), "command": command_line(), "date": now()}


def merge(path: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Put records into a file, in place of those of the same measurement; all others stay as they are.

    A measurement is one suite with its options, by one label, of one model; records say which in `measurement`. The
    file is whole at every moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    again = {record["measurement"] for record in measured}
    found = [record for record in read([path]) if record.get("measurement") not in again] if path.exists() else []
    _files.write_bytes(path, "".join(f"{json.dumps(record)}\n" for record in [*found, *measured]).encode())


def latest(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each label and seed, the records of the model that was measured last, by the last measurement of each suite.

    Records that do not say what they measure, as earlier versions wrote them, count as one measurement.
    """
    model = {(r["label"], r["seed"]): r.get("weights") for r in found}
    kept = [r for r in found if model[r["label"], r["seed"]] == r.get("weights")]
    last = {(r["label"], r["seed"], r["on"]): r.get("measurement") for r in kept}
    return [r for r in kept if last[r["label"], r["seed"], r["on"]] == r.get("measurement")]


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records to a file of one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The records in files; ValueError that names a line that is none."""
    records, paths = [], list(paths)
    shown = ", ".join(map(str, paths))
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} cannot be read ({error})") from None
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{path}, line {number}, is no JSON record") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}, is no JSON record")
            records.append(record)
    for record in records:
        if not set(record) >= _FIELDS or not _is_number(record["value"]):
            raise ValueError(f"{shown} holds what is no record; {', '.join(sorted(_FIELDS))} in each are wanted")
    return records


#: What every record has.
_FIELDS = {"label", "seed", "metric", "on", "value"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (NaN for a single value)."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def cell(values: Sequence[float], digits: int = 1, scale: float = 100) -> str:
    """Mean and standard deviation as a table's cell, in per cent by default; the mean alone for one value."""
    if not values:
        return "-"
    mean, deviation = (scale * value for value in mean_and_deviation(values))
    return f"{mean:.{digits}f}" if math.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


#: Digits and scale of a metric in a table; shares are in per cent, and whatever is not named here is a plain number.
_FORMS = {
    **dict.fromkeys(("accuracy", "error", "mean_accuracy", "mean_corruption_error_unnormalised"), (1, 100)),
    **dict.fromkeys(("iou", "false_positives", "false_negatives"), (1, 100)),
    **dict.fromkeys(("nss", "auc_judd", "cc"), (3, 1)),
    "mce_alexnet": (1, 1),
}


def table(
    records: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Mapping[str, Any]], bool]], first: str = "run"
) -> str:
    """A Markdown table: a row per label, the records that a column's test picks, mean and deviation over seeds.

    Records of one seed that a column picks (say all corruptions) are averaged first. Shares are in per cent.
    """
    lines = [f"| {first} | seeds | {' | '.join(columns)} |", "|---|---" + "|---:" * len(columns) + "|"]
    for label in dict.fromkeys(record["label"] for record in records):
        own = [record for record in records if record["label"] == label]
        seeds = list(dict.fromkeys(record["seed"] for record in own))
        cells = []
        for picks in columns.values():
            chosen = [record for record in own if picks(record)]
            per_seed = [[r["value"] for r in chosen if r["seed"] == seed] for seed in seeds]
            means = [math.fsum(values) / len(values) for values in per_seed if values]
            cells.append(cell(means, *_FORMS.get(chosen[0]["metric"], (0, 1)) if chosen else ()))
        lines.append(f"| {label} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _on(kind: str, metric: str = "accuracy", **others: Any) -> Callable[[Mapping[str, Any]], bool]:
    wanted = {"on": kind, "metric": metric, **others}
    return lambda record: all(record.get(name) == value for name, value in wanted.items())


#: The columns of a summary: which records each averages.
COLUMNS = {"clean": _on("clean"), "corruptions": _on("corruptions"), "FGSM": _on("fgsm"), "PGD": _on("pgd")}

#: Those of the suites that have a data set of their own.
SUITE_COLUMNS = {
    "ImageNet": _on("imagenet"),
    "IN-C (mCE)": _on("imagenet-c", "mce_alexnet"),
    "IN-C (mean error)": _on("imagenet-c", "mean_corruption_error_unnormalised"),
    "IN-A": _on("imagenet-a"),
    "IN-R": _on("imagenet-r"),
    "IN-SK": _on("imagenet-sketch"),
    "PACS (kfold)": _on("pacs", "mean_accuracy", split="kfold"),
    "PACS (DomainBed)": _on("pacs", "mean_accuracy", split="domainbed"),
    "VOC IoU": _on("voc-segmentation", "iou"),
    "VOC FP": _on("voc-segmentation", "false_positives"),
    "VOC FN": _on("voc-segmentation", "false_negatives"),
    "NSS": _on("mit1003", "nss"),
    "AUC-Judd": _on("mit1003", "auc_judd"),
    "CC": _on("mit1003", "cc"),
}


def all_columns() -> dict[str, Callable[[Mapping[str, Any]], bool]]:
    """All columns there are."""
    return {**COLUMNS, **SUITE_COLUMNS}


def columns(found: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[Mapping[str, Any]], bool]]:
    """The columns that `found` has records of."""
    return {name: picks for name, picks in all_columns().items() if any(map(picks, found))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of record files; the exit status."""
    parser = cli.parser_for("records", "Print mean and standard deviation over seeds of several evaluations.")
    parser.add_argument("files", nargs="+", help="records.jsonl of evaluations; runs of one label differ in their seed")

    def command(values: Any) -> None:
        missing = [file for file in values.files if not Path(file).is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is no file; the records.jsonl of an evaluation is wanted")
        found = [record for file in values.files for record in latest(read([Path(file)]))]
        print(table(found, columns(found)))

    return cli.run(parser, command, arguments, None)


if __name__ == "__main__":
    sys.exit(main())
