"""Read sounds and movies: whole, to be coded by convolution over time, or frame by frame as a stimulus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vars_dyn._resources import need_memory
from vars_dyn.images import Signals, crop
from vars_dyn.movies import MovieReader, is_movie
from vars_dyn.simulate.options import InputOptions
from vars_dyn.simulate.scaling import described, divisor, rescaled, scaled_sides
from vars_dyn.simulate.stimulus_options import StimulusOptions
from vars_dyn.sounds import SOUND_SUFFIXES, read_sound, resampled
from vars_dyn.stimuli import Movie

__all__ = ["are_movies", "is_sound", "read_movies", "read_sounds", "shown_movie", "stacked"]


def is_sound(path: Path) -> bool:
    """Whether a file is a sound, by its suffix."""
    return path.suffix.lower() in SOUND_SUFFIXES


def are_movies(paths: Sequence[Path], options: InputOptions) -> bool:
    """Whether the inputs are movies: --movie says so, or a file of frames is among them."""
    return options.movie or any(is_movie(path) for path in paths)


def read_sounds(paths: Sequence[Path], options: InputOptions) -> Signals:
    """The sounds as signals (signal, channel, sample), of one rate and one length."""
    found: list[NDArray[np.float64]] = []
    scales, rates, sources = [], [], []
    channels: list[int] = []
    for path in paths:
        if not is_sound(path):
            raise ValueError(f"INPUT {path} is no sound, but {paths[0]} is one; inputs of one kind are wanted")
        sound = read_sound(path)
        scales.append(divisor(options.full_scale, sound.depth))
        values = sound.over(scales[-1])
        rate = float(sound.rate)
        start, stop, step = _clip(options, len(values[0]), rate, f"INPUT {path}", "samples")
        if step != 1:
            raise ValueError(
                "--clip has a step, but INPUT is a sound, in which it would make aliases; --scale is wanted"
            )
        values = values[:, start:stop]
        if options.scale is not None:
            values, rate = resampled(values, options.scale), rate * options.scale
        if options.channels == "mean":
            values = values.mean(axis=0, keepdims=True)
        parts = [values] if options.channels == "together" else list(values[:, None])
        found += parts
        rates.append(rate)
        sources += [str(path)] * len(parts)
        channels += range(len(parts))
    shapes = sorted({part.shape for part in found})
    if len(shapes) > 1 or len(set(rates)) > 1:
        raise ValueError(
            f"the sounds have {', '.join(f'{c} x {n}' for c, n in shapes)} samples at "
            f"{', '.join(f'{rate:g}' for rate in sorted(set(rates)))} Hz; one length and one rate are wanted (--clip)"
        )
    coordinates = {"signal_file": np.array(sources, dtype=object), "signal_channel": np.array(channels)}
    names = [str(path.resolve()) for path in paths]
    attributes = {"input": names, "sample_rate": rates[0], **described(scales, "sounds")}
    return Signals(np.stack(found), coordinates, attributes)


def read_movies(paths: Sequence[Path], options: InputOptions) -> Signals:
    """The movies as signals (movie, colour, frame, row, column). Only the frames that are taken are held in memory."""
    movies, scales, rates, ground = [], [], set(), False
    for path in paths:
        with MovieReader(path, colour=options.colour, cache=1) as probe:
            depth = probe.depth
        scales.append(divisor(options.full_scale, depth))
        reader = MovieReader(
            path,
            colour=options.colour,
            crop=options.crop,
            background=options.background,
            full_scale=scales[-1],
            cache=1,
        )
        with reader:
            start, stop, step = _clip(options, reader.count, reader.rate, f"INPUT {path}", "frames")
            numbers = range(start, stop, step)
            entries = len(numbers) * math.prod(reader.shape) * (options.scale or 1) ** 2
            need_memory(24.0 * entries, f"{len(numbers)} frames of {path}", "a --clip, a --crop or a --scale is wanted")
            movies.append(np.stack([rescaled(frame, options.scale) for frame in reader.frames(start, stop, step)], 1))
            rates.add(None if reader.rate is None else reader.rate / step)
            ground = ground or reader.transparent
    shapes = sorted({movie.shape[1:] for movie in movies})
    if len(shapes) > 1:
        raise ValueError(
            f"the movies have {' and '.join(' x '.join(str(n) for n in shape) for shape in shapes)} frames, rows and "
            "columns; one size is wanted (--clip, --crop)"
        )
    attributes: dict[str, Any] = {"input": [str(path.resolve()) for path in paths]}
    if len(rates) == 1 and None not in rates:
        attributes["frame_rate"] = rates.pop()
    more = f", over a ground of {options.background:g}" if ground else ""
    return Signals(np.stack(movies), {}, attributes | described(scales, "frames", more))


def shown_movie(options: InputOptions, chosen: StimulusOptions) -> Movie:
    """The movie as a stimulus, whose frames are read when they are shown."""
    if len(options.input) != 1:
        raise ValueError(
            f"INPUT holds {len(options.input)} paths; one movie is wanted with --stimulus movie, or --stimulus none, "
            "which codes movies whole"
        )
    path = Path(options.input[0])
    with MovieReader(path, colour=options.colour, crop=options.crop, cache=1) as reader:
        depth, shape, rate = reader.depth, reader.shape, reader.rate
        clip = _clip(options, reader.count, rate, f"INPUT {path}", "frames")
    if rate is None and chosen.stimulus_rate is None:
        raise ValueError(
            f"INPUT {path} does not say how many frames there are a second; --stimulus.rate is wanted, or --stimulus "
            "none, which codes a movie whole"
        )
    return Movie(
        path,
        rate=chosen.stimulus_rate,
        between=chosen.stimulus_between,
        clip=clip,
        colour=options.colour,
        crop=options.crop,
        size=None if options.scale in (None, 1) else scaled_sides(shape, options.scale),
        full_scale=divisor(options.full_scale, depth),
        background=options.background,
        tau_ms=chosen.stimulus_tau_ms,
    )


def stacked(values: NDArray[np.float64], what: str, options: InputOptions) -> Signals:
    """An array (frame, row, column) or (movie, frame, row, column) as grey movies."""
    if values.ndim not in (3, 4):
        raise ValueError(
            f"{what} has shape {values.shape}; with --movie three dimensions (frame, row, column) or four (movies of "
            "them) are wanted"
        )
    movies = values if values.ndim == 4 else values[None]
    start, stop, step = _clip(options, movies.shape[1], None, what, "frames")
    taken = [
        np.stack(
            [
                rescaled(frame[None] if options.crop is None else crop(frame[None], options.crop), options.scale)
                for frame in movie[start:stop:step]
            ],
            1,
        )
        for movie in movies
    ]
    return Signals(np.stack(taken))


def _clip(options: InputOptions, count: int, rate: float | None, what: str, unit: str) -> tuple[int, int, int]:
    """The first, the end and the step of the samples or frames to take, of `count` at `rate` a second."""
    if options.clip is None:
        return 0, count, 1
    ends = []
    for value, seconds in options.clip.ends:
        if seconds and rate is None:
            raise ValueError(f"--clip is in seconds, but {what} does not say its rate; numbers of {unit} are wanted")
        ends.append(round(value * rate) if seconds and rate is not None else int(value))
    start, stop = ends
    if not 0 <= start < stop <= count:
        raise ValueError(
            f"--clip takes {unit} {start} to {stop} of {what}, which has {count}; START below STOP, at most "
            f"{count}, is wanted"
        )
    return start, stop, options.clip.step
