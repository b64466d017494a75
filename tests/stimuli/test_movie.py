"""A movie as a stimulus: the right frame at every time, from every kind of file, read once and when it is needed."""

from __future__ import annotations

import os
import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vars_dyn as vd
from tests.moving import noise, write_movie
from tests.strategies import normal
from vars_dyn.movies.video import Video
from vars_dyn.recording import Progress

S = vd.stimuli
COUNT, RATE, TAU = 12, 25.0, 10.0
#: The movie as an array (frame, row, column), in which white is one.
PIXELS = noise(COUNT, 8, 16)[..., 0] / 255


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same frames as a lossless movie, as images in a folder, and as the pages of a TIFF."""
    folder = tmp_path_factory.mktemp("films")
    frames = np.round(255 * PIXELS).astype(np.uint8)
    (folder / "images").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "images" / f"{number}.png")
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    write_movie(folder / "film.mkv", list(frames), codec="ffv1", pixels="gray", rate=int(RATE))
    return {"file": folder / "film.mkv", "folder": folder / "images", "pages": folder / "pages.tif"}


def film(path: Path, **how: Any) -> vd.stimuli.Movie:
    return S.Movie(path, rate=RATE, tau_ms=TAU, **how)


@given(
    kind=st.sampled_from(["file", "folder", "pages"]),
    between=st.sampled_from(["hold", "linear"]),
    times=st.lists(st.floats(-5.0, 60.0), min_size=1, max_size=5),
    clip=st.sampled_from([(0, None), (2, 9), (1, 12, 3)]),
)
def test_the_frame_of_every_time(
    films: dict[str, Path], kind: str, between: str, times: list[float], clip: tuple[int | None, ...]
) -> None:
    movie = film(films[kind], between=between, clip=clip)
    taken = PIXELS[slice(*clip)]
    step = clip[2] if len(clip) == 3 else 1
    assert step is not None
    # A frame every 40 ms is one every 4 time constants. With a rate given, every frame that is taken counts.
    knots = 4.0 * np.arange(len(taken))
    for t in times:
        place = np.clip(t / 4.0, 0, len(taken) - 1)
        wanted = taken[int(np.searchsorted(knots, t, side="right").clip(1) - 1)]
        if between == "linear":
            low = int(min(np.floor(place), len(taken) - 2))
            wanted = taken[low] + (place - low) * (taken[low + 1] - taken[low])
        np.testing.assert_allclose(movie(t).numpy(), wanted, rtol=0, atol=1e-12)
    assert movie.jumps == tuple(knots[1:] if between == "hold" else knots)
    assert movie.rests_from == knots[-1]
    np.testing.assert_allclose(movie.duration, 4.0 * len(taken))
    assert bool((movie.size().numpy() >= np.abs(taken).max(0)).all())


def test_the_file_says_when_each_frame_is_shown(films: dict[str, Path], tmp_path: Path) -> None:
    assert S.Movie(films["file"], tau_ms=20.0).jumps == pytest.approx([2.0 * k for k in range(1, COUNT)])
    assert S.Movie(films["file"], clip=(1, 8, 3), tau_ms=20.0).jumps == pytest.approx([6.0, 12.0])
    frames = [Image.fromarray(np.full((8, 8), 60 * k, np.uint8)) for k in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[30, 100, 50, 20])
    assert S.Movie(tmp_path / "a.gif", tau_ms=10.0).jumps == pytest.approx([3.0, 13.0, 18.0])


def test_colours_crop_size_and_scale(films: dict[str, Path], tmp_path: Path) -> None:
    coloured = noise(3, 8, 16)
    path = write_movie(tmp_path / "c.mkv", list(coloured), codec="ffv1", pixels="bgr0")
    movie = film(path, colour=True, crop=(0, 2, 8, 12), full_scale=1.0)
    assert (movie.shape, movie.event_dims) == ((3, 8, 12), 3)
    wanted = np.moveaxis(coloured[1, :, 2:14].astype(float), -1, 0)
    np.testing.assert_allclose(movie(4.0).numpy(), wanted, atol=1e-12)
    assert float(movie.size().max()) == 255.0
    # A patch in colour is laid out as `vars_dyn.images.patches` does it.
    own = S.Patches(movie, 4, subtract_mean=True)
    cut = vd.images.patches([wanted], 4).values
    np.testing.assert_allclose(own(4.0).numpy(), cut - cut.mean(1, keepdims=True), atol=1e-12)
    assert film(films["file"], size=(4, 4), dtype=torch.float32)(0.0).shape == (4, 4)
    assert film(films["file"]).to(dtype=torch.float32)(0.0).dtype == torch.float32


def field_of(stimulus: vd.stimuli.Stimulus) -> vd.SparseRecurrent:
    weight = torch.nn.functional.normalize(normal(7, 16, 24), dim=0)
    return vd.SparseRecurrent(vd.DenseDictionary(weight), S.Patches(stimulus, 4, subtract_mean=True), lam=0.1)


@pytest.mark.parametrize("between", ["hold", "linear"])
def test_a_run_is_that_of_the_array_and_reads_each_frame_once(
    films: dict[str, Path], between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = torch.linspace(0, 48, 25, dtype=torch.float64)
    array = S.Sampled(torch.from_numpy(PIXELS), 4.0 * torch.arange(COUNT, dtype=torch.float64), between)
    field = field_of(array)
    wanted = vd.integrate(field, field.initial_state(), times, rtol=1e-4).states
    read: list[int] = []
    picture = Video.picture

    def counted(self: Video, number: int, *, colour: bool) -> Any:
        read.append(number)
        return picture(self, number, colour=colour)

    monkeypatch.setattr(Video, "picture", counted)
    movie = film(films["file"], between=between)
    # Tolerances are relative to the size, which is known of the array only.
    monkeypatch.setattr(S.Movie, "size", lambda self: array.size())
    field = field_of(movie)
    found = vd.integrate(field, field.initial_state(), times, rtol=1e-4).states
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)
    assert read == list(range(COUNT))


def test_memory_does_not_grow_with_the_movie(tmp_path: Path) -> None:
    peaks = []
    for count in (20, 80):
        path = write_movie(tmp_path / f"{count}.mkv", list(noise(count, 64, 64)), codec="ffv1", pixels="bgr0")
        movie = film(path)
        tracemalloc.start()
        for k in range(count):
            movie(4.0 * k)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 64 * 64 * 8


class StopError(Exception):
    """The run is interrupted."""


def stop(now: Progress) -> None:
    if now.time >= 20:
        raise StopError


def test_an_interrupted_run_goes_on_with_the_same_frames_only(
    films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    times = torch.arange(0.0, 44.0, 2.0, dtype=torch.float64)
    options: dict[str, Any] = {"rtol": 1e-3, "chunk": 4}
    whole = vd.record(field_of(film(films["file"])), tmp_path / "whole.zarr", times, **options)
    facts = vd.facts(whole)["stimulus"]["parts"][0]
    assert (facts["stimulus"], facts["path"], len(facts["sha256"])) == ("Movie", str(films["file"]), 64)
    with pytest.raises(StopError):
        vd.record(field_of(film(films["file"])), tmp_path / "cut.zarr", times, progress=stop, **options)
    elsewhere = shutil.copy(films["file"], tmp_path / "moved.mkv")
    other = write_movie(tmp_path / "other.mkv", list(noise(COUNT, 8, 16, seed=1)), codec="ffv1", pixels="bgr0")
    for changed in (film(other), film(films["file"], between="linear")):
        with pytest.raises(ValueError, match="cannot be resumed with another stimulus"):
            vd.record(field_of(changed), tmp_path / "cut.zarr", times, resume=True, **options)
    resumed = vd.record(field_of(film(Path(elsewhere))), tmp_path / "cut.zarr", times, resume=True, **options)
    for name in ("x", "z", "u", "relative_gap", "z_end", "evaluations"):
        np.testing.assert_array_equal(whole[name].to_numpy(), resumed[name].to_numpy())


def test_a_movie_is_a_value(films: dict[str, Path]) -> None:
    movie = film(films["file"])
    twin = pickle.loads(pickle.dumps(movie))  # noqa: S301 -- as a process pool does
    assert torch.equal(twin(9.0), movie(9.0))
    assert twin.parameters() == movie.parameters()
    shown = S.Sequence((movie, S.Constant(torch.ones(8, 16, dtype=torch.float64))), (0.0, 10.0))
    assert shown.jumps == (4.0, 8.0, 10.0)
    assert torch.equal(shown(10.0), torch.ones(8, 16, dtype=torch.float64))


def test_what_is_no_movie_is_refused(films: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say how fast its frames follow; a rate"):
        S.Movie(films["folder"])
    with pytest.raises(ValueError, match="has 12 frames; a start below the end"):
        film(films["pages"], clip=(3, 13))
    with pytest.raises(ValueError, match="does not exist"):
        film(tmp_path / "none.mkv")
    with pytest.raises(ValueError, match="rate is 0"):
        S.Movie(films["file"], rate=0)
