"""The command's options. Each is declared once, with its default, its reader and its help."""

# ruff: noqa: RUF009 -- `_option` and `_flag` only call dataclasses.field
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from vars_dyn.integration import METHODS
from vars_dyn.recording import VARIABLES
from vars_dyn.simulate import values as read
from vars_dyn.simulate.stimulus_options import StimulusOptions

__all__ = [
    "DictionaryOptions",
    "FieldOptions",
    "InputOptions",
    "IntegratorOptions",
    "Option",
    "Options",
    "RecordOptions",
    "RunOptions",
    "StimulusOptions",
    "groups",
    "options_of",
    "written",
]


@dataclass(frozen=True)
class Option:
    """How an option is written, read and explained.

    Attributes:
        name: the name of the dataclass field, with underscores.
        read: reads the value from a text of the command line, a YAML file or a store.
        default: the text of the default value; None for the list of inputs.
        help: the explanation that `--help` prints.
        metavar: the placeholder of the value in that explanation.
        flag: whether the option takes no value, and means yes.
    """

    name: str
    read: Callable[[str], Any]
    default: str | None
    help: str
    metavar: str
    flag: bool = False

    @property
    def written(self) -> str:
        """The option as it is written on the command line."""
        return "INPUT" if self.default is None else written(self.name)


def written(name: str) -> str:
    """An option as it is written on the command line: with dashes, and with a dot after `stimulus`."""
    prefix, dot, rest = name.partition("stimulus_")
    return f"--stimulus.{rest}".replace("_", "-") if dot and not prefix else f"--{name.replace('_', '-')}"


def _option(default: str | None, reader: Callable[[str], Any], help_text: str, metavar: str) -> Any:
    return dataclasses.field(metadata={"option": (reader, default, help_text, metavar)})


def _flag(help_text: str) -> Any:
    return dataclasses.field(metadata={"option": (read.yes, "no", help_text, "", True)})


@dataclass(frozen=True)
class InputOptions:
    """signals"""

    input: list[str] = _option(
        None,
        lambda text: str(read.path(text)),
        "image files, or folders of them (PNG, JPEG, TIFF, BMP, PPM, WebP); or one .npy file or zarr array of two "
        "dimensions (one signal per row) or three (a stack of grey images). Default: the photograph of Grace Hopper "
        "that comes with matplotlib",
        "INPUT",
    )
    whole: bool = _flag("code each image whole with a convolutional dictionary, instead of cutting it into patches")
    colour: bool = _flag("keep the colours of images instead of turning them grey")
    crop: tuple[int, ...] | None = _option(
        "none", read.or_none(read.box), "part of each image to take, in pixels (default: all)", "TOP,LEFT,HEIGHT,WIDTH"
    )
    scale: float | None = _option(
        "none",
        read.or_none(read.number(0.0, above=True)),
        "factor that resizes each image after the crop (default: none)",
        "FACTOR",
    )
    full_scale: str | float = _option(
        "auto",
        read.full_scale,
        "stored number that becomes 1. auto: the white of each image's depth (255 for 8 bits, 65535 for 16), and 1 "
        "for arrays and images of floats; dtype: as auto, and the largest number of an array's integer type; "
        "none: numbers stay as they are stored; or a number",
        "auto|dtype|none|NUMBER",
    )
    background: float = _option(
        "1", read.fraction, "grey behind transparent pixels, from 0 (black) to 1 (white)", "GREY"
    )
    patch: int = _option("16", read.count(2), "side of the square patches in pixels", "PIXELS")
    stride: int | None = _option(
        "none",
        read.or_none(read.count(1)),
        "pixels from one patch to the next (default: the patch's side)",
        "PIXELS",
    )
    patches: int | None = _option(
        "none", read.or_none(read.count(1)), "number of patches to draw at random by --seed (default: all)", "COUNT"
    )
    mean: str = _option(
        "auto",
        read.one_of("auto", "subtract", "keep"),
        "what to do with each signal's mean. auto: subtract it from images, keep it in an array's rows",
        "auto|subtract|keep",
    )
    norm: str = _option("keep", read.one_of("keep", "unit"), "unit divides each signal by its norm", "keep|unit")


@dataclass(frozen=True)
class DictionaryOptions:
    """dictionary"""

    dictionary: str = _option(
        "gabor",
        str,
        "gabor; random:M (M normally distributed atoms of norm 1); or a .npy file of shape (d, d'), a "
        ".safetensors[:NAME] file, or a zarr array",
        "DICTIONARY",
    )
    orientations: int = _option("4", read.count(1), "Gabor bank: number of orientations", "COUNT")
    scales: int | None = _option(
        "none",
        read.or_none(read.count(1)),
        "Gabor bank: number of scales, an octave apart (default: 3; 2 with --whole)",
        "COUNT",
    )
    phases: int = _option("2", read.count(1), "Gabor bank: number of phases", "COUNT")
    places: int = _option(
        "4", read.count(1), "without --whole: places of the Gabor bank along each side, at the finest scale", "COUNT"
    )
    wavelength: float = _option("4", read.number(2.0), "Gabor bank: shortest wavelength in pixels", "PIXELS")
    kernel: int = _option("11", read.count(2), "with --whole: side of the templates in pixels", "PIXELS")
    conv_stride: int = _option(
        "4", read.count(1), "with --whole: pixels from one place of a template to the next", "PIXELS"
    )


@dataclass(frozen=True)
class FieldOptions:
    """field"""

    field: str = _option(
        "sparse",
        read.one_of("sparse", "reduced", "encoder-decoder", "recurrent", "feed-forward"),
        "vector field: sparse (Eq. 8-9), reduced (Eq. 20), encoder-decoder (Eq. 6-7), recurrent (Eq. 5) or "
        "feed-forward (Eq. 2)",
        "FIELD",
    )
    lam: read.Lam = _option(
        "0.1x",
        read.lam,
        "weight of |a|_1 in the objective: a number; or a number with an x, which is a share of each signal's "
        "critical value max |P^T x|",
        "NUMBER[x]",
    )
    alpha: float | None = _option(
        "none", read.or_none(read.number()), "leak of the neurons (default: the field's, 1)", "NUMBER"
    )
    beta: float | None = _option(
        "none",
        read.or_none(read.number()),
        "leak of the encoding neurons (default: 2; 1 for encoder-decoder)",
        "NUMBER",
    )
    gamma: float | None = _option(
        "none", read.or_none(read.number()), "inhibition between encoding neurons (default: 2)", "NUMBER"
    )
    tau_z: float | None = _option(
        "none", read.or_none(read.number()), "time constant of the neurons (default: 1)", "TIME"
    )
    tau_u: float | None = _option(
        "none", read.or_none(read.number()), "time constant of the encoding neurons (default: 1)", "TIME"
    )
    threshold: str | None = _option(
        "none",
        read.or_none(read.one_of("soft", "nonnegative")),
        "gate of the encoding neurons (default: soft)",
        "soft|nonnegative",
    )


@dataclass(frozen=True)
class IntegratorOptions:
    """integrator"""

    method: str = _option("dopri5", read.one_of(*METHODS), f"integrator: {', '.join(METHODS)}", "METHOD")
    rtol: float = _option("1e-6", read.number(0.0, above=True), "relative tolerance of a step", "NUMBER")
    atol: float = _option(
        "1e-8", read.number(0.0, above=True), "absolute tolerance of a step, in units of each signal's size", "NUMBER"
    )
    t_max: float = _option(
        "auto",
        read.auto_or(1000.0, read.number(0.0, above=True)),
        "time at which the run ends, in membrane time constants. auto: 1000, or 100 with a stimulus that moves",
        "TIME|auto",
    )
    dt: float = _option("0.1", read.number(0.0, above=True), "spacing of the times to record, at the start", "TIME")
    times: str = _option(
        "auto",
        read.auto_or("octaves", read.one_of("octaves", "even")),
        "octaves: the spacing of the times doubles each time that the time doubles; even: the spacing stays --dt; "
        "auto: octaves, or even with a stimulus that moves",
        "octaves|even|auto",
    )
    gap: float | None = _option(
        "auto",
        read.auto_or(1e-6, read.or_none(read.number(0.0, above=True))),
        "relative duality gap at which a signal has settled; none: run to --t-max. auto: 1e-6, or none with a stimulus "
        "that moves for ever",
        "NUMBER|none|auto",
    )
    step: float | None = _option(
        "none",
        read.or_none(read.number(0.0, above=True)),
        "step of a fixed-step method, or first step of an adaptive one (default: --dt for a fixed-step method with "
        "--gap none; else chosen)",
        "TIME",
    )
    check_every: float | None = _option(
        "none",
        read.or_none(read.number(0.0, above=True)),
        "time between two checks of the gap (default: chosen)",
        "TIME",
    )
    max_steps: int = _option("1000000", read.count(1), "largest number of steps", "COUNT")


@dataclass(frozen=True)
class RecordOptions:
    """recording"""

    out: Path | None = _option(
        "none",
        read.or_none(read.path),
        "zarr store to write (default: run-0001.zarr, or the next free number)",
        "STORE",
    )
    figure: Path | None = _option(
        "auto",
        read.or_none(read.path),
        "picture of the run (.png, .pdf or .svg), or none for no picture (default: the store's name with .png)",
        "FILE|none",
    )
    record: list[str] | None = _option(
        "all", read.or_all(read.names), f"variables to record: all, or names of {','.join(VARIABLES)}", "NAMES"
    )
    every: int = _option("1", read.count(1), "record every n-th of the times", "N")
    neurons: list[int] | None = _option(
        "all", read.or_all(read.indices), "neurons to record: all, or indices such as 0,5,10-19", "INDICES"
    )
    atoms: list[int] | None = _option(
        "all", read.or_all(read.indices), "encoding neurons to record: all, or indices such as 0,5,10-19", "INDICES"
    )
    chunk: int = _option("16", read.count(1), "number of recorded times that are written at once", "COUNT")
    resume: bool = _flag(
        "continue the run in --out. Options that are not given are those of the store; --t-max may be raised"
    )
    overwrite: bool = _flag("replace a store and a picture of the same names")


@dataclass(frozen=True)
class RunOptions:
    """run"""

    seed: int = _option("0", read.count(0), "seed of all random numbers", "SEED")
    device: str = _option("cpu", str, "device to compute on: cpu, cuda, cuda:1, ...", "DEVICE")
    dtype: str = _option("float64", read.one_of("float64", "float32"), "precision of the states", "float64|float32")
    threads: int | None = _option(
        "auto",
        read.or_auto(read.count(1, 1024)),
        "threads of the CPU. auto: one for a run so small that threads cost more than they gain, else torch's choice",
        "COUNT|auto",
    )
    json: bool = _flag("print the result as a JSON object, in the last line of standard output")
    config: Path | None = _option(
        "none",
        read.or_none(read.path),
        "YAML file of options, by their names without the dashes; the command line wins over it",
        "FILE",
    )


@dataclass(frozen=True)
class Options:
    """All options.

    Attributes:
        signals, stimulus, dictionary, field, integrator, record, run: the values, in groups.
        text: the text that each value was read from, in the command line, a YAML file, a store, or the default.
        given: the names of the options that the command line or the YAML file gave.
    """

    signals: InputOptions
    stimulus: StimulusOptions
    dictionary: DictionaryOptions
    field: FieldOptions
    integrator: IntegratorOptions
    record: RecordOptions
    run: RunOptions
    text: dict[str, str | list[str] | None]
    given: frozenset[str]


def groups() -> dict[str, type[Any]]:
    """The groups of options, by their names in `Options`."""
    hints = get_type_hints(Options).items()
    return {name: kind for name, kind in hints if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def options_of(group: type[Any]) -> Iterator[Option]:
    """The options of a group, in the order of their declarations."""
    for field in dataclasses.fields(group):
        yield Option(field.name, *field.metadata["option"])
