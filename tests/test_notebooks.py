"""What notebooks show: short lines, small tables, datasets of trajectories, and pictures in the caller's axes."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

import vars_dyn as vd
from vars_dyn._suggestions import meant


def field_of() -> vd.SparseRecurrent:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, lam=0.3)


@pytest.fixture(scope="module")
def trajectory() -> vd.Trajectory:
    field = field_of()
    return vd.integrate(field, field.initial_state(), torch.arange(9, dtype=torch.float64))


def test_values_show_their_parameters(trajectory: vd.Trajectory) -> None:
    field = field_of()
    assert repr(field).startswith(
        "SparseRecurrent(lam=0.3, alpha=1, beta=2, tau_z=1, tau_u=1, gamma=2, threshold=soft, "
    )
    assert "kind=LASSO, lam=0.3, x=(3, 6)" in repr(field.problem())
    assert "non-negative elastic net" in repr(vd.SparseProblem(field.dictionary, field.x, 0.3, 0.1, True))
    assert repr(trajectory).startswith(
        "Trajectory(field=SparseRecurrent, times=9 from 0 to 8, z=(9, 3, 6), u=(9, 3, 9), "
    )
    assert f"relative_gap=at most {float(trajectory.relative_gap.max()):.4g}" in repr(trajectory)
    solution = vd.solve(field.problem())
    assert "converged=3 of 3" in repr(solution)
    for value in (field, field.problem(), trajectory, solution):
        assert len(repr(value)) < 400
        table = value._repr_html_()
        assert type(value).__name__ in table
        assert "relative_gap" in table or "lam" in table


def test_tables_escape_what_they_show() -> None:
    class Odd(vd.SparseRecurrent):
        def parameters(self) -> dict[str, Any]:
            return {"<b>": "<script>"}

    field = field_of()
    table = Odd(field.dictionary, field.x)._repr_html_()
    assert "<script>" not in table
    assert "&lt;script&gt;" in table


def test_a_trajectory_becomes_a_dataset(trajectory: vd.Trajectory) -> None:
    found = trajectory.to_dataset()
    xr.testing.assert_identical(found.drop_vars(["run", "provenance"]),
                                vd.to_dataset(field_of(), trajectory).drop_vars(["run", "provenance"]))  # fmt: skip
    assert trajectory.to_dataset(atoms=[2], every=4)["u"].shape == (3, 3, 1)
    with pytest.raises(ValueError, match="has no field"):
        trajectory._replace(field=None).to_dataset()
    silenced = vd.integrate(
        field_of(), field_of().initial_state(), trajectory.times, interventions=[vd.Silence(atoms=[3])]
    )
    assert not silenced.to_dataset()["code"][1:, :, 3].any()


DRAWN = {
    "trajectory": "potential u",
    "gap": "relative to |x|² / 2",
    "active": "active atoms per signal, of 9",
    "code_maps": "output a",
    "atoms": "activity, sum of |a|",
    "signals": "signal",
    "reconstruction": "signal",
    "residual": "signal",
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_drawn_into_the_given_axes(name: str, trajectory: vd.Trajectory) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    try:
        assert getattr(vd.plot, name)(trajectory, left) is left
        assert left.get_ylabel() == DRAWN[name]
        assert left.get_title()
        assert not right.has_data()
        plt.sca(right)
        assert getattr(vd.plot, name)(trajectory.to_dataset()) is right  # pyplot's current axes by default
        assert right.has_data()
    finally:
        plt.close(figure)


def test_lines_can_be_seen_on_dark_axes(trajectory: vd.Trajectory) -> None:
    def light(colour: Any) -> float:
        return float(np.dot([0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                                                      for c in to_rgb(colour)]))  # fmt: skip

    for style, bright in (("dark_background", True), ("default", False)):
        with mpl.style.context(style):
            figure, axes = plt.subplots(1, 3)
            vd.plot.gap(trajectory, axes[0])
            vd.plot.active(trajectory, axes[1])
            vd.plot.trajectory(trajectory, axes[2], of="u")
            lines = [
                line
                for ax in axes
                for line in ax.get_lines()
                if isinstance(line, Line2D) and line.get_linewidth() > 0.7
            ]
            assert lines
            behind = light(axes[0].get_facecolor())
            for line in lines:
                one, two = sorted((light(line.get_color()), behind))
                assert (two + 0.05) / (one + 0.05) > 1.6, (style, line.get_color())
            grid = light(axes[0].get_xgridlines()[0].get_color())
            assert (grid < 0.3) == bright
            plt.close(figure)


def test_pictures_follow_rc_params(trajectory: vd.Trajectory) -> None:
    sizes = []
    for size in (8, 20):
        with mpl.rc_context({"font.size": size}):
            figure, ax = plt.subplots()
            vd.plot.gap(trajectory, ax)
            sizes.append(ax.get_legend().get_texts()[0].get_fontsize())
            plt.close(figure)
    assert sizes[1] == pytest.approx(2.5 * sizes[0])


def test_plots_say_what_they_want(trajectory: vd.Trajectory) -> None:
    with pytest.raises(ValueError, match="a dataset of a recorded run, or a trajectory, is wanted"):
        vd.plot.gap(xr.Dataset(), plt.Figure().add_subplot())
    only = trajectory.to_dataset(variables=["z"])
    with pytest.raises(ValueError, match="has no u; a run that records it is wanted"):
        vd.plot.trajectory(only, plt.Figure().add_subplot(), of="u")
    with pytest.raises(ValueError, match="records code is wanted"):
        vd.plot.code_maps(only, plt.Figure().add_subplot(), time=1.0)


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("dopri", ("dopri5", "rkc"), "; did you mean dopri5?"),
        ("relative-gap", ("relative_gap", "z"), "; did you mean relative_gap?"),
        ("T_MAX", ("--t-max",), "; did you mean --t-max?"),
        ("zebra", ("dopri5", "rkc"), ""),
        (3, ("dopri5",), ""),
    ],
)
def test_names_that_are_close_are_suggested(name: object, known: tuple[str, ...], said: str) -> None:
    assert meant(name, known) == said


def test_suggestions_reach_the_user() -> None:
    field = field_of()
    with pytest.raises(ValueError, match=r"did you mean dopri5\?|did you mean dopri8"):
        vd.integrate(field, field.initial_state(), torch.arange(3, dtype=torch.float64), method="dopri")
    with pytest.raises(ValueError, match=r"did you mean fista"):
        vd.solve(field.problem(), method="fist")
    with pytest.raises(AttributeError) as error:
        vd.SparseProblm  # noqa: B018
    assert error.value.name == "SparseProblm"
    assert error.value.obj is vd
