"""Weights and a bias from the command line, and interventions in the figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

import vars_dyn as vd
from tests.simulate.test_simulate import refused
from vars_dyn.plotting import summary
from vars_dyn.simulate import main

SMALL = ("signals.npy", "--dictionary", "atoms.npy", "--lam", "0.3", "--method", "auto", "--figure", "none")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    atoms = draw.normal(size=(6, 9))
    np.save("signals.npy", draw.normal(size=(2, 6)))
    np.save("atoms.npy", atoms / np.linalg.norm(atoms, axis=0))
    np.save("w.npy", np.array([1, 2, 0.5, np.inf, 1, 1, 3, 0, 1.0]))
    np.save("q.npy", np.full((2, 9), 0.05) * np.array([[1.0], [-1.0]]))


def test_the_run_is_that_of_the_field_with_weights_and_bias() -> None:
    np.save("q.npy", np.linspace(-0.1, 0.1, 9))
    given = ("--weights", "w.npy", "--bias", "q.npy", "--gap", "none", "--t-max", "6", "--dt", "1", "--rtol", "1e-8")
    assert main([*SMALL, *given, "--out", "a.zarr"]) == 0
    run = vd.open_dataset("a.zarr")
    x, P, w, q = (torch.from_numpy(np.load(f"{name}.npy")) for name in ("signals", "atoms", "w", "q"))
    field = vd.SparseRecurrent(vd.DenseDictionary(P), x, 0.3, weights=w, bias=q)
    times = torch.tensor([0.0, 6.0], dtype=torch.float64)
    states = vd.integrate(field, field.initial_state(), times, rtol=1e-8).states
    np.testing.assert_allclose(run["code_end"], field.code(tuple(part[-1] for part in states)), atol=1e-6)
    np.testing.assert_array_equal(run["weights"], w)
    np.testing.assert_array_equal(run["bias"], q)
    assert float(np.abs(run["code_end"][:, 3]).max()) == 0
    assert main(["--out", "a.zarr", "--resume", "--t-max", "7", "--figure", "none"]) == 0


def test_templates_take_one_number_for_all_places() -> None:
    np.save("images.npy", np.random.default_rng(1).normal(size=(1, 8, 8)))
    np.save("w.npy", np.array([1.0, np.inf, 2.0]))
    whole = ("images.npy", "--whole", "--dictionary", "random:3", "--kernel", "3", "--conv-stride", "2", "--t-max", "3")
    assert (
        main([*whole, "--weights", "w.npy", "--gap", "none", "--t-max", "3", "--figure", "none", "--out", "a.zarr"])
        == 0
    )
    code = vd.open_dataset("a.zarr")["code_end"].to_numpy()
    assert np.abs(code[:, 1]).max() == 0
    assert np.abs(code[:, 2]).max() > 0


def test_the_figure_shades_the_times_of_interventions() -> None:
    acts = ("--silence", "u3,5@1:2", "--inject", "z4=0.5@3:", "--gap", "none", "--t-max", "5", "--dt", "0.5")
    assert main([*SMALL, *acts, "--out", "a.zarr"]) == 0
    figure = summary(vd.open_dataset("a.zarr"))
    courses = [ax for ax in figure.axes if ax.get_xlabel().startswith("time")]
    assert len(courses) == 4
    for ax in courses:
        spans = [p for p in ax.patches if isinstance(p, Rectangle)]
        assert [(p.get_x(), p.get_x() + p.get_width()) for p in spans] == [(1.0, 2.0), (3.0, 5.0)]
    assert {"silence u3, u5", "inject z4"} == {text.get_text().strip() for text in courses[0].texts}
    # With a time constant in milliseconds the axis, and what is on it, are in these.
    moving = ("--stimulus", "bars", "--patch", "4", "--dictionary", "random:6", "--stimulus.tau-ms", "20")
    assert main([*moving, *acts[:2], "--t-max", "3", "--dt", "0.5", "--figure", "none", "--out", "b.zarr"]) == 0
    (span,) = summary(vd.open_dataset("b.zarr")).axes[-1].patches
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((20.0, 40.0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--weights", "none.npy"), "--weights none.npy does not exist"),
        (("--weights", "atoms.npy"), "--weights atoms.npy has shape (6, 9); one number per atom, (9,), is wanted"),
        (("--bias", "w.npy"), "bias holds NaN or infinite entries"),
        (("--bias", "signals.npy"), "--bias signals.npy has shape (2, 6); one number per atom"),
        (("--weights", "w.npy", "--field", "encoder-decoder"), "--weights is no parameter of --field encoder-decoder"),
        (("--weights", "w.npy", "--out", "w.npy"), "w.npy"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refused(*SMALL[:3], "--figure", "none", *options, capsys=capsys)
