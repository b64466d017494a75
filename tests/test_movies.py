"""Movies: every frame by its number, whatever was read before, in memory that does not grow with the movie."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.moving import grating, noise, write_movie
from vars_dyn.images import read_image
from vars_dyn.movies import MovieReader, frames, is_movie

#: Files in which frames depend on others before and after them, and files in which time stamps are missing or odd.
FILES: dict[str, tuple[int, Callable[[Path], Path]]] = {
    "h264 with B frames": (
        90,
        lambda p: write_movie(
            p / "m.mp4", noise(90), options={"bf": "3", "g": "12", "keyint_min": "4", "x264-params": "open-gop=1"}
        ),
    ),
    "h264 in matroska": (90, lambda p: write_movie(p / "m.mkv", noise(90), options={"bf": "2", "g": "30"})),
    "mpeg4 in avi": (90, lambda p: write_movie(p / "m.avi", noise(90), codec="mpeg4", options={"bf": "2", "g": "12"})),
    "mpeg1": (90, lambda p: write_movie(p / "m.mpg", noise(90), codec="mpeg1video", options={"g": "12"})),
    "raw": (50, lambda p: write_movie(p / "m.y4m", noise(50), codec="wrapped_avframe", pixels="yuv444p")),
    "lossless": (60, lambda p: write_movie(p / "m.mkv", noise(60), codec="ffv1", pixels="bgr0")),
    "gif": (50, lambda p: write_movie(p / "m.gif", noise(50), codec="gif", pixels="rgb8")),
}


@pytest.fixture(scope="module", params=FILES)
def movie(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """A movie, and all its frames as they come one after another."""
    count, write = FILES[request.param]
    path = write(tmp_path_factory.mktemp("movie"))
    found = [frame.copy() for frame in frames(path, colour=True)]
    assert len(found) == count
    return path, found


def test_frames_are_those_that_were_written(movie: tuple[Path, list[np.ndarray]]) -> None:
    _, found = movie
    written = noise(len(found)) / 255
    # Lossy codecs change pixels, but each frame is nearest to the one that was written as it.
    for number in range(0, len(found), 7):
        distance = [np.abs(np.moveaxis(found[number], 0, -1) - frame).mean() for frame in written]
        assert int(np.argmin(distance)) == number
        assert distance[number] < 0.12


@settings(max_examples=15)
@given(data=st.data())
def test_a_frame_does_not_depend_on_what_was_read_before(
    movie: tuple[Path, list[np.ndarray]], data: st.DataObject
) -> None:
    path, found = movie
    numbers = data.draw(st.lists(st.integers(0, len(found) - 1), min_size=1, max_size=6))
    with MovieReader(path, colour=True, cache=2) as reader:
        for number in numbers:
            np.testing.assert_array_equal(reader.frame(number), found[number])


def test_what_a_reader_says_of_the_movie(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "m.mkv", list(grating(7)), codec="ffv1", pixels="gray", rate=30)
    with MovieReader(path) as reader:
        assert (reader.count, reader.rate, reader.shape, reader.depth) == (7, 30.0, (1, 24, 32), 255.0)
        np.testing.assert_array_equal(reader.frame(3)[0] * 255, grating(7)[3])
        with pytest.raises(ValueError, match="it has 7, counted from 0"):
            reader.frame(7)
    with MovieReader(path, crop=(2, 4, 8, 16), size=(4, 8), full_scale=1.0) as reader:
        assert reader.shape == (1, 4, 8)
        assert 30 < reader.frame(1).max() < 256
    deep = write_movie(tmp_path / "deep.mkv", list(grating(3)), codec="ffv1", pixels="gray16le")
    with MovieReader(deep) as reader:
        assert reader.depth == 65535
        np.testing.assert_allclose(reader.frame(2)[0], grating(3)[2] / 255, atol=1 / 255)
    assert [round(float(f.mean() * 255), 3) for f in frames(path, 1, 6, 2)] == [
        round(float(f.mean()), 3) for f in grating(7)[1:6:2]
    ]


def test_grey_frames_are_grey_as_images_are(tmp_path: Path) -> None:
    picture = noise(1)[0]
    Image.fromarray(picture).save(tmp_path / "f.png")
    path = write_movie(tmp_path / "m.mkv", [picture], codec="ffv1", pixels="bgr0")
    with MovieReader(path) as reader:
        np.testing.assert_allclose(reader.frame(0), read_image(tmp_path / "f.png"), atol=1.01 / 255)


def test_folders_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(tmp_path / f"frame{number}.png")
    assert [round(f.mean() * 255) for f in frames(tmp_path)] == [1, 2, 9, 10, 11, 100]
    assert MovieReader(tmp_path).rate is None


def test_the_pages_of_a_tiff(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6, 7)).astype(np.uint16)
    pages = [Image.fromarray(page) for page in deep]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tif")
    assert is_movie(tmp_path / "stack.tif")
    assert not is_movie(tmp_path / "one.tif")
    with MovieReader(tmp_path / "stack.tif") as reader:
        assert (reader.count, reader.depth) == (5, 65535)
        for number in (4, 0, 3, 3, 1, 2):
            np.testing.assert_array_equal(reader.frame(number)[0], deep[number] / 65535)


def test_memory_does_not_grow_with_the_movie(tmp_path: Path) -> None:
    peaks = []
    for count in (30, 240):
        path = write_movie(tmp_path / f"{count}.mp4", list(grating(count, 96, 128)))
        tracemalloc.start()
        for _ in frames(path):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    frame = 8 * 96 * 128
    assert peaks[0] > 3 * frame
    assert peaks[1] < peaks[0] + frame


def _other_size(folder: Path) -> Path:
    (folder / "frames").mkdir()
    for number, side in enumerate((8, 9)):
        Image.fromarray(np.zeros((8, side), np.uint8)).save(folder / "frames" / f"{number}.png")
    return folder / "frames"


def _cut(folder: Path) -> Path:
    whole = write_movie(folder / "whole.mp4", noise(20)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.mp4"


def _written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "frames of two sizes": (_other_size, "frame 1 of .* has 8 x 9 pixels"),
    "cut off": (_cut, "cannot be read as a movie"),
    "text": (_written("a.mp4", b"no movie"), "cannot be read as a movie"),
    "empty": (_written("a.avi", b""), "cannot be read as a movie"),
    "playlist": (_written("a.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), "cannot be read as a movie"),
    "list of files": (_written("a.mkv", b"ffconcat version 1.0\nfile /etc/passwd\n"), "cannot be read as a movie"),
    "another suffix": (_written("a.txt", b"x"), "is no movie"),
    "no file": (lambda folder: folder / "none.mp4", "does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        list(frames(path))
    assert "\n" not in str(caught.value)


def test_without_pyav_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_movie(tmp_path / "m.mp4", noise(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"wants PyAV, which is not installed: pip install 'vars_dyn\[movies\]'"):
        MovieReader(path)
