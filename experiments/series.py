"""`python -m experiments.series --config FILE`: train and evaluate many variants over seeds, then report.

If the command is stopped, the same command goes on, even in the middle of a training run. The series' folder has, at
any time, the tables, figures and numbers of what is complete. `--report DIR` writes figures and numbers to DIR instead.
`--page FILE` puts the tables into a page, each between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from experiments import cli
from experiments.evaluation.corruptions import CORRUPTIONS
from experiments.evaluation.run import Evaluation, measure
from experiments.evaluation.trained import trained
from experiments.report import plots, records, tables
from experiments.report.outputs import refuse_foreign
from experiments.report.summaries import ALL_COLUMNS, VALIDATION_COLUMNS, Column, cell, over_seeds
from experiments.settings import Attention, Settings
from experiments.training import logs
from experiments.training.loop import train

__all__ = ["Ablation", "Series", "jobs", "main", "report", "run"]


@dataclass
class Ablation:
    """Varies one setting of one run's attention.

    Attributes:
        of: the label of the run.
        setting: the option of the attention.
        values: the values of the option; the run's own value is not run again.
        meaning: the label of the plot's axis.
    """

    of: str
    setting: str
    values: list[float]
    meaning: str


@dataclass
class Series:
    """Runs that differ only in their attention.

    Attributes:
        train: the settings that all runs share.
        runs: label to attention.
        ablations: name to what is varied.
        seeds: the seeds of the runs.
        ablation_seeds: the seeds of the ablations.
        evaluation: how the runs are evaluated.
        ablation_severities: severities that ablations are evaluated on.
        out: folder of the series.
        report: folder to write figures and numbers to; None: `out`.
        page: Markdown file whose marked tables are replaced by the new ones.
        only_report: write the report without running anything.
    """

    train: Settings = field(default_factory=Settings)
    runs: dict[str, Attention] = field(default_factory=dict)
    ablations: dict[str, Ablation] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    ablation_seeds: list[int] = field(default_factory=lambda: [0])
    evaluation: Evaluation = field(default_factory=Evaluation)
    ablation_severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    out: str = "runs/series"
    report: str | None = None
    page: str | None = None
    only_report: bool = False

    def __post_init__(self) -> None:
        for name, ablation in self.ablations.items():
            if ablation.of not in self.runs:
                raise ValueError(f"ablations.{name}.of is {ablation.of!r}; one of {', '.join(self.runs)} is wanted")
            if ablation.setting not in Attention.__dataclass_fields__:
                raise ValueError(f"ablations.{name}.setting is {ablation.setting!r}; an option of attention is wanted")


@dataclass(frozen=True)
class Job:
    """One run with one seed."""

    label: str
    settings: Settings
    evaluation: Evaluation
    varied: Mapping[str, float]

    @property
    def records(self) -> Path:
        """The file of the finished job's records."""
        return Path(self.settings.out) / "records.jsonl"


def jobs(series: Series) -> Iterator[Job]:
    """Yield all runs, seed by seed, then the ablations."""
    for seed in series.seeds:
        for label, attention in series.runs.items():
            yield _job(series, label, attention, seed, series.evaluation, {})
    few = replace(series.evaluation.corruptions, severities=series.ablation_severities)
    how = replace(series.evaluation, corruptions=few)
    for seed in series.ablation_seeds:
        for ablation in series.ablations.values():
            attention = series.runs[ablation.of]
            for value in ablation.values:
                whole = isinstance(getattr(attention, ablation.setting), int)
                number: Any = int(value) if whole else float(value)
                if number != getattr(attention, ablation.setting):
                    label = f"{ablation.of} {ablation.setting}={number:g}"
                    changed = replace(attention, **{ablation.setting: number})
                    yield _job(series, label, changed, seed, how, {ablation.setting: number})


def _job(
    series: Series, label: str, attention: Attention, seed: int, how: Evaluation, varied: Mapping[str, float]
) -> Job:
    settings = copy.deepcopy(series.train)
    settings.model.attention = attention
    settings.seed, settings.resume = seed, True
    settings.out = str(Path(series.out) / label.replace(" ", "-") / f"seed-{seed}")
    return Job(label, settings, how, varied)


def run(series: Series) -> list[str]:
    """Run what is not complete, and report after each job. Returns the label and the reason of each job that failed."""
    records.commit()  # noted before the runs, since files may change meanwhile
    failed = []
    for job in jobs(series):
        if job.records.exists():
            continue
        print(f"{job.label}, seed {job.settings.seed}", flush=True)
        try:
            _run(job)
        except (ValueError, ArithmeticError) as error:
            failed.append(f"{job.label}, seed {job.settings.seed}: {error}")
            print(f"could not run: {error}", flush=True)
        else:
            report(series)
    return failed


def _run(job: Job) -> None:
    # The last checkpoint is taken, because the best one was chosen on the images that are evaluated.
    checkpoint = train(job.settings)
    out = Path(job.settings.out)
    partial = out / "evaluation.partial"
    shutil.rmtree(partial, ignore_errors=True)
    began = time.process_time()
    model = trained(str(checkpoint))
    found = measure(model, job.evaluation, partial, label=job.label, varied=dict(job.varied))
    spent = time.process_time() - began
    epochs = [line for line in logs.read_log(out) if line["event"] == "epoch"]
    speed = sum(line["images_per_cpu_second"] for line in epochs) / len(epochs)
    origin = {name: found[0][name] for name in (*model.about(), "varied", *records.provenance())}
    extra = [
        {"metric": "images_per_cpu_second", "on": "training", "value": speed, **origin},
        {"metric": "cpu_seconds", "on": "evaluation", "value": spent, **origin},
    ]
    records.append(partial / "records.jsonl", extra)
    if (partial / "predictions").is_dir():
        shutil.rmtree(out / "predictions", ignore_errors=True)
        (partial / "predictions").replace(out / "predictions")
    (partial / "records.jsonl").replace(job.records)
    shutil.rmtree(partial)


def report(series: Series) -> None:
    """Write tables, figures and numbers of what is complete."""
    folder = Path(series.report or series.out)
    complete = [job for job in jobs(series) if job.records.exists()]
    found = records.read(job.records for job in complete)
    if not found:
        return
    folder.mkdir(parents=True, exist_ok=True)
    main_runs = [record for record in found if not record["varied"]]
    # Earlier versions recorded neither NLL nor ECE.
    trust = {name: ALL_COLUMNS[name] for name in _TRUST if any(map(ALL_COLUMNS[name].picks, main_runs))}
    texts = {
        "summary": over_seeds(main_runs, {**_SUMMARY, **trust}, "attention"),
        "corruptions": over_seeds(main_runs, _BY_CORRUPTION, "attention"),
        "differences": _differences(main_runs, next(iter(series.runs))),
    }
    plots.severity(main_runs, folder / "severity.png")
    folders = {label: [Path(j.settings.out) for j in complete if j.label == label] for label in series.runs}
    plots.training_curves({label: paths for label, paths in folders.items() if paths}, folder / "training.png")
    for name, ablation in series.ablations.items():
        own = _varied(series, ablation, found)
        if len({record[ablation.setting] for record in own}) > 1:
            plots.ablation(own, ablation.setting, ablation.meaning, folder / f"{name}.png")
            texts[name] = over_seeds(own, VALIDATION_COLUMNS, ablation.meaning)
    for name, text in texts.items():
        (Path(series.out) / f"{name}.md").write_text(text)
    if series.page is not None:
        _fill(Path(series.page), texts)
    keep = ("label", "seed", "varied", "metric", "on", "corruption", "severity", "value", "images", "low", "high",
            "level", "radius", "step", "steps", "commit", "date")  # fmt: skip
    lines = [json.dumps({key: record[key] for key in keep if key in record}) for record in found]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")


def _refuse_foreign(series: Series) -> None:
    """Raise ValueError if a file that the report would replace is none of this package's."""
    folder, out = Path(series.report or series.out), Path(series.out)
    drawn = [folder / f"{name}.png" for name in ("severity", "training", *series.ablations)]
    refuse_foreign([folder / "records.jsonl", *drawn], beside=folder / "records.jsonl")
    tables = [out / f"{name}.md" for name in ("summary", "corruptions", "differences", *series.ablations)]
    made = [job.records for job in jobs(series) if job.records.is_file()]
    refuse_foreign(tables, beside=made[0] if made else None)
    if series.page is not None and not Path(series.page).is_file():
        raise ValueError(f"page is {series.page!r}; an existing Markdown file is wanted")


def _fill(page: Path, texts: Mapping[str, str]) -> None:
    """Put tables between their marks in a page. Raises ValueError if it has none of them."""
    if not page.is_file():
        raise ValueError(f"page is {str(page)!r}; an existing Markdown file is wanted")
    text = before = page.read_text()
    for name, table in texts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin in text and end in text:
            text = f"{text.split(begin)[0]}{begin}\n{table}{end}{text.split(end, 1)[1]}"
    if text == before and not any(f"<!-- begin {name} -->" in before for name in texts):
        raise ValueError(f"{page} has no mark such as <!-- begin summary -->; at least one is wanted")
    page.write_text(text)


def _varied(series: Series, ablation: Ablation, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of an ablation and of the run itself, labelled by the setting's value and sorted by it."""
    default = getattr(series.runs[ablation.of], ablation.setting)
    seeds, few = set(series.ablation_seeds), set(series.ablation_severities)
    own = []
    for record in found:
        same = record["label"] == ablation.of and not record["varied"]
        if record["seed"] not in seeds or not (same or ablation.setting in record["varied"]):
            continue
        if "severity" in record and record["severity"] not in few:
            continue
        value = default if same else record["varied"][ablation.setting]
        own.append({**record, ablation.setting: value, "label": f"{value:g}"})
    return sorted(own, key=lambda record: record[ablation.setting])


def _differences(found: Sequence[Mapping[str, Any]], reference: str) -> str:
    """The table of each accuracy minus the reference's with the same seed, in percentage points."""
    rows = []
    for label in dict.fromkeys(record["label"] for record in found):
        if label == reference:
            continue
        seeds = list(dict.fromkeys(r["seed"] for r in found if r["label"] == label))
        differences = []
        for column in VALIDATION_COLUMNS.values():
            values = []
            for seed in seeds:
                own, others = (
                    column.mean([r for r in found if r["label"] == which and r["seed"] == seed])
                    for which in (label, reference)
                )
                if own is not None and others is not None:
                    values.append(own - others)
            differences.append(values)
        rows.append([label, str(max(map(len, differences))), *map(cell, differences)])
    return tables.markdown([f"less {reference}", "pairs", *VALIDATION_COLUMNS], rows, left=2)


_SUMMARY = {**VALIDATION_COLUMNS, "training images/s": Column("", "images_per_cpu_second")}
_TRUST = ("clean NLL", "clean ECE")
_BY_CORRUPTION = {name.replace("_", " "): Column("", where={"corruption": name}) for name in CORRUPTIONS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, which is 1 if some runs could not be made."""
    parser = cli.parser_for("series", "Train and evaluate variants over seeds; given again, it goes on.")
    parser.add_class_arguments(Series, None)

    def command(values: Namespace) -> int:
        values = parser.instantiate(values)
        series = Series(**{name: getattr(values, name) for name in Series.__dataclass_fields__})
        _refuse_foreign(series)
        failed = [] if series.only_report else run(series)
        report(series)
        for line in failed:
            print(f"could not run {line}", file=sys.stderr)
        return 1 if failed else 0

    return cli.run(parser, command, arguments)


if __name__ == "__main__":
    sys.exit(main())
