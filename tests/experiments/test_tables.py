"""Every table that a command writes, to the byte, since pages and readers of results rely on these forms."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import timm

from experiments import overfit, series, table2
from experiments.benchmark import attention_memory, gradient_tables
from experiments.benchmark import report as benchmark_report
from experiments.benchmark.alternating import Measured
from experiments.benchmark.contract import Contender, Goal, Row
from experiments.evaluation.suites.pacs import PacsTransfer
from experiments.report.published import _BY_NAME, PUBLISHED, published_for
from experiments.report.summaries import columns_of, over_seeds


def record(label: str, seed: int, on: str, value: float, metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    return {"label": label, "seed": seed, "on": on, "metric": metric, "value": value, **more}


FOUND = [
    record("softmax", 0, "clean", 0.5),
    record("softmax", 1, "clean", 0.75),
    record("softmax", 0, "corruptions", 0.2, corruption="fog", severity=1),
    record("softmax", 0, "corruptions", 0.4, corruption="fog", severity=2),
    record("softmax", 0, "imagenet-c", 76.543, "mce_alexnet"),
    record("softmax", 0, "mit1003", 1.2345, "nss"),
    record("vars_d", 0, "clean", 0.625),
    record("vars_d", 1, "clean", 0.5),
    record("vars_d", 0, "pacs", 0.8, "mean_accuracy", split="kfold"),
    record("vars_d", 0, "voc-segmentation", 0.31, "iou"),
]


def test_records_over_seeds() -> None:
    assert over_seeds(FOUND, columns_of(FOUND)) == (
        "| run | seeds | clean | corruptions | IN-C (mCE) | PACS (kfold) | VOC IoU | NSS |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|\n"
        "| softmax | 2 | 62.5 ± 17.7 | 30.0 | 76.5 | - | - | 1.234 |\n"
        "| vars_d | 2 | 56.2 ± 8.8 | - | - | 80.0 | 31.0 | - |\n"
    )


def test_intervals_of_single_seeds_and_the_numbers_of_images() -> None:
    bounds = {"low": 0.25, "high": 0.625, "level": 0.95}
    found = [
        record("a", 0, "clean", 0.5, images=40, **bounds),
        record("a", 0, "clean", 1.5, "nll", images=40, low=1.25, high=1.75),
        record("a", 0, "clean", 0.05, "ece", images=40),
        record("a", 0, "pgd", 0.25, images=20, **bounds),
        record("b", 0, "clean", 0.5, images=40, **bounds),
        record("b", 1, "clean", 0.75, images=40, **bounds),
        record("b", 0, "pgd", 0.5, images=30),
        record("b", 0, "mit1003", 0.5, "nss"),
    ]
    assert over_seeds(found, columns_of(found)) == (
        "| run | seeds | clean | PGD | clean NLL | clean ECE | NSS |\n"
        "|---|---|---:|---:|---:|---:|---:|\n"
        "| a | 1 | 50.0 [25.0, 62.5] | 25.0 [25.0, 62.5] | 1.500 [1.250, 1.750] | 5.0 | - |\n"
        "| b | 2 | 62.5 ± 17.7 | 50.0 | - | - | 0.500 |\n"
        "| images |  | 40 | 20 to 30 | 40 | 40 | - |\n"
    )


def test_a_series_with_its_speed_its_corruptions_and_its_differences() -> None:
    found = [*FOUND, record("vars_d", 1, "training", 123.456, "images_per_cpu_second")]
    assert over_seeds(found, series._SUMMARY, "attention") == (
        "| attention | seeds | clean | corruptions | FGSM | PGD | training images/s |\n"
        "|---|---|---:|---:|---:|---:|---:|\n"
        "| softmax | 2 | 62.5 ± 17.7 | 30.0 | - | - | - |\n"
        "| vars_d | 2 | 56.2 ± 8.8 | - | - | - | 123 |\n"
    )
    by_corruption = over_seeds(found, series._BY_CORRUPTION, "attention").splitlines()
    assert by_corruption[0].startswith("| attention | seeds | gaussian noise | shot noise | impulse noise | ")
    assert by_corruption[1] == "|---|---" + "|---:" * 15 + "|"
    assert by_corruption[2] == "| softmax | 2 " + "| - " * 9 + "| 30.0 " + "| - " * 5 + "|"
    assert series._differences(found, "softmax") == (
        "| less softmax | pairs | clean | corruptions | FGSM | PGD |\n"
        "|---|---|---:|---:|---:|---:|\n"
        "| vars_d | 2 | -6.2 ± 26.5 | - | - | - |\n"
    )


def test_the_papers_rows_stand_under_those_of_the_same_models(tmp_path: Path) -> None:
    config = {"model": {"name": "vars_rvt_tiny", "attention": {"kind": "vars_sd"}}}
    found = [
        record("mine", 0, "imagenet-c", 60.0, "mce_alexnet", config=config),
        record("mine", 0, "pgd", 0.125, config=config),
        record("mine", 0, "fgsm", 0.25, config=config),
        record("mine", 0, "pacs", 0.8, "mean_accuracy", split="kfold", config=config),
        record("mine", 0, "voc-segmentation", 0.4, "iou", config=config),
        record("mine", 0, "mit1003", 0.7, "nss", config=config),
        record("small", 0, "pgd", 0.5, config={"model": {"name": "vars_rvt_micro", "attention": {"kind": "vars_sd"}}}),
    ]
    assert over_seeds(found, columns_of(found), published=True) == (
        "| run | seeds | FGSM | PGD | IN-C (mCE) | PACS (kfold) | VOC IoU | NSS |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|\n"
        "| mine | 1 | 25.0 | 12.5 | 60.0 | 80.0 | 40.0 | 0.700 |\n"
        "| paper: RVT* with VARS-SD |  | - | 11.4 | 58.3 | 86.6 | 44.1 | 0.678 |\n"
        "| small | 1 | - | 50.0 | - | - | - | - |\n"
    )
    own = [record("mine", 0, "pacs", 0.5, split="kfold", target="sketch", config=config)]
    PacsTransfer.report(own, tmp_path)
    assert (tmp_path / "pacs.md").read_text().splitlines()[2:] == [
        "| kfold | - | - | - | 50.0 | - |",
        "| paper: RVT* with VARS-SD, split not said | 86.1 | 81.0 | 96.5 | 82.8 | 86.6 |",
    ]
    cells = {name: table2.TableCell(50.0, "x#L1") for name in table2.COLUMNS}
    rows = [table2.Row("mine", 8.1, 1.5, cells, published_for("vars_rvt_tiny", "vars_sd"))]
    table2.write(rows, tmp_path, published=True)
    lines = (tmp_path / "table2.md").read_text().splitlines()
    assert lines[3:] == ["| paper: RVT* with VARS-SD | 9.2 | 1.5 | 78.4 | - | 11.4 | 58.3 | 13.4 | 42.5 | 30.5 |"]
    table2.write(rows, tmp_path)
    assert len((tmp_path / "table2.md").read_text().splitlines()) == 3


def test_every_model_of_the_paper_is_found_by_name() -> None:
    own = {"vars_deit_tiny": "softmax", "vars_gfnet_tiny": "global_filter", "vars_rvt_tiny": "softmax"}
    for name, attention in own.items():
        assert published_for(name, None) == published_for(name, attention) is not None
        for kind in ("vars_s", "vars_d", "vars_sd"):
            paper = published_for(name, kind)
            assert paper is not None
            assert paper.label.endswith(kind.upper().replace("_", "-"))
    assert all(timm.is_model(name) for name in _BY_NAME)
    # Rows that two tables of the paper share, and its statements in the text, tell transposed digits.
    assert PUBLISHED["rvt", "vars_sd"].value("pacs", "mean_accuracy") == pytest.approx(0.8658, abs=5e-4)
    assert published_for("vars_rvt_small", "vars_d") is None
    assert published_for("resnet50", "vars_d") is None


def test_pacs(tmp_path: Path) -> None:
    own = [record("x", 0, "pacs", 0.123, split="kfold", target="photo")]
    own += [record("x", 0, "pacs", 0.5, split="domainbed", target="sketch")]
    own += [record("x", 0, "pacs", 0.75, "mean_accuracy", split="domainbed")]
    PacsTransfer.report(own, tmp_path)
    assert (tmp_path / "pacs.md").read_text() == (
        "| split | art_painting | cartoon | photo | sketch | mean |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| kfold | - | - | 12.3 | - | - |\n"
        "| domainbed | - | - | - | 50.0 | 75.0 |\n"
    )


def test_table_2_in_markdown_and_latex(tmp_path: Path) -> None:
    cells = {name: table2.TableCell(missing="none") for name in table2.COLUMNS}
    cells |= {
        "Clean": table2.TableCell(61.64, "a_b/records.jsonl#L1"),
        "IN-A": table2.TableCell(0.5, "a_b/records.jsonl#L2"),
    }
    table2.write([table2.Row("a_b & c", 0.0694, 12.34, cells), table2.Row("d", 5.0, 0.0057, cells)], tmp_path)
    assert (tmp_path / "table2.md").read_text() == (
        "| model | parameters (M) | GFLOPs | Clean | FGSM | PGD | IN-C (mCE, lower is better) | IN-A | IN-R | IN-SK |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        "| a_b & c | 0.069 | 12.3 | [61.6](a_b/records.jsonl#L1) | - | - | - | [0.5](a_b/records.jsonl#L2) | - | - |\n"
        "| d | 5.0 | 0.0057 | [61.6](a_b/records.jsonl#L1) | - | - | - | [0.5](a_b/records.jsonl#L2) | - | - |\n"
    )
    linked = r"\href{a_b/records.jsonl\#L1}{61.6} & -- & -- & -- & \href{a_b/records.jsonl\#L2}{0.5} & -- & -- \\"
    assert (tmp_path / "table2.tex").read_text().splitlines() == [
        r"\begin{tabular}{lrrrrrrrrr}",
        r"\hline",
        r"model & parameters (M) & GFLOPs & Clean & FGSM & PGD & IN-C (mCE, lower is better) & IN-A & IN-R & IN-SK \\",
        r"\hline",
        rf"a\_b \& c & 0.069 & 12.3 & {linked}",
        rf"d & 5.0 & 0.0057 & {linked}",
        r"\hline",
        r"\end{tabular}",
    ]


def test_what_was_learned_by_heart() -> None:
    one = {"mode": "adjoint", "epochs": 7, "accuracy": 0.98765, "loss": 0.01234, "images_per_cpu_second": 99.5}
    assert overfit.table([one]) == (
        "| gradient | epochs | training accuracy | training loss | images per CPU second |\n"
        "|---|---|---|---|---|\n"
        "| adjoint | 7 | 98.8 % | 0.012 | 100 |"
    )


def test_the_benchmarks_rows_and_goals() -> None:
    row = Row(
        "some",
        "the work",
        "relative distance",
        1e-3,
        tuple(Contender(name, lambda: lambda: None, ours=name == "ours") for name in ("ours", "peer", "absent")),
        lambda _: {},
        (Goal("ours", "peer", 0.5),),
    )
    measured = [
        Measured("ours", True, [1.0, 2.0, 3.0], {"accuracy": 1e-4, "steps": 12.0}),
        Measured("peer", False, [4.0], {"accuracy": 1e-5}),
        Measured("absent", False, [], {}, "not installed (absent)"),
    ]
    assert benchmark_report.section(row, measured) == (
        "### some\n\nthe work; relative distance at most 0.001.\n\n"
        "| contender | seconds | relative distance | steps |\n"
        "| --- | --- | --- | --- |\n"
        "| ours | 2 | 0.0001 | 12 |\n"
        "| peer | 4 | 1e-05 |  |\n"
        "| absent | not installed (absent) |  |  |\n\n"
        "| ours | peer | of | ratio | goal |  |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| ours | peer | seconds | 0.5 | 0.5 | met |\n"
    )
    assert benchmark_report.goals([(row, measured)]) == (
        "| row | ours | peer | of | ratio | goal, at most |  |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| some | ours | peer | seconds | 0.5 | 0.5 | met |\n"
    )


def test_the_gradients() -> None:
    numbers = {"forward": 1.234, "backward": math.nan, "peak_mib": 56.78, "failure": ""}
    rows = [
        {"mode": "backprop", "horizon": 5.0, "error": 1.5e-7, **numbers},
        {"mode": "odeint_adjoint", "horizon": 20.0, "error": math.inf, **numbers, "failure": "underflow in dt"},
        {"mode": "implicit", "horizon": None, "error": math.inf, **numbers},
    ]
    assert gradient_tables.table(rows) == (
        "| T | mode | error | forward, s | backward, s | peak memory, MiB |\n"
        "|---|---|---|---|---|---|\n"
        "| 5 | `backprop` | 1.5e-07 | 1.23 | - | 56.8 |\n"
        "| 20 | `odeint_adjoint` | underflow in dt | 1.23 | - | 56.8 |\n"
        "| rest | `implicit` | not finite | 1.23 | - | 56.8 |\n"
    )


def test_the_memory_of_attention(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(attention_memory, "measured_apart", lambda name, tokens: len(name) + tokens / 100)
    monkeypatch.setattr(sys, "argv", ["attention_memory"])
    attention_memory.main()
    sizes, layers = attention_memory.TOKENS, (
        attention_memory.DYNAMIC, attention_memory.BOTH, attention_memory.SOFTMAX, attention_memory.WRITTEN_OUT
    )  # fmt: skip
    last = len(layers[-1]) + sizes[-1] / 100
    expected = [
        "| layer " + "".join(f"| MiB at {n} tokens " for n in sizes)
        + "| growth, first to last | of N x N at last |",
        "| --- " * (len(sizes) + 3) + "|",
    ]  # fmt: skip
    for name in layers:
        peaks = [len(name) + n / 100 for n in sizes]
        numbers = "".join(f"| {peak:.1f} " for peak in peaks)
        expected.append(f"| {name} {numbers}| {peaks[-1] / peaks[0]:.2f} | {peaks[-1] / last:.3f} |")
    assert capsys.readouterr().out.splitlines() == expected
