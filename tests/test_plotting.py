"""Figures need the dataset alone, exist for every kind of run, have no overlaps, and leave no global state."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import vars_dyn as vd
from tests.recording.helpers import even, small_field
from vars_dyn.dictionaries.gabor import GaborBank
from vars_dyn.images import Signals, assemble, centre, crop, normalise, patches
from vars_dyn.plotting import (
    plot_active,
    plot_atoms,
    plot_convergence,
    plot_encoders,
    plot_input,
    plot_reconstruction,
    summary,
)
from vars_dyn.recording import open_dataset
from vars_dyn.recording.record import record


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 24, 16))


@pytest.fixture(scope="module")
def patch_run(image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    signals = centre(patches([image], 8))
    dictionary = vd.DenseDictionary(GaborBank(8, orientations=3, scales=2, places=2).weight())
    x = torch.from_numpy(signals.values)
    field = vd.SparseRecurrent(dictionary, x, lam=0.2 * dictionary.encode(x).abs().amax(-1))
    store = tmp_path_factory.mktemp("patches") / "run.zarr"
    record(field, store, even(30.0, 1.0), gap=1e-4, coordinates=signals.coordinates, attributes=signals.attributes)
    return open_dataset(store)


def axes_of(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.findobj(Axes) if ax.get_title()]


def drawn(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def figures_of_pyplot() -> list[int]:
    """The numbers of all figures that pyplot keeps, including those of other tests."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else pyplot.get_fignums()


def test_a_summary_has_every_panel_with_labels(patch_run: xr.Dataset) -> None:
    before = figures_of_pyplot()
    figure = summary(patch_run)
    titles = " ".join(ax.get_title() for ax in axes_of(figure))
    for word in (
        "input",
        "reconstruction",
        "residual",
        "atoms",
        "neurons z",
        "encoding neurons u",
        "convergence",
        "active",
    ):
        assert word in titles
    courses = [ax for ax in axes_of(figure) if ax.lines]
    assert len(courses) == 4
    for ax in courses:
        assert "time (membrane time constants)" in ax.get_xlabel()
        assert ax.get_ylabel()
    assert figures_of_pyplot() == before


def test_no_text_overlaps(patch_run: xr.Dataset) -> None:
    figure = summary(patch_run)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [ax.title.get_window_extent(renderer) for ax in axes_of(figure)]
    boxes += [
        text.get_window_extent(renderer)
        for ax in figure.findobj(Axes)
        for text in (ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels())
        if text.get_text() and text.get_visible()
    ]
    width, height = figure.bbox.width, figure.bbox.height
    for k, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height  # noqa: PT018
        for other in boxes[:k]:
            assert not box.padded(-1).overlaps(other.padded(-1))


def test_the_input_is_the_image_that_was_cut(patch_run: xr.Dataset, image: np.ndarray) -> None:
    ax = Figure().subplots()
    plot_input(ax, patch_run)
    expected = (image[0] - image.min()) / (image.max() - image.min())
    np.testing.assert_allclose(drawn(ax), expected, atol=1e-12)


def test_the_reconstruction_says_how_much_it_explains(patch_run: xr.Dataset) -> None:
    ax = Figure().subplots()
    plot_reconstruction(ax, patch_run)
    residual = patch_run.signals - patch_run.code_end.dot(patch_run.dictionary)
    share = 1 - float((residual**2).sum() / (patch_run.signals**2).sum())
    assert f"{100 * share:.0f} %" in ax.get_title()


def test_the_gap_that_is_drawn_is_the_largest(patch_run: xr.Dataset) -> None:
    ax = Figure().subplots()
    plot_convergence(ax, patch_run)
    assert ax.get_yscale() == "log"
    gap = next(line for line in ax.lines if line.get_label() == "relative gap, largest")
    np.testing.assert_array_equal(gap.get_ydata(), patch_run.relative_gap.max("signal"))
    energy = next(line for line in ax.lines if line.get_label() == "V - V(end)").get_ydata()
    assert np.nanmax(np.diff(np.asarray(energy, dtype=float))) <= 1e-9


def test_thresholds_are_those_of_the_gate(patch_run: xr.Dataset) -> None:
    ax = Figure().subplots()
    plot_encoders(ax, patch_run, signal=2)
    levels = sorted(line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--")
    theta = float(patch_run.lam[2]) / 2
    assert levels == [-theta, theta]


@pytest.mark.parametrize("scale", [1e-170, 1.0, 1e160])
def test_the_panels_do_not_depend_on_the_unit(scale: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, dtype=torch.float64, generator=generator)
    x = torch.randn(3, 6, dtype=torch.float64, generator=generator) * torch.tensor([[1.0], [3.0], [1.0]])
    captions = []
    for number, size in enumerate((1.0, scale)):
        field = vd.SparseRecurrent(vd.DenseDictionary(weight), x * size, lam=0.3 * size)
        record(field, tmp_path / f"{number}.zarr", even(3.0, 1.0))
        figure = Figure()
        dataset = open_dataset(tmp_path / f"{number}.zarr")
        plot_reconstruction(figure.add_subplot(211), dataset)
        plot_encoders(figure.add_subplot(212), dataset)
        captions.append([ax.get_title() for ax in axes_of(figure)])
    assert captions[0] == captions[1]
    assert "% of |x|²" in captions[0][0]
    assert captions[0][1].endswith("signal 1")


@pytest.mark.parametrize("threshold", ["soft", "nonnegative"])
def test_a_threshold_of_zero_is_drawn_and_named(threshold: str, tmp_path: Path) -> None:
    field = vd.SparseRecurrent(
        vd.DenseDictionary(torch.eye(4, dtype=torch.float64)),
        torch.ones(2, 4, dtype=torch.float64),
        lam=0.0,
        threshold=threshold,
    )
    record(field, tmp_path / "run.zarr", even(2.0, 1.0))
    ax = Figure().subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_encoders(ax, open_dataset(tmp_path / "run.zarr"))
    dashed = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert [tuple(line.get_ydata()) for line in dashed] == [(0.0, 0.0)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["threshold"]


def test_the_most_active_atoms_come_first(patch_run: xr.Dataset) -> None:
    ax = Figure().subplots()
    plot_atoms(ax, patch_run)
    first = int(np.abs(patch_run.code_end).sum("signal").argmax())
    tile = patch_run.dictionary[:, first].to_numpy().reshape(8, 8)
    np.testing.assert_allclose(drawn(ax)[:8, :8], tile / np.abs(tile).max(), atol=1e-12)


def test_active_atoms_over_time(patch_run: xr.Dataset) -> None:
    ax = Figure().subplots()
    plot_active(ax, patch_run)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), patch_run.active.median("signal"))
    assert ax.get_ylim()[1] > float(patch_run.active.max())


@pytest.mark.parametrize(
    "case", ["rows", "one row", "linear", "colour", "sparse record", "single time", "zero", "long", "sounds", "movie"]
)
def test_every_kind_of_run_can_be_drawn(case: str, tmp_path: Path) -> None:
    field: vd.Field = small_field()
    times, options = even(3.0), {}
    if case == "one row":
        field = small_field((1,))
    elif case == "linear":
        field = vd.FeedForward(torch.ones(2, 3, dtype=torch.float64))
    elif case == "colour":
        weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 5
        x = torch.rand(2, 3, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        field = vd.SparseRecurrent(vd.ConvDictionary(weight, (3, 8, 7), padding=1), x, lam=0.1)
    elif case == "sounds":
        weight = torch.randn(4, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 3
        x = torch.randn(3, 2, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        field = vd.SparseRecurrent(vd.ConvDictionary(weight, (2, 60), stride=4, padding=4), x, lam=0.1)
        options = {"attributes": {"sample_rate": 8000.0}}
    elif case == "movie":
        weight = torch.randn(4, 3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 5
        x = torch.rand(1, 3, 7, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        field = vd.SparseRecurrent(vd.ConvDictionary(weight, (3, 7, 6, 8), stride=2, padding=1), x, lam=0.1)
    elif case == "sparse record":
        options = {"variables": ["relative_gap", "u"], "atoms": [3], "neurons": [0]}
    elif case == "single time":
        times = times[:1]
    elif case == "zero":
        field = vd.SparseRecurrent(small_field().dictionary, torch.zeros(2, 6, dtype=torch.float64), lam=0.4)
    elif case == "long":
        times = even(60.0, 10.0)
    run = record(field, tmp_path / "run.zarr", times, **options)  # type: ignore[arg-type]
    summary(run).savefig(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000


# Images as signals, and the Gabor bank


def test_patches_are_put_together_again() -> None:
    images = [np.random.default_rng(k).random((3, 11, 14)) for k in range(2)]
    for stride in (4, 3):
        cut = patches(images, 4, stride)
        second = cut.coordinates["patch_image"] == 1
        place = (cut.coordinates[name][second] for name in ("patch_row", "patch_column"))
        whole = assemble(cut.values[second], *place, 4)
        np.testing.assert_allclose(whole, images[1][:, : whole.shape[1], : whole.shape[2]], atol=1e-15)


def test_means_and_norms_can_be_given_back() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5))
    values[2] = 0
    done = normalise(centre(Signals(values)))
    np.testing.assert_allclose(done.values.mean(1), 0, atol=1e-15)
    np.testing.assert_allclose((done.values**2).sum(1), [1, 1, 0, 1])
    norm, mean = (done.coordinates[name][:, None] for name in ("signal_norm", "signal_mean"))
    np.testing.assert_allclose(done.values * norm + mean, values, atol=1e-15)
    with pytest.raises(ValueError, match="crop is 0,0,9,1"):
        crop(np.ones((1, 8, 8)), (0, 0, 9, 1))


@pytest.mark.parametrize("colours", [1, 3])
def test_gabor_templates_are_what_they_are_said_to_be(colours: int) -> None:
    bank = GaborBank(16, orientations=4, scales=2, phases=2, places=3, wavelength=4.0, colours=colours)
    kernels = bank.kernels()
    assert kernels.shape == (colours * 4 * 2 * (9 + 4), colours, 16, 16)
    torch.testing.assert_close(kernels.flatten(1).norm(dim=1), torch.ones(len(kernels), dtype=torch.float64))
    torch.testing.assert_close(kernels.sum((-2, -1)), torch.zeros(len(kernels), colours, dtype=torch.float64))
    torch.testing.assert_close(bank.weight().T.reshape(kernels.shape), kernels)
    # With one place and one phase, the spectrum must peak at the requested wavelength and orientation.
    single = GaborBank(32, orientations=4, scales=2, phases=1, wavelength=4.0).kernels()[:, 0]
    for number, template in enumerate(single):
        scale, k = divmod(number, 4)
        power = torch.fft.fftshift(torch.fft.fft2(template).abs())
        row, column = divmod(int(power.argmax()), 32)
        frequency, angle = math.hypot(row - 16, column - 16) / 32, math.atan2(row - 16, column - 16) % math.pi
        assert frequency == pytest.approx(1 / (4 * 2**scale), rel=0.15)
        assert min(abs(angle - math.pi * k / 4), math.pi - abs(angle - math.pi * k / 4)) < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 1}, "size"),
        ({"size": 8, "orientations": 0}, "orientations"),
        ({"size": 8, "wavelength": 1.5}, "wavelength"),
        ({"size": 8, "colours": 2}, "colours"),
        ({"size": 5, "wavelength": 2.0, "phases": 2}, "vanishes"),
    ],
)
def test_banks_that_cannot_be(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaborBank(**arguments).kernels()  # type: ignore[arg-type]
