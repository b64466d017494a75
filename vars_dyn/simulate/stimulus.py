"""Make the stimulus of a run from its options, and the signals that it begins with."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from vars_dyn.images import Signals, patches
from vars_dyn.simulate.declaring import written
from vars_dyn.simulate.inputs import is_array, read_signals
from vars_dyn.simulate.moving import are_movies, is_sound, shown_movie
from vars_dyn.simulate.options import Options
from vars_dyn.simulate.scaling import described
from vars_dyn.simulate.stimulus_options import TAKES
from vars_dyn.stimuli import (
    Bars,
    CentreSurround,
    Flash,
    Grating,
    Movie,
    Noise,
    Patches,
    Plaid,
    Screen,
    Stimulus,
    Sum,
    Translation,
)

__all__ = ["check_taken", "decided", "resolved", "signals_under", "stimulus_of"]

#: What `auto` stands for where the signal moves: the end of the run, in time constants.
_T_MAX = 100.0
#: Frames of noise per second.
_NOISE_RATE = 60.0
#: The side of the screen with --whole, in pixels.
_SIDE = 64


def decided(options: Options) -> Options:
    """The options with what `--stimulus auto` stands for: movie where INPUT is one, else none."""
    if options.stimulus.stimulus != "auto":
        return options
    paths = [Path(name) for name in options.signals.input]
    found = all(path.exists() and not is_array(path) and not is_sound(path) for path in paths)
    kind = "movie" if paths and found and are_movies(paths, options.signals) else "none"
    chosen = dataclasses.replace(options.stimulus, stimulus=kind)
    return dataclasses.replace(options, stimulus=chosen, text={**options.text, "stimulus": kind})


def check_taken(options: Options) -> None:
    """Raise ValueError for options that were given and do nothing with this stimulus."""
    kind = options.stimulus.stimulus
    takes = TAKES.get(kind, ())
    for name in sorted(options.given):
        own = name.removeprefix("stimulus_")
        if own != name and own not in takes:
            allowed = ", ".join(written(f"stimulus_{one}") for one in takes) or "no further option"
            raise ValueError(
                f"{written(name)} does nothing with --stimulus {kind}, which takes {allowed}; leave it out"
            )
    if kind == "none":
        return
    idle = {
        "translation": {"norm", "patches", "colour", "clip"},
        "movie": {"norm", "patches"},
    }.get(kind, {"input", "crop", "scale", "norm", "patches", "colour", "clip"})
    for name in sorted(idle & options.given):
        named = "INPUT" if name == "input" else written(name)
        raise ValueError(f"{named} does nothing with --stimulus {kind}; leave it out")


def stimulus_of(options: Options) -> Stimulus | None:
    """The stimulus as frames on its screen; None where there is none. ValueError for options that do not fit."""
    chosen = options.stimulus
    if chosen.stimulus == "none":
        return None
    match chosen.stimulus:
        case "translation":
            shown: Stimulus = _translation(options)
        case "movie":
            shown = shown_movie(options.signals, chosen)
        case _:
            shown = _on_screen(options)
    if chosen.stimulus_flash is None:
        return shown
    onset, duration = chosen.stimulus_flash
    return Flash(shown, onset_ms=onset, duration_ms=duration)


def _on_screen(options: Options) -> Stimulus:
    chosen = options.stimulus
    side = _SIDE if options.signals.whole else options.signals.patch
    height, width = chosen.stimulus_size or (side, side)
    screen = Screen(height, width, chosen.stimulus_pixels_per_degree)
    tau, orientation, contrast = chosen.stimulus_tau_ms, chosen.stimulus_orientation, chosen.stimulus_contrast

    def grating(angle: float, amplitude: float) -> Grating:
        return Grating(
            screen,
            orientation=angle,
            spatial_frequency=chosen.stimulus_spatial_frequency,
            temporal_frequency=chosen.stimulus_temporal_frequency,
            contrast=amplitude,
            tau_ms=tau,
        )

    match chosen.stimulus:
        case "grating":
            return grating(orientation, contrast)
        case "plaid":
            half = chosen.stimulus_angle / 2
            return Plaid(
                screen,
                orientations=(orientation - half, orientation + half),
                spatial_frequency=chosen.stimulus_spatial_frequency,
                temporal_frequency=chosen.stimulus_temporal_frequency,
                contrast=contrast,
                tau_ms=tau,
            )
        case "centre-surround":
            surround = grating(chosen.stimulus_surround_orientation, chosen.stimulus_surround_contrast)
            outer = chosen.stimulus_outer or math.inf
            centre = grating(orientation, contrast)
            return CentreSurround(screen, centre, surround, radius=chosen.stimulus_radius, outer=outer)
        case "bars":
            return Bars(
                screen,
                orientation=orientation,
                width=chosen.stimulus_width,
                speed=chosen.stimulus_speed,
                # A single bar begins at the edge that it comes from.
                position=0.0
                if chosen.stimulus_spacing
                else -math.copysign(width / 2, chosen.stimulus_speed) / chosen.stimulus_pixels_per_degree,
                spacing=chosen.stimulus_spacing,
                contrast=contrast,
                tau_ms=tau,
            )
        case "noise":
            return Noise(
                screen,
                rate=chosen.stimulus_rate or _NOISE_RATE,
                frames=chosen.stimulus_frames,
                spatial_exponent=chosen.stimulus_spatial_exponent,
                contrast=contrast,
                seed=options.run.seed,
                tau_ms=tau,
            )
    raise ValueError(f"--stimulus is {chosen.stimulus}; one of {', '.join(TAKES)} is wanted")


def _translation(options: Options) -> Translation:
    """The first image of INPUT, without its mean, moving at a right angle to the orientation."""
    chosen = options.stimulus
    image = read_signals(dataclasses.replace(options.signals, whole=True, colour=False), options.run.seed)
    angle = math.radians(chosen.stimulus_orientation)
    velocity = chosen.stimulus_speed * math.sin(angle), -chosen.stimulus_speed * math.cos(angle)
    return Translation(
        torch.from_numpy(image.values[0, 0]),
        velocity=velocity,
        pixels_per_degree=chosen.stimulus_pixels_per_degree,
        tau_ms=chosen.stimulus_tau_ms,
    )


def signals_under(stimulus: Stimulus, options: Options) -> tuple[Signals, Stimulus]:
    """What the run begins with as signals, and the stimulus in their form: whole frames, or their patches."""
    chosen = options.signals
    what: dict[str, Any] = {"input": [f"stimulus {options.stimulus.stimulus}"], "full_scale": [1.0], "norm": "keep"}
    height, width = stimulus.shape[-2:]
    first = stimulus(0.0).numpy()
    first = first if first.ndim == 3 else first[None]
    scaling = f"{height} x {width} pixels of the stimulus"
    if isinstance(movie := _original(stimulus), Movie):
        what |= {"input": [str(movie.path)], **described([movie.full_scale], "frames")}
        scaling = what["scaling"]
    if chosen.whole:
        return Signals(first[None], {}, {**what, "scaling": scaling, "mean": "kept"}), Sum(stimulus)
    if min(height, width) < chosen.patch:
        raise ValueError(f"the stimulus has {height} x {width} pixels; at least --patch, {chosen.patch}, are wanted")
    subtract = chosen.mean != "keep"
    moving = Patches(stimulus, chosen.patch, chosen.stride, subtract_mean=subtract)
    cut = patches([first], chosen.patch, chosen.stride)
    count = f"{len(cut.values)} patch{'es' * (len(cut.values) != 1)}"
    about = {
        **cut.attributes,
        **what,
        "scaling": f"{scaling}, in {count}" if "scaling" in what else f"{count} of the stimulus",
        "mean": "subtracted" if subtract else "kept",
    }
    return Signals(moving(0.0).numpy(), cut.coordinates, about), moving


def _original(stimulus: Stimulus) -> Stimulus:
    """What is shown, for a flash of it too."""
    return stimulus.parts[0] if isinstance(stimulus, Flash) else stimulus


def resolved(options: Options, stimulus: Stimulus | None) -> Options:
    """The options with what `auto` means for a stimulus that moves: an end that is near, even times, and no gap to
    reach if it never comes to rest. A movie is seen to its end.
    """
    if stimulus is None or not stimulus.moves:
        return options
    new = options.integrator
    if options.text["t_max"] == "auto":
        new = dataclasses.replace(new, t_max=stimulus.duration if math.isfinite(stimulus.duration) else _T_MAX)
    if options.text["times"] == "auto":
        new = dataclasses.replace(new, times="even")
    if options.text["gap"] == "auto" and (math.isinf(stimulus.rests_from) or new.t_max <= stimulus.duration < math.inf):
        new = dataclasses.replace(new, gap=None)
    recording = options.record
    if options.text["chunk"] == "auto":
        # There are many times, and each commit waits for the disk.
        recording = dataclasses.replace(recording, chunk=None)
    return dataclasses.replace(options, integrator=new, record=recording)
