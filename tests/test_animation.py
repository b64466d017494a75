"""Animations: one image for each recorded time that is shown, from the store alone, in memory that does not grow."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

import vars_dyn as vd
from tests.recording.helpers import even, small_field
from vars_dyn._files import is_our_picture
from vars_dyn.movies import MovieReader
from vars_dyn.plotting import animate
from vars_dyn.plotting.animation import _Scene
from vars_dyn.recording.record import record


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    weight = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 3
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    field = vd.SparseRecurrent(vd.ConvDictionary(weight, (1, 8, 8), padding=1), x, lam=0.1)
    return record(field, tmp_path_factory.mktemp("image") / "run.zarr", even(6.0, 0.5))


def images_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        found = []
        for number in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(number)
            found.append(np.asarray(film.convert("RGB")))
        return found


def test_a_gif_shows_each_time_and_carries_our_mark(image_run: xr.Dataset, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    animate(image_run, tmp_path / "run.gif", rate=10.0, progress=lambda *done: told.append(done))
    found = images_of(tmp_path / "run.gif")
    assert told == [(k + 1, 13) for k in range(13)]
    assert len(found) == 13
    with Image.open(tmp_path / "run.gif") as film:
        assert (film.info["duration"], film.info["loop"]) == (100, 0)
    assert is_our_picture(tmp_path / "run.gif")
    changes = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(found)]
    assert min(changes) > 0  # the cursor moves in each
    assert changes[0] > changes[-1]  # and the reconstruction changes most at the start


def test_an_mp4_has_as_many_images(image_run: xr.Dataset, tmp_path: Path) -> None:
    animate(image_run, tmp_path / "run.mp4", images=5, rate=8.0)
    with MovieReader(tmp_path / "run.mp4") as movie:
        assert (movie.count, movie.rate) == (5, 8.0)
    assert is_our_picture(tmp_path / "run.mp4")


def test_the_middle_panel_shows_the_reconstruction_at_that_time(image_run: xr.Dataset, tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    def spy(ax: Any, dataset: Any, values: np.ndarray, **_: Any) -> None:
        seen.append(np.array(values))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vars_dyn.plotting.animation.draw_signals", spy)
        animate(image_run, tmp_path / "run.gif", images=4)
    np.testing.assert_array_equal(seen[0], image_run.signals)
    np.testing.assert_array_equal(seen[1], 0 * image_run.signals)
    np.testing.assert_allclose(seen[-1], image_run.reconstruction_end, atol=1e-12)


def test_a_stimulus_that_moves_is_shown_as_it_moves(image_run: xr.Dataset, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).random((image_run.sizes["time"], *image_run.signals.shape))
    recorded = image_run.assign(x=(("time", *image_run.signals.dims), frames))
    animate(recorded, tmp_path / "recorded.gif", images=3)
    chosen = {float(t): frames[k] for k, t in enumerate(image_run.time)}
    animate(image_run, tmp_path / "called.gif", images=3, stimulus=lambda t: chosen[t])
    for a, b in zip(images_of(tmp_path / "recorded.gif"), images_of(tmp_path / "called.gif"), strict=True):
        np.testing.assert_array_equal(a, b)
    animate(image_run, tmp_path / "still.gif", images=3)
    assert (images_of(tmp_path / "still.gif")[1] != images_of(tmp_path / "recorded.gif")[1]).any()


def test_a_moving_input_sets_the_scale_the_signal_and_the_neurons_that_are_shown(tmp_path: Path) -> None:
    # Signal 1 is seen from 2 to 4 only; nothing is there at the start and at the end.
    pulse = vd.stimuli.Flash(vd.stimuli.Constant(torch.ones(8, dtype=torch.float64)), onset_ms=20, duration_ms=20)
    still = vd.stimuli.Constant(torch.full((8,), 0.2, dtype=torch.float64))
    P = vd.DenseDictionary(torch.eye(8, dtype=torch.float64)[:, :5])
    field = vd.SparseRecurrent(P, vd.stimuli.Stack(still, pulse), lam=0.1)
    run = record(field, tmp_path / "run.zarr", even(10.0, 0.5), rtol=1e-3)
    seen: list[tuple[np.ndarray, Any]] = []
    shown: list[tuple[str, float]] = []

    def told(figure: Any, text: str, **_: Any) -> None:
        shown.append((text, figure.axes[2].lines[-1].get_xdata()[0]))  # the cursor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "vars_dyn.plotting.animation.draw_signals",
            lambda ax, few, values, **how: seen.append((np.array(values), how["limits"])),
        )
        patch.setattr(Figure, "suptitle", told)
        animate(run, tmp_path / "recorded.gif", images=7)
        animate(run.drop_vars("x"), tmp_path / "called.gif", images=7, stimulus=lambda t: field.stimulus(t).numpy())
    for one, other in zip(seen[:14], seen[14:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1] == (0.0, 1.0)
    chosen = [0, 3, 7, 10, 13, 17, 20]
    np.testing.assert_array_equal(np.stack([values for values, _ in seen[:14:2]]), run.x[chosen])
    # The axis is in milliseconds, and so is what moves along it.
    assert shown[:7] == shown[7:] == [(f"t = {5 * k} ms", 5.0 * k) for k in chosen]
    scene = _Scene(run, None, 100, None)
    assert (scene.signal, set(scene._lines.tolist())) == (1, {0, 1, 2, 3, 4})


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    field = small_field()
    peaks = []
    for images in (4, 16):
        run = record(field, tmp_path / f"{images}.zarr", even(0.1 * images, 0.1))
        animate(run, tmp_path / "warm.gif", images=2)
        tracemalloc.start()
        animate(run, tmp_path / f"{images}.gif", images=images)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    image = 3 * 1080 * 400
    assert peaks[0] > image
    assert peaks[1] < peaks[0] + image


@pytest.mark.parametrize("case", ["linear", "no code", "rows"])
def test_other_runs(case: str, tmp_path: Path) -> None:
    field: vd.Field = small_field()
    options: dict[str, Any] = {}
    if case == "linear":
        field = vd.FeedForward(torch.ones(2, 3, dtype=torch.float64))
    elif case == "no code":
        options = {"variables": ["z", "u"]}
    run = record(field, tmp_path / "run.zarr", even(1.0, 0.5), **options)
    animate(run, tmp_path / "run.gif")
    assert len(images_of(tmp_path / "run.gif")) == 3


def test_what_cannot_be_shown(image_run: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ending in \.gif or \.mp4 is wanted"):
        animate(image_run, tmp_path / "run.avi")
    with pytest.raises(ValueError, match="neither code nor z of all neurons"):
        animate(image_run.drop_vars(["z", "code"]), tmp_path / "run.gif")
    with pytest.raises(ValueError, match="signal is 3; a number from 0 to 0"):
        animate(image_run, tmp_path / "run.gif", signal=3)
    assert not list(tmp_path.iterdir())
