"""Sounds and movies from the command line: what is read, how it is scaled, and one clear line for what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

import vars_dyn as vd
from tests.moving import grating, write_movie
from tests.simulate.test_simulate import refused, run
from vars_dyn.recording.rebuilding import Reconstruction
from vars_dyn.simulate.build import dictionary_of
from vars_dyn.simulate.cli import parse
from vars_dyn.simulate.inputs import read_signals

QUICK = ("--lam", "0.5x", "--gap", "1e-3", "--method", "auto", "--t-max", "300")
WHOLE = ("--stimulus", "none")
MOVIE = (*WHOLE, *QUICK, "--dictionary", "random:3", "--kernel", "2,4,4", "--conv-stride", "2,4,4")
SOUND = (*QUICK, "--bands", "6", "--kernel", "256", "--conv-stride", "64")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a grating as a movie, as frames and as pages, and a sound of two channels."""
    monkeypatch.chdir(tmp_path)
    frames = grating(6, 8, 12)
    write_movie(tmp_path / "grating.mkv", list(frames), codec="ffv1", pixels="gray", rate=20)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number + 7}.png")
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save("pages.tif", save_all=True, append_images=pages[1:])
    np.save("frames.npy", frames)
    t = np.arange(1024) / 8000
    chime = np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 1500 * t)], 1) * np.exp(-20 * t)[:, None]
    wavfile.write("chime.wav", 8000, np.round(16384 * chime).astype(np.int16))
    return tmp_path


def signals_of(*arguments: str) -> Any:
    return read_signals(parse(arguments).signals, 0)


def test_a_movie_is_coded_to_its_certificate(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found, dataset = run("grating.mkv", *MOVIE, "--figure", "run.png", "--animate", "run.gif", capsys=capsys)
    assert status == 0
    assert found["relative_gap_max"] <= 1e-3
    assert found["input_scaling"] == "frames divided by 255"
    assert dataset.signals.dims == ("signal", "colour", "frame", "row", "column")
    assert dataset.code.dims == ("time", "signal", "channel", "code_frame", "y", "x")
    assert dataset.dictionary.dims == ("channel", "kernel_colour", "kernel_frame", "kernel_row", "kernel_column")
    assert dataset.attrs["frame_rate"] == 20.0
    wanted = grating(6, 8, 12) / 255
    np.testing.assert_allclose(dataset.signals[0, 0], wanted - wanted.mean(), atol=1e-12)
    assert Path("run.png").stat().st_size > 10_000
    with Image.open("run.gif") as film:
        assert film.n_frames == min(dataset.sizes["time"], 100)
    # An independent construction of P, by torch's own convolution, rebuilds what the store says.
    padded = torch.nn.functional.conv_transpose3d(
        torch.from_numpy(dataset.code_end.to_numpy()),
        torch.from_numpy(dataset.dictionary.to_numpy()),
        stride=(2, 4, 4),
        padding=(1, 2, 2),
        output_padding=(0, 0, 0),
    )
    np.testing.assert_allclose(dataset.reconstruction_end, padded, atol=1e-12)
    np.testing.assert_allclose(Reconstruction(dataset)(dataset.code_end.to_numpy()), padded, atol=1e-12)


def test_the_channels_of_a_sound_are_signals(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found, dataset = run(
        "chime.wav", *SOUND, "--dictionary", "gammatone", "--animate", "run.mp4", capsys=capsys
    )
    assert (status, found["signals"], found["input_scaling"]) == (0, 2, "sounds divided by 32768")
    assert dataset.signals.dims == ("signal", "sound_channel", "sample")
    assert dataset.code.dims == ("time", "signal", "channel", "place")
    assert dataset.signal_channel.to_numpy().tolist() == [0, 1]
    assert dataset.attrs["sample_rate"] == 8000.0
    # The template that each channel uses most is the one nearest to its tone.
    activity = np.abs(dataset.code_end).sum("place").to_numpy().reshape(2, 6, 2).sum(-1)
    bank = vd.dictionaries.tones.ToneBank(256, 8000, bands=6).frequencies().numpy()  # type: ignore[attr-defined]
    assert [int(np.abs(np.log(bank / f)).argmin()) for f in (440, 1500)] == activity.argmax(1).tolist()
    assert Path("run.mp4").stat().st_size > 1000


def test_movies_of_every_kind_are_the_same_signal(here: Path) -> None:
    wanted = signals_of("grating.mkv", "--clip", "1,6,2", "--crop", "0,2,8,8", "--scale", "0.5")
    assert wanted.values.shape == (1, 1, 3, 4, 4)
    assert wanted.attributes["frame_rate"] == 10.0
    for source in (("frames", "--movie"), ("pages.tif",), ("frames.npy", "--movie", "--full-scale", "255")):
        found = signals_of(*source, "--clip", "1,6,2", "--crop", "0,2,8,8", "--scale", "0.5")
        np.testing.assert_allclose(found.values, wanted.values, atol=1e-6)
    np.testing.assert_array_equal(
        signals_of("grating.mkv", "--clip", "0.1s,0.25s").values, signals_of("grating.mkv", "--clip", "2,5").values
    )


def test_sounds_can_be_cut_mixed_and_resampled(here: Path) -> None:
    whole = signals_of("chime.wav", "--mean", "keep")
    assert whole.values.shape == (2, 1, 1024)
    together = signals_of("chime.wav", "--mean", "keep", "--channels", "together", "--clip", "0,512")
    np.testing.assert_array_equal(together.values[0], whole.values[:, 0, :512])
    mixed = signals_of("chime.wav", "--mean", "keep", "--channels", "mean", "--clip", "0s,0.064s")
    np.testing.assert_allclose(mixed.values[0, 0], whole.values[:, 0, :512].mean(0))
    half = signals_of("chime.wav", "--mean", "keep", "--scale", "0.5")
    assert (half.values.shape, half.attributes["sample_rate"]) == ((2, 1, 512), 4000.0)
    raw = signals_of("chime.wav", "--mean", "keep", "--full-scale", "none")
    np.testing.assert_array_equal(raw.values, 32768 * whole.values)


def test_built_in_templates_fit_every_kind(here: Path) -> None:
    for arguments, shape in {
        ("grating.mkv", "--kernel", "4,6,6", "--orientations", "2", "--speeds", "0,1,2"): (40, 1, 4, 6, 6),
        ("grating.mkv", "--colour", "--kernel", "4"): (144, 3, 4, 4, 4),
        ("chime.wav", "--kernel", "256", "--bands", "5"): (10, 1, 256),
        ("chime.wav", "--channels", "together", "--dictionary", "gammatone"): (96, 2, 512),
    }.items():
        options = parse(arguments)
        dictionary = dictionary_of(options.dictionary, read_signals(options.signals, 0), seed=0)
        assert dictionary.tensors()[0].shape == shape
    np.save("w.npy", np.random.default_rng(0).normal(size=(3, 1, 2, 3, 5)))
    options = parse(["grating.mkv", "--dictionary", "w.npy"])
    dictionary = dictionary_of(options.dictionary, read_signals(options.signals, 0), seed=0)
    assert (dictionary.padding, dictionary.stride) == ((1, 1, 2), (2, 4, 4))  # type: ignore[attr-defined]


def _mixed() -> None:
    wavfile.write("other.wav", 16000, np.zeros(10, np.int16))


BAD: dict[str, tuple[Callable[[], None] | None, tuple[str, ...], str]] = {
    "a sound and a movie": (None, ("chime.wav", "grating.mkv"), "inputs of one kind are wanted"),
    "two rates": (_mixed, ("chime.wav", "other.wav"), "one length and one rate are wanted"),
    "a clip beyond the end": (None, ("grating.mkv", "--clip", "2,9"), "which has 6; START below STOP"),
    "a clip of nothing": (None, ("chime.wav", "--clip", "5,5"), "START below STOP"),
    "a clip in words": (None, ("chime.wav", "--clip", "all"), "START,STOP or START,STOP,STEP is wanted"),
    "seconds of a folder": (None, ("frames", "--movie", "--clip", "0s,1s"), "does not say its rate"),
    "a step in a sound": (None, ("chime.wav", "--clip", "0,9,2"), "--scale is wanted"),
    "a sound cut into patches": (None, ("chime.wav", "--patch", "8"), "--patch does nothing with sounds"),
    "a sound cropped": (None, ("chime.wav", "--crop", "0,0,2,2"), "--crop does nothing with a sound"),
    "channels of a movie": (
        None,
        ("grating.mkv", *WHOLE, "--channels", "mean"),
        "--channels does nothing without a sound",
    ),
    "a clip of images": (None, ("frames", "--patch", "4", "--clip", "0,2"), "--clip does nothing without"),
    "speeds of tones": (None, ("chime.wav", "--speeds", "0"), "--speeds does nothing with sounds"),
    "bands of a movie": (None, ("grating.mkv", *WHOLE, "--bands", "3"), "--bands does nothing with movies"),
    "gammatones of a movie": (None, ("grating.mkv", *WHOLE, "--dictionary", "gammatone"), "gammatone is for sounds"),
    "three sides for a sound": (None, ("chime.wav", "--kernel", "5,5,5"), "one number, or 1, is wanted"),
    "templates of two dimensions": (
        None,
        ("grating.mkv", *WHOLE, "--dictionary", "frames.npy"),
        "frames, side, side) is",
    ),
    "an oblong Gabor kernel": (None, ("grating.mkv", *WHOLE, "--kernel", "2,3,4"), "a square of at least 2 x 2"),
    "too fast": (None, ("grating.mkv", *WHOLE, "--speeds", "3"), "a speed is 3 pixels per frame; from 0 to 2"),
    "an animation of another kind": (None, ("chime.wav", "--animate", "a.avi"), "ending in .gif or .mp4 is wanted"),
    "an animation in the place of another": (
        lambda: Path("mine.gif").write_bytes(b"GIF89a"),  # type: ignore[dict-item]
        ("chime.wav", "--animate", "mine.gif"),
        "is no figure of a simulation",
    ),
    "two movies as a stimulus": (None, ("grating.mkv", "grating.mkv"), "one movie is wanted with --stimulus movie"),
    "frames without a rate": (None, ("pages.tif",), "--stimulus.rate is wanted, or --stimulus none, which codes"),
    "a rate of a movie coded whole": (
        None,
        ("grating.mkv", *WHOLE, "--stimulus.rate", "3"),
        "--stimulus.rate does nothing with --stimulus none",
    ),
    "a still input as a movie": (None, ("chime.wav", "--stimulus", "movie"), "chime.wav is no movie"),
    "patches drawn from a movie": (None, ("grating.mkv", "--patches", "2"), "--patches does nothing with --stimulus"),
    "a movie that is none": (lambda: Path("a.mp4").write_text("x") and None, ("a.mp4",), "cannot be read as a movie"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare, arguments, expected = BAD[case]
    if prepare is not None:
        prepare()
    assert expected in refused(*arguments, "--figure", "none", capsys=capsys)
