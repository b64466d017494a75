"""The benchmark's harness: which contenders are timed, which times count, and how they are reported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.benchmark import __main__ as command
from experiments.benchmark import processes, report
from experiments.benchmark.alternating import Measured, ratios, run_row
from experiments.benchmark.contract import Contender, Goal, Row
from experiments.benchmark.rows import ROWS


def works(error: float, log: list[str], name: str) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        def work() -> float:
            log.append(name)
            sum(range(20_000))
            return error

        return work

    return prepare


def missing() -> Callable[[], float]:
    import no_such_peer  # noqa: F401

    return lambda: 0.0


def row(log: list[str], ours: float = 1e-9, peer: float = 1e-9, at_most: float = math.inf) -> Row:
    contenders = (
        Contender("ours", works(ours, log, "ours"), ours=True),
        Contender("peer", works(peer, log, "peer")),
        Contender("slow", works(peer, log, "slow"), every_round=False),
        Contender("missing", missing),
    )
    goals = (Goal("ours", "peer", at_most),)
    return Row("some", "some work", "error", 1e-8, contenders, lambda error: {"accuracy": error, "count": 3.0}, goals)


def test_contenders_alternate_and_one_that_is_not_installed_is_reported() -> None:
    log: list[str] = []
    measured = run_row(row(log), 5)
    # Each contender runs once untimed. The rounds follow.
    assert log == ["ours", "peer", "slow", "ours", "peer", "slow", *4 * ["ours", "peer"]]
    assert [len(one.times) for one in measured] == [5, 5, 1, 0]
    assert all(seconds > 0 for one in measured[:3] for seconds in one.times)
    assert measured[0].seconds == sorted(measured[0].times)[2]
    assert measured[3].failure == "not installed (no_such_peer)"


@pytest.mark.parametrize(
    ("ours", "peer", "counts"), [(1e-9, 1e-12, True), (1e-7, 1e-9, False), (1e-7, 1e-6, True), (math.nan, 1.0, False)]
)
def test_a_ratio_counts_only_at_the_accuracy_asked_for_or_the_peers(ours: float, peer: float, counts: bool) -> None:
    tried = row([], ours, peer)
    first, *_ = ratios(tried, run_row(tried, 5))
    assert first.counts == first.met == counts
    too_slow = row([], ours, peer, at_most=0.0)
    assert not ratios(too_slow, run_row(too_slow, 5))[0].met


def test_every_peer_is_compared_and_the_report_says_what_was_found() -> None:
    tried = row([], at_most=0.0)
    measured = run_row(tried, 5)
    text, plain = report.section(tried, measured), report.as_json(tried, measured)
    assert "not installed (no_such_peer)" in text
    assert "| ours | peer | seconds |" in text
    assert "not met" in text
    assert [one["peer"] for one in plain["ratios"]] == ["peer", "slow", "missing"]
    assert [one["met"] for one in plain["ratios"]] == [False, None, None]
    assert plain["ratios"][2]["ratio"] is None
    assert plain["contenders"][0]["findings"] == {"accuracy": 1e-9, "count": 3.0}
    json.dumps(plain, allow_nan=False)


def test_the_command_writes_both_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ROWS, "some", lambda: row([]))
    assert command.main(["some", "--rounds", "5", "--out", str(tmp_path / "new")]) == 0
    written = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert written["rows"][0]["name"] == "some"
    assert written["machine"]["torch"]
    assert written["command"].startswith("python -m experiments.benchmark some")
    page = (tmp_path / "new" / "table.md").read_text()
    assert page.startswith("## Goals\n\n| row | ours | peer | of | ratio | goal, at most |  |")
    assert page.count("| some | ours | peer | seconds |") == 1
    assert "    python -m experiments.benchmark some --rounds 5" in page
    assert "### some" in page
    assert "### some" in capsys.readouterr().out
    assert not list(tmp_path.glob("**/*.part"))


def test_one_of_several_rows_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(name: str, rounds: int) -> list[Measured]:
        raise AssertionError(f"{name} was measured in this process")

    monkeypatch.setattr(processes, "_measured", here)  # the patch does not reach the other process
    found, measured = next(processes.measure_rows(["training-64", "training-64"], 1))
    assert found.name == "training-64"
    assert [one.name for one in measured] == [contender.name for contender in found.contenders]
    assert all(len(one.times) == 1 for one in measured)


def test_several_rows_are_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "some", lambda: row([]))
    monkeypatch.setattr(processes, "_apart", processes._measured)
    assert command.main(["some", "some", "--rounds", "5", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [one["name"] for one in rows] == ["some", "some"]
    assert [len(one["rounds"]) for found in rows for one in found["contenders"]] == 2 * [5, 5, 1, 0]


@pytest.mark.parametrize(
    ("given", "message"), [(["nothing"], "error: there is no row 'nothing'"), (["--rounds", "4"], "error: rounds is 4")]
)
def test_bad_arguments_are_refused(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(given) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_names_its_goals_contenders(name: str) -> None:
    found = ROWS[name]()
    names = {contender.name for contender in found.contenders}
    assert found.name == name
    assert any(contender.ours for contender in found.contenders)
    assert all({goal.ours, goal.peer} <= names for goal in found.goals)
