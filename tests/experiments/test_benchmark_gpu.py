"""The GPU benchmark: what it compares, what it measures, and what it writes. Only a GPU tests its times."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from experiments.benchmark import gpu
from experiments.benchmark.contract import Contender

CPU = torch.device("cpu")
SMALL = gpu.Case(9, 2, torch.float32, CPU)


@pytest.fixture(autouse=True)
def short_and_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch, "compile", lambda layer: layer)
    monkeypatch.setattr(gpu, "ROUND", 1e-9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "no CUDA device"), (["--tokens", "0"], "at least one token"), (["--rounds", "4"], "five rounds")],
)
def test_what_cannot_run_is_refused_in_a_sentence(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_kernels_that_contender_is_reported_and_the_others_are_measured() -> None:
    measured = {one.name: one for one in gpu.series(gpu.row(SMALL), 5, CPU)}
    assert measured[gpu.KERNELS].failure == "the kernels do not run here"
    for name in (gpu.SOFTMAX, gpu.COMPILED, gpu.PLAIN):
        assert len(measured[name].times) == 5
        assert min(measured[name].times) > 0
        assert 0 < measured[name].findings["accuracy"] < 1e-5


def test_a_wrong_result_and_a_wrong_gradient_are_found() -> None:
    work = gpu.row(SMALL).contenders[1].prepare()
    layer = work.called
    work.called = lambda x: layer(x) * 1.01
    assert gpu.row(SMALL).judge(work) == pytest.approx({"accuracy": 0.01, "gradient's distance": 0.01}, rel=1e-3)
    work.called = lambda x: layer(x) + 0.01 * (x - x.detach())
    found = gpu.row(SMALL).judge(work)
    assert found["accuracy"] < 1e-5
    assert found["gradient's distance"] > 1e-3


def test_bfloat16_is_compared_with_float64_of_the_rounded_weights() -> None:
    work = gpu.row(SMALL._replace(dtype=torch.bfloat16)).contenders[3].prepare()
    exact = work.exact()
    assert exact[0].dtype == torch.float64
    assert exact[0].shape == (1, 9, gpu.DIM)
    assert 1e-4 < gpu.row(SMALL).judge(work)["accuracy"] < gpu.WANTED[torch.bfloat16]


def test_one_without_memory_is_reported_and_a_round_takes_all_of_the_others() -> None:
    log: list[str] = []

    def without_memory() -> None:
        raise torch.OutOfMemoryError("not enough\nand more")

    contenders = [Contender("none", without_memory)]
    contenders += [Contender(name, lambda name=name: lambda: log.append(name)) for name in "ab"]
    one = gpu.Row("r", "", "", 1.0, tuple(contenders), lambda work: {"accuracy": 0.0})
    measured = gpu.series(one, 5, CPU)
    assert measured[0].failure == "not enough"
    # Three runs of each decide how often a round repeats it. The rounds follow.
    rounds = [name for name, before in zip(log[6:], ["b", *log[6:]], strict=False) if name != before]
    assert rounds == 5 * ["a", "b"]
    assert [len(m.times) for m in measured] == [0, 5, 5]


def test_the_goals() -> None:
    limits = {n: gpu.row(SMALL._replace(tokens=n)).goals[0] for n in gpu.GOALS}
    assert {n: goal.at_most for n, goal in limits.items() if not math.isnan(goal.at_most)} == {196: 1.0, 3136: 0.25}
    assert all((goal.ours, goal.peer) == (gpu.KERNELS, gpu.SOFTMAX) for goal in limits.values())


def test_tables_and_json_hold_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernels cannot run on the CPU, so the layer's written-out form stands in for them.
    monkeypatch.setattr(gpu, "_kernels_taken", lambda layer, x: True)
    monkeypatch.setitem(gpu.GOALS, 9, 1e9)
    gpu.measure_all([SMALL, SMALL._replace(tokens=4)], 5, "the command", tmp_path)
    text, record = (tmp_path / "gpu.md").read_text(), json.loads((tmp_path / "gpu.json").read_text())
    assert [one["name"] for one in record["rows"]] == ["gpu-9-float32", "gpu-4-float32"]
    ratio = record["rows"][0]["ratios"][0]
    assert (ratio["ours"], ratio["peer"], ratio["met"]) == (gpu.KERNELS, gpu.SOFTMAX, True)
    assert "the command" in text
    assert "CUDA events" in text
    assert all(f"### gpu-{n}-float32" in text for n in (9, 4))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
def test_the_command_on_a_gpu(tmp_path: Path) -> None:
    assert gpu.main(["--tokens", "196", "--images", "2", "--rounds", "5", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    for one in rows:
        assert [contender["failure"] for contender in one["contenders"]] == 4 * [None]
        assert one["ratios"][0]["counts"]
        assert all(contender["findings"]["peak MiB"] > 0 for contender in one["contenders"])
