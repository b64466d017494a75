"""Sounds: the numbers of WAV files of every depth, and other rates without aliases."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from vars_dyn.sounds import read_sound, resampled

WAVE = np.array([[-1.0, 0.5], [0.0, 0.25], [0.5, -0.5], [0.75, 0.0]])


def wav(path: Path, bits: int, data: bytes, channels: int = 1, extra: bytes = b"") -> Path:
    """A WAV file of integers, written by hand."""
    width = bits // 8 * channels
    head = b"fmt " + struct.pack("<IHHIIHH", 16, 1, channels, 8000, 8000 * width, width, bits)
    body = b"WAVE" + head + extra + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize(("kind", "scale"), [("i2", 2**15), ("i4", 2**31), ("f4", 1), ("f8", 1)])
def test_every_depth(kind: str, scale: float, tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", 16000, (WAVE * scale).astype(kind))
    sound = read_sound(tmp_path / "a.wav")
    assert (sound.rate, sound.depth) == (16000, scale)
    np.testing.assert_array_equal(sound.over(), WAVE.T)
    np.testing.assert_array_equal(sound.over(1.0), WAVE.T * scale)


def test_bytes_have_silence_in_the_middle(tmp_path: Path) -> None:
    sound = read_sound(wav(tmp_path / "a.wav", 8, bytes([0, 128, 192, 255])))
    np.testing.assert_array_equal(sound.over()[0], [-1, 0, 0.5, 127 / 128])


def test_24_bits(tmp_path: Path) -> None:
    numbers = [-(2**23), 0, 2**22, 2**23 - 1]
    data = b"".join(n.to_bytes(3, "little", signed=True) for n in numbers)
    sound = read_sound(wav(tmp_path / "a.wav", 24, data))
    np.testing.assert_array_equal(sound.over()[0] * 2**23, numbers)


def test_notes_of_other_programs_are_no_damage(tmp_path: Path) -> None:
    note = b"note" + struct.pack("<I", 4) + b"abcd"
    np.testing.assert_array_equal(
        read_sound(wav(tmp_path / "a.wav", 8, bytes([128, 0]), extra=note)).stored, [[0, -128]]
    )


def _with(values: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        wavfile.write(folder / "a.wav", 8000, values)
        return folder / "a.wav"

    return write


def _cut(folder: Path) -> Path:
    content = wav(folder / "a.wav", 8, bytes(200)).read_bytes()
    (folder / "a.wav").write_bytes(content[:-100])
    return folder / "a.wav"


def _text(folder: Path) -> Path:
    (folder / "a.wav").write_text("no sound")
    return folder / "a.wav"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut off": (_cut, "cannot be read as WAV"),
    "text": (_text, "cannot be read as WAV"),
    "NaN": (_with(np.array([0.0, np.nan], dtype=np.float32)), "NaN or infinity"),
    "empty": (_with(np.zeros(0, dtype=np.int16)), "0 samples|cannot be read as WAV"),
    "none": (lambda folder: folder / "none.wav", "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_sound(path)
    assert "\n" not in str(caught.value)


def test_another_rate_keeps_low_tones_and_drops_those_beyond_its_limit() -> None:
    t = np.arange(8000) / 8000
    low, high = np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 3500 * t)
    half = resampled(np.stack([low, high]), 0.5)
    assert half.shape == (2, 4000)
    np.testing.assert_allclose(half[0, 100:-100], low[::2][100:-100], atol=2e-3)
    assert np.abs(half[1, 100:-100]).max() < 2e-3
    with pytest.raises(ValueError, match=r"from 0.001 to 1000 is wanted"):
        resampled(low[None], 1e-5)
