"""The command's options of a stimulus. Each names one of this package's own; no option names a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vars_dyn.simulate import values as read

__all__ = ["KINDS", "TAKES", "StimulusOptions"]

_SHOWN = ("flash", "tau_ms", "pixels_per_degree")
_DRIFT = ("orientation", "spatial_frequency", "temporal_frequency", "contrast")
#: The options that each stimulus takes, without their prefix.
TAKES = {
    "grating": (*_SHOWN, *_DRIFT, "size"),
    "plaid": (*_SHOWN, *_DRIFT, "size", "angle"),
    "centre-surround": (*_SHOWN, *_DRIFT, "size", "radius", "outer", "surround_orientation", "surround_contrast"),
    "bars": (*_SHOWN, "orientation", "contrast", "size", "width", "speed", "spacing"),
    "noise": (*_SHOWN, "contrast", "size", "rate", "frames", "spatial_exponent"),
    "translation": (*_SHOWN, "orientation", "speed"),
    "movie": ("flash", "tau_ms", "rate", "between"),
}
KINDS = ("auto", "none", *TAKES)


def _option(default: str, reader: Callable[[str], Any], help_text: str, metavar: str) -> Any:
    return dataclasses.field(metadata={"option": (reader, default, help_text, metavar)})


@dataclass(frozen=True)
class StimulusOptions:
    """stimulus"""

    stimulus: str = _option(
        "auto",
        read.one_of(*KINDS),
        "a signal that changes with time, in place of INPUT: grating, plaid, centre-surround, bars, noise, translation "
        "(which moves INPUT), movie (which shows the frames of INPUT one after another); or none: INPUT stays, and a "
        "movie is one signal over space and time. auto: movie where INPUT is one, else none",
        "STIMULUS",
    )
    stimulus_tau_ms: float = _option(
        "10", read.number(0.0, above=True), "membrane time constant, the unit of time", "MILLISECONDS"
    )
    stimulus_size: tuple[int, int] | None = _option(
        "none", read.or_none(read.size), "pixels of the screen (default: one patch; 64,64 with --whole)", "HEIGHT,WIDTH"
    )
    stimulus_pixels_per_degree: float = _option(
        "8", read.number(0.0, above=True), "pixels in a degree of the visual field", "PIXELS"
    )
    stimulus_orientation: float = _option(
        "90",
        read.number(),
        "of the stripes, anticlockwise from the horizontal; the motion is at a right angle to them",
        "DEGREES",
    )
    stimulus_spatial_frequency: float = _option("1", read.number(0.0), "of gratings, per degree", "CYCLES")
    stimulus_temporal_frequency: float = _option("4", read.number(), "of the drift; 0 for none", "HERTZ")
    stimulus_contrast: float = _option("1", read.number(), "amplitude, in the units of the signal", "NUMBER")
    stimulus_angle: float = _option("90", read.number(), "between the two gratings of a plaid", "DEGREES")
    stimulus_radius: float = _option("0.5", read.number(0.0, above=True), "of the centre", "DEGREES")
    stimulus_outer: float | None = _option(
        "none", read.or_none(read.number(0.0, above=True)), "outer radius of the surround (default: none)", "DEGREES"
    )
    stimulus_surround_orientation: float = _option("0", read.number(), "of the surround's stripes", "DEGREES")
    stimulus_surround_contrast: float = _option("1", read.number(), "of the surround", "NUMBER")
    stimulus_width: float = _option("0.5", read.number(0.0, above=True), "of a bar", "DEGREES")
    stimulus_spacing: float | None = _option(
        "none", read.or_none(read.number(0.0, above=True)), "from bar to bar (default: one bar)", "DEGREES"
    )
    stimulus_speed: float = _option("4", read.number(), "of bars, or of the picture, per second", "DEGREES")
    stimulus_rate: float | None = _option(
        "auto",
        read.or_auto(read.number(0.0, above=True)),
        "frames per second. auto: 60 for noise, and the times that the file of a movie gives its frames",
        "HERTZ|auto",
    )
    stimulus_between: str = _option(
        "hold",
        read.one_of("hold", "linear"),
        "hold keeps each frame of a movie until the next one; linear joins them by straight lines",
        "hold|linear",
    )
    stimulus_frames: int = _option("600", read.count(1, 10**6), "frames of noise; the last one stays", "COUNT")
    stimulus_spatial_exponent: float = _option(
        "0", read.number(0.0), "noise has amplitudes f^-exponent: 0 is white, 1 that of natural images", "NUMBER"
    )
    stimulus_flash: tuple[float, float] | None = _option(
        "none",
        read.or_none(read.flash),
        "show the stimulus at this time for so long, and nothing before and after (default: always)",
        "ONSET,DURATION",
    )
