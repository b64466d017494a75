"""The gradient benchmark measures what it says, against the flow's own gradient, and reports failures as such."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from experiments.benchmark.gradient_tables import ratios, table
from experiments.benchmark.gradients import (
    MODES,
    PLAIN,
    Setting,
    error_of,
    flow_gradient,
    main,
    measure,
    measured_apart,
    rest_gradient,
    run_once,
)

SMALL = Setting(signals=3, neurons=4, atoms=6, rtol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_measured_against_its_own_truth(mode: str) -> None:
    """Over so short a time torchdiffeq's adjoint is right too. A wrong field, loss or truth gives a larger error."""
    found = run_once(SMALL, mode, 0.5)
    exact = rest_gradient(SMALL) if mode == "implicit" else flow_gradient(SMALL, 0.5)
    assert found.weight is not None
    assert found.x is not None
    assert error_of({"weight": found.weight, "x": found.x}, exact) < (1e-9 if mode == "implicit" else 1e-2)
    assert min(found.forward, found.backward) >= 0


def test_the_plain_adjoint_is_wrong_by_more_than_the_gradient_itself() -> None:
    setting = Setting(signals=3, neurons=4, atoms=6, rtol=1e-4)
    found = run_once(setting, PLAIN, 3.5)
    tensors = {} if found.weight is None or found.x is None else {"weight": found.weight, "x": found.x}
    assert error_of(tensors, flow_gradient(setting, 3.5)) > 1


def test_a_measurement_has_seconds_memory_and_gradients() -> None:
    found = measure(SMALL, "backprop", 0.2, 2)
    assert found["forward"] > 0
    assert found["backward"] > 0
    assert found["peak_mib"] >= 0
    assert error_of(found["tensors"], flow_gradient(SMALL, 0.2)) < 1e-2


def test_no_gradient_and_a_gradient_that_is_not_finite_are_infinitely_wrong() -> None:
    exact = (torch.ones(2), torch.ones(2))
    assert math.isinf(error_of({}, exact))
    assert math.isinf(error_of({"weight": torch.tensor([1.0, math.nan]), "x": torch.ones(2)}, exact))
    assert error_of({"weight": torch.ones(2), "x": 1.5 * torch.ones(2)}, exact) == pytest.approx(0.5)


def test_what_takes_too_long_is_given_up_and_said() -> None:
    found = measured_apart(SMALL, PLAIN, 0.5, 1, patience=0.2)
    assert found["failure"] == "not done within 0.2 s"
    row = {"mode": PLAIN, "horizon": 5.0, "error": math.inf, **found}
    assert table([row]).splitlines()[-1] == f"| 5 | `{PLAIN}` | not done within 0.2 s | - | - | - |"


def test_the_ratios_are_those_of_the_last_horizon() -> None:
    def row(mode: str, horizon: float | None, error: float, seconds: float, peak: float) -> dict[str, Any]:
        return {
            "mode": mode,
            "horizon": horizon,
            "error": error,
            "forward": seconds,
            "backward": 3 * seconds,
            "peak_mib": peak,
        }

    rows = [
        *(row("backprop", t, 1e-3, 1.0, 100.0) for t in (5.0, 20.0)),
        *(row("adjoint", t, error, 5.0, 10.0) for t, error in ((5.0, 4e-3), (20.0, 1e-3))),
        *(row("checkpoint", t, 1e-3, seconds, 25.0) for t, seconds in ((5.0, 9.0), (20.0, 2.0))),
        row("implicit", None, 1e-15, 2.0, 1.0),
    ]
    assert ratios(rows) == pytest.approx(
        {
            "checkpoint_seconds_over_backprop": 2.0,
            "checkpoint_memory_over_backprop": 0.25,
            "adjoint_error_over_backprop": 4.0,
            "implicit_backward_over_forward": 3.0,
        }
    )


@pytest.mark.parametrize("wrong", [["--horizons", "[0]"], ["--repeats", "0"], ["--patience", "-1"], ["--nothing", "1"]])
def test_bad_input_gets_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wrong) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
