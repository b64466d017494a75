"""`python -m experiments.evaluate CHECKPOINT --on clean,imagenet-c,... --data ROOT`: measure a trained model."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

from experiments import cli
from experiments.data.images import Labelled, evaluation_images
from experiments.evaluation.run import KINDS, Evaluation, evaluate_on
from experiments.evaluation.suites import SUITES, Subject
from experiments.evaluation.trained import Trained, load, trained
from experiments.options.plain_data import as_plain
from experiments.report import pictures, plots, records
from experiments.report.outputs import refuse_foreign
from experiments.report.summaries import columns_of, over_seeds
from experiments.settings import Settings
from vars_dyn import _files
from vars_dyn.attention.base import TokenMixer

__all__ = ["about", "evaluation_of", "load", "main", "measure", "measure_subject", "measure_trained", "opened"]


def _parser() -> cli.Parser:
    parser = cli.parser_for("evaluate", "Measure a trained model: a JSON record per number, a table, figures.")
    cli.add_model(parser)
    parser.add_option("on", str, default=",".join(KINDS), help=f"of {', '.join(SUITES)}, by commas")
    parser.add_option("out", str | None, default=None, help="folder of the results; default: the run's")
    parser.add_option("overwrite", bool, default=False, help="replace files that no evaluation made")
    parser.add_option("label", str | None, default=None, help="name of the run in tables; default: its folder")
    parser.add_class_arguments(Evaluation, None, skip={"on"})
    return parser


#: What the command may write beside records.jsonl.
_WRITTEN = ("table.md", "severity.png", "attention.png", "imagenet-c.png", "voc-segmentation.png", "pacs.md")


def measure(
    model: nn.Module, images: Labelled, settings: Settings, how: Evaluation, about: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Evaluate, put every record with `about` (label, seed, config ...) into `out`/records.jsonl, and return them."""
    return measure_subject(Subject(model, settings.data, images.classes, images, settings, out=out), how, about)


def measure_subject(subject: Subject, how: Evaluation, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The records, which are put into records.jsonl suite by suite; those of the same measurement are replaced.

    Others stay: of other suites, models, labels and options, and what an interrupted run measured.
    """
    out = subject.out or Path()
    origin = {**records.provenance(), "weights": subject.digest()[:16]}
    found = []
    for name, figures in itertools.groupby(evaluate_on(subject, how, out / "parts"), lambda figure: figure["on"]):
        which = [SUITES[name](subject, how).measurement(), about.get("label"), about.get("seed"), how.seed]
        origin["measurement"] = hashlib.sha256(json.dumps(which, sort_keys=True).encode()).hexdigest()[:16]
        own = [{**figure, **about, "evaluation_seed": how.seed, **origin} for figure in figures]
        records.merge(out / "records.jsonl", own)
        found += own
    return found


def measure_trained(
    found: Trained, how: Evaluation, out: Path, root: Path | None = None, label: str | None = None
) -> list[dict[str, Any]]:
    """Evaluate a trained model into the folder `out`, whose records.jsonl keeps what else was measured."""
    subject = Subject(found.model, found.settings.data, found.classes, found.images, found.settings, root, out)
    return measure_subject(subject, how, about(found, label))


def about(found: Trained, label: str | None = None) -> dict[str, Any]:
    """What every record of a model says of it."""
    return {
        "label": label or found.name,
        "seed": found.settings.seed,
        "checkpoint": found.path,
        "epoch": found.epoch,
        "config": as_plain(found.settings),
    }


def evaluation_of(values: Namespace, on: Sequence[str] | None = None) -> Evaluation:
    """The options of an evaluation among the values of a command, on its suites or those given."""
    options = {name: getattr(values, name) for name in Evaluation.__dataclass_fields__ if name != "on"}
    return Evaluation(on=tuple(values.on.split(",")) if on is None else on, **options)


def idle(given: Iterable[str], on: Sequence[str]) -> None:
    """ValueError for an option of the command line that belongs to suites which are not measured."""
    for name in given:
        suites = [suite for suite in SUITES if name.partition(".")[0] in SUITES[suite].groups]
        if suites and not set(suites) & set(on):
            raise ValueError(f"--{name} does nothing, as it is for {', '.join(suites)}, and --on has {', '.join(on)}")


def opened(values: Namespace) -> tuple[Evaluation, Path | None, Trained]:
    """How to measure, the root of the data sets, and the model, by the values of a command that takes one model."""
    how = evaluation_of(values)
    root = None if values.data is None else Path(values.data)
    found = trained(
        values.checkpoint,
        values.weights,
        validation=values.validation,
        with_images=any(name in KINDS for name in how.on),
        attention=values.attention,
        root=root,
    )
    return how, root, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    return cli.run(parser, lambda values: _main(parser, values), arguments)


def _main(parser: cli.Parser, values: Namespace) -> None:
    values = parser.instantiate(values)
    idle(parser.given, evaluation_of(values).on)
    how, root, found = opened(values)
    out = Path(values.out) if values.out else found.out
    refuse_foreign((out / name for name in _WRITTEN), values.overwrite, out / "records.jsonl")
    if (out / "records.jsonl").exists():
        records.read([out / "records.jsonl"])  # before hours of work that could not be put there
    measured = measure_trained(found, how, out, root, values.label)
    shown = records.latest(records.read([out / "records.jsonl"]))
    table = over_seeds(shown, columns_of(shown))
    _files.write_bytes(out / "table.md", table.encode())
    for name in how.on:
        SUITES[name].report([record for record in measured if record["on"] == name], out)
    if "corruptions" in how.on:
        own = {measured[0]["label"]}
        plots.severity([record for record in shown if record["label"] in own], out / "severity.png")
        if found.images is not None and any(isinstance(layer, TokenMixer) for layer in found.model.modules()):
            pixels, _ = evaluation_images(found.images, found.settings.data, 0, 3)
            pictures.under_corruption({found.name: found.model}, pixels, out / "attention.png")
    print(table)


if __name__ == "__main__":
    sys.exit(main())
