"""A planted dictionary is recovered by gradient descent through the implicit equilibrium."""

from __future__ import annotations

import json

import pytest

from experiments.learn_dictionary import SMALL, Learning, learn, main


def test_the_planted_atoms_are_recovered() -> None:
    """The loss weighs the codes by less than lam. So a wrong gradient of the code leads to another dictionary."""
    found = learn(Learning())
    assert found["recovered"] >= 0.9
    assert found["last_loss"] < found["first_loss"]


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_the_way_through_the_trajectory_begins_alike(gradient: str) -> None:
    """Steps from one start lead to nearly the same loss. They differ because the neurons have not fully settled."""
    small = {**SMALL, "batch": 8, "signals": 32, "lam": 0.5, "steps": 4, "lr": 0.05}
    expected = learn(Learning(**small))
    found = learn(Learning(**small, gradient=gradient))
    assert found["first_loss"] == pytest.approx(expected["first_loss"], rel=1e-2)
    assert found["last_loss"] == pytest.approx(expected["last_loss"], rel=5e-2)


def test_the_small_case_recovers_its_atoms() -> None:
    assert learn(Learning(**SMALL))["recovered"] >= 0.9


def test_the_command_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--small", "true", "--steps", "3", "--json", "true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "of 12 atoms recovered" in lines[0]
    assert json.loads(lines[-1])["gradient"] == "implicit"


@pytest.mark.parametrize("wrong", [["--gradient", "magic"], ["--lam", "-1"], ["--active", "99"], ["--nothing", "1"]])
def test_bad_input_gets_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wrong) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
