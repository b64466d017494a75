"""Sounds as signals: WAV files, their channels, and another sampling rate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vars_dyn._reading import one_line, regular_file
from vars_dyn._resources import need_memory

__all__ = ["SOUND_SUFFIXES", "Sound", "read_sound", "resampled"]

#: The suffixes of files that hold sounds.
SOUND_SUFFIXES = (".wav", ".wave")


@dataclass(frozen=True)
class Sound:
    """A decoded sound file: the stored numbers, and what is needed to interpret them.

    Attributes:
        stored: the numbers as stored, (channel, sample), float64. Silence is 0; bytes are stored with 128 added.
        depth: the stored number that stands for full scale: 128 for 8 bits, 32768 for 16, 2^31 for 24 and 32 bits (24
            bits stand in the upper part of 32), 1 for floats.
        rate: samples per second.
    """

    stored: NDArray[np.float64]
    depth: float
    rate: int

    def over(self, full_scale: float | None = None) -> NDArray[np.float64]:
        """The sound divided by `full_scale`, by default its own depth, so that it lies from -1 to 1."""
        divisor = self.depth if full_scale is None else full_scale
        return self.stored if divisor == 1 else self.stored / divisor


def read_sound(path: Path | str) -> Sound:
    """A WAV file of integers or floats. Raises ValueError for one that is damaged, empty, or not finite."""
    from scipy.io import wavfile  # deferred: only sounds need it

    file = Path(path)
    regular_file(file, "a WAV file")
    # The numbers as stored, as float64, and scaled.
    need_memory(24.0 * file.stat().st_size, f"the sound {file}", "a shorter one is wanted")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", wavfile.WavFileWarning)
            # Files of many programs have chunks of notes, which are no damage.
            warnings.filterwarnings("ignore", "Chunk .* not understood", wavfile.WavFileWarning)
            rate, values = wavfile.read(file)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # for a damaged file SciPy raises errors of many types
        raise ValueError(f"{file} cannot be read as WAV: {one_line(error) or type(error).__name__}") from None
    if not values.size or rate < 1:
        raise ValueError(f"{file} holds {values.size} samples at {rate} Hz; at least one is wanted")
    kind = values.dtype
    if kind.kind == "f":
        depth, silence = 1.0, 0.0
    elif kind == np.uint8:
        depth, silence = 128.0, 128.0
    else:
        depth, silence = 2.0 ** (8 * kind.itemsize - 1), 0.0
    stored = values.astype(np.float64) - silence
    if not np.isfinite(stored).all():
        raise ValueError(f"{file} holds NaN or infinity; finite numbers are wanted")
    channels = stored[None] if stored.ndim == 1 else stored.T
    return Sound(np.ascontiguousarray(channels), depth, int(rate))


def resampled(sound: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """A sound (channel, sample) with `factor` times as many samples a second, free of aliases (a polyphase filter).

    `factor` is taken as the nearest ratio of integers up to 1000. Raises ValueError where that is 0.
    """
    from scipy.signal import resample_poly  # deferred: it imports scipy.stats, which takes half a second

    ratio = Fraction(factor).limit_denominator(1000)
    if ratio.numerator < 1 or ratio.numerator > 1000:
        raise ValueError(f"the factor of the sampling rate is {factor:g}; one from 0.001 to 1000 is wanted")
    need_memory(16.0 * sound.size * factor, f"a sound of {factor:g} times the rate", "a smaller factor is wanted")
    return np.asarray(resample_poly(sound, ratio.numerator, ratio.denominator, axis=-1))
