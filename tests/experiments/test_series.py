from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import series
from experiments.evaluation.run import Corruptions, Evaluation
from experiments.quickstart import quickstart
from experiments.report import records
from experiments.report.summaries import cell, mean_and_deviation
from experiments.series import Ablation, Series
from experiments.settings import Attention, Settings


def _series(settings: Callable[..., Settings], out: Path) -> Series:
    return Series(
        train=settings(epochs=1),
        runs={"softmax": Attention("softmax"), "vars_d": Attention("vars_d", num_steps=3)},
        ablations={"steps": Ablation("vars_d", "num_steps", [1, 3], "iterations k")},
        seeds=[0, 1],
        ablation_seeds=[1],
        evaluation=Evaluation(on=("clean", "corruptions"), corruptions=Corruptions(["fog"], [1, 4]), progress=False),
        ablation_severities=[4],
        out=str(out),
    )


def test_a_series_is_restartable_and_reports_mean_and_deviation(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _series(settings, tmp_path / "series")
    assert [(job.label, job.settings.seed) for job in series.jobs(made)] == [
        ("softmax", 0),
        ("vars_d", 0),
        ("softmax", 1),
        ("vars_d", 1),
        ("vars_d num_steps=1", 1),
    ]
    real = series.train

    def interrupted(options: Settings) -> Path:
        if options.seed == 1:
            raise KeyboardInterrupt
        return real(options)

    monkeypatch.setattr(series, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        series.run(made)
    trained: list[int] = []
    monkeypatch.setattr(series, "train", lambda options: trained.append(options.seed) or real(options))
    assert series.run(made) == []
    assert trained == [1, 1, 1]
    out = tmp_path / "series"
    found = records.read([out / "softmax" / f"seed-{seed}" / "records.jsonl" for seed in (0, 1)])
    clean = [record["value"] for record in found if record["on"] == "clean" and record["metric"] == "accuracy"]
    mean, spread = 50 * sum(clean), 100 * abs(clean[0] - clean[1]) / math.sqrt(2)
    assert f"| softmax | 2 | {mean:.1f} ± {spread:.1f} |" in (out / "summary.md").read_text()
    # The predictions stay, where the records say.
    assert all((out / "softmax" / f"seed-{r['seed']}" / r["predictions"]).is_dir() for r in found if r["on"] == "clean")
    assert "| vars_d | 2 |" in (out / "differences.md").read_text()
    assert "| 1 | 1 |" in (out / "steps.md").read_text()
    assert {path.name for path in out.glob("*.png")} == {"severity.png", "training.png", "steps.png"}
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin summary -->\nold\n<!-- end summary -->\nafter\n")
    arguments = dataclasses.replace(made, page=str(page), report=str(tmp_path / "report"))
    series.report(arguments)
    marked = f"<!-- begin summary -->\n{(out / 'summary.md').read_text()}<!-- end summary -->"
    assert page.read_text() == f"before\n{marked}\nafter\n"
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "severity.png", "training.png", "steps.png", "records.jsonl"
    }  # fmt: skip
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no mark"):
        series.report(arguments)
    kinds = {(record["label"], record.get("severity")) for record in records.read([out / "records.jsonl"])}
    assert ("vars_d num_steps=1", 4) in kinds
    assert ("vars_d num_steps=1", 1) not in kinds


def test_what_cannot_run_is_named_and_does_not_stop_the_rest(settings: Callable[..., Settings], tmp_path: Path) -> None:
    made = _series(settings, tmp_path / "series")
    made.runs = {"broken": Attention("vars_d", solver="magic"), "softmax": Attention("softmax")}
    made.ablations, made.seeds = {}, [0]
    (failure,) = series.run(made)
    assert failure.startswith("broken, seed 0")
    assert "| softmax | 1 |" in (tmp_path / "series" / "summary.md").read_text()


def test_mean_and_sample_deviation() -> None:
    assert mean_and_deviation([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt(7.0)))
    assert cell([0.5, 0.7]) == "60.0 ± 14.1"
    assert cell([0.5]) == "50.0"
    assert cell([]) == "-"


def test_records_have_a_commit_and_refuse_what_is_none(tmp_path: Path) -> None:
    commit = records.commit()
    assert commit == "unknown" or len(commit.removesuffix("+changes")) == 40
    (tmp_path / "r.jsonl").write_text('{"a": 1}\nnot json\n')
    with pytest.raises(ValueError, match="line 2"):
        records.read([tmp_path / "r.jsonl"])


def test_the_quick_start_from_nothing(tmp_path: Path) -> None:
    quickstart(tmp_path / "start", epochs=1, train_images=6, val_images=1)
    for name in ("table.md", "records.jsonl", "training.png", "severity.png", "attention.png", "trajectories"):
        assert (tmp_path / "start" / name).exists()
    assert (tmp_path / "start" / "table.md").read_text().count("|") > 10
    found = records.read([tmp_path / "start" / "records.jsonl"])
    assert all({"epoch", "checkpoint", "config", "weights", "measurement"} <= set(record) for record in found)
    corrupted = [record for record in found if record.get("severity")]
    assert len(corrupted) == 75
