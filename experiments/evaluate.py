"""`python -m experiments.evaluate CHECKPOINT --on clean,imagenet-c,... --data ROOT`: measure a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from jsonargparse import Namespace

from experiments import cli
from experiments.data.images import evaluation_images
from experiments.evaluation.opening import evaluation_of, opened
from experiments.evaluation.run import BY_DEFAULT, Evaluation, measure
from experiments.evaluation.suites import SUITES
from experiments.evaluation.suites.audited import AttackAudit
from experiments.evaluation.trained import trained
from experiments.report import pictures, plots, records
from experiments.report.outputs import refuse_foreign
from experiments.report.summaries import columns_of, over_seeds
from vars_dyn import _files
from vars_dyn.attention.base import TokenMixer

__all__ = ["main"]


def _parser() -> cli.Parser:
    parser = cli.parser_for("evaluate", "Measure a trained model, and write records, a table and figures.")
    cli.add_model(parser)
    parser.add_option("on", str, default=",".join(BY_DEFAULT), help=f"suites, by commas: {', '.join(SUITES)}")
    parser.add_option("out", str | None, default=None, help="folder for results (default: beside the checkpoint)")
    parser.add_flag("attack-audit", "try several attacks and checks of gradients; with --on, besides its suites")
    parser.add_flag("published", "show the paper's row under the model, if it has one")
    parser.add_option("transfer-from", str | None, default=None, help="a model whose attack is tried on this one, too")
    parser.add_option("overwrite", bool, default=False, help="replace files of these names that no evaluation made")
    parser.add_option("label", str | None, default=None, help="the run's name in tables (default: that of its folder)")
    parser.add_class_arguments(Evaluation, None, skip={"on"})
    return parser


#: The files that the command may write besides records.jsonl.
_WRITTEN = ("table.md", "severity.png", "attention.png", "imagenet-c.png", "voc-segmentation.png", "pacs.md",
            "attack-audit.md")  # fmt: skip


def _idle(given: Iterable[str], on: Sequence[str]) -> None:
    """Raise ValueError for an option of the command line if no suite that is measured uses it."""
    for name in given:
        suites = [suite for suite in SUITES if name.partition(".")[0] in SUITES[suite].groups]
        if suites and not set(suites) & set(on):
            raise ValueError(f"--{name} does nothing: it is for {', '.join(suites)}, and --on has {', '.join(on)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = _parser()
    return cli.run(parser, lambda values: _main(parser, values), arguments)


def _main(parser: cli.Parser, values: Namespace) -> None:
    values = parser.instantiate(values)
    if values.attack_audit:
        chosen = values.on.split(",") if "on" in parser.given else []
        values.on = ",".join(dict.fromkeys([*chosen, AttackAudit.name]))
    on = evaluation_of(values).on
    _idle(parser.given, on)
    if values.transfer_from is not None and AttackAudit.name not in on:
        raise ValueError("transfer-from does nothing: it is for --attack-audit")
    how, root, found = opened(values)
    if values.transfer_from is not None:
        found.other = trained(values.transfer_from, with_images=False)
    out = Path(values.out) if values.out else found.out
    refuse_foreign((out / name for name in _WRITTEN), values.overwrite, out / "records.jsonl")
    if (out / "records.jsonl").exists():
        records.read([out / "records.jsonl"])  # a damaged file fails here, not after hours of work
    measured = measure(found, how, out, root, values.label)
    shown = records.latest(records.read([out / "records.jsonl"]))
    table = over_seeds(shown, columns_of(shown), published=values.published)
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
    if AttackAudit.name in how.on:
        print((out / "attack-audit.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
