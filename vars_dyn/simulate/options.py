"""The command's options: declared once, in groups, and read from the command line and from a YAML file alike."""

# ruff: noqa: RUF009 -- `_option` and `_flag` are dataclasses.field by another name
from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vars_dyn import _yaml
from vars_dyn.integration import METHODS
from vars_dyn.recording import VARIABLES
from vars_dyn.simulate import values as read

__all__ = ["FREE", "Options", "parse", "stored"]

#: Options that a resumed run may be given anew: they do not touch what is computed up to where it stood.
FREE = ("t_max", "max_steps", "threads", "out", "figure", "resume", "overwrite", "json", "config")


def _option(default: str | None, reader: Callable[[str], Any], help_text: str, metavar: str | None = None) -> Any:
    """A field whose value `reader` takes from text: a flag's, a YAML entry's, or the default's."""
    return dataclasses.field(metadata={"default": default, "read": reader, "help": help_text, "metavar": metavar})


def _flag(help_text: str) -> Any:
    return dataclasses.field(metadata={"default": "no", "read": read.yes, "help": help_text, "flag": True})


@dataclass(frozen=True)
class InputOptions:
    """signals"""

    input: list[str] = dataclasses.field(
        metadata={
            "default": None,
            "read": lambda paths: [str(read.path(path)) for path in paths],
            "metavar": "INPUT",
            "help": "image files or folders of them (PNG, JPEG, TIFF, BMP, PPM, WebP); a .npy or zarr array of two "
            "dimensions (a signal a row) or three (a stack of grey images); by default a photograph of Grace Hopper "
            "that matplotlib ships",
        }
    )
    whole: bool = _flag("code images whole, with a convolutional dictionary, instead of cutting them into patches")
    colour: bool = _flag("keep colour (default: grey)")
    crop: tuple[int, ...] | None = _option(
        "none", read.or_none(read.box), "part of each image to take", "TOP,LEFT,HEIGHT,WIDTH"
    )
    scale: float | None = _option(
        "none", read.or_none(read.number(0.0, above=True)), "factor by which images are then resized"
    )
    full_scale: str | float = _option(
        "auto",
        read.full_scale,
        "stored number that becomes 1: auto takes the white of an image's depth (255 for 8 bits, 65535 for 16) and "
        "leaves arrays and images of floats as they are; dtype takes the largest number of an array's integer type, "
        "too; none leaves all as it is stored; or a number",
    )
    background: float = _option("1", read.fraction, "grey behind transparent pixels, from 0 (black) to 1 (white)")
    patch: int = _option("16", read.count(2), "side of the square patches in pixels")
    stride: int | None = _option(
        "none", read.or_none(read.count(1)), "pixels between patches (default: the patch's side)"
    )
    patches: int | None = _option(
        "none", read.or_none(read.count(1)), "how many patches to take, drawn by the seed (default: all)"
    )
    mean: str = _option(
        "auto",
        read.one_of("auto", "subtract", "keep"),
        "each signal's mean; auto subtracts it from images, not from arrays' rows",
    )
    norm: str = _option("keep", read.one_of("keep", "unit"), "each signal's norm; unit divides by it")


@dataclass(frozen=True)
class DictionaryOptions:
    """dictionary"""

    dictionary: str = _option(
        "gabor",
        str,
        "gabor; random:M (M normal atoms of norm 1); a file .npy (d, d'), .safetensors[:NAME], or a zarr array",
    )
    orientations: int = _option("4", read.count(1), "Gabor bank: orientations")
    scales: int | None = _option(
        "none", read.or_none(read.count(1)), "Gabor bank: octaves (default: 3; 2 with --whole)"
    )
    phases: int = _option("2", read.count(1), "Gabor bank: phases")
    places: int = _option("4", read.count(1), "Gabor bank: places a side at the finest scale (1 with --whole)")
    wavelength: float = _option("4", read.number(2.0), "Gabor bank: shortest wavelength in pixels")
    kernel: int = _option("11", read.count(2), "with --whole: side of the templates in pixels")
    conv_stride: int = _option("4", read.count(1), "with --whole: pixels between a template's places")


@dataclass(frozen=True)
class FieldOptions:
    """field"""

    field: str = _option(
        "sparse",
        read.one_of("sparse", "reduced", "encoder-decoder", "recurrent", "feed-forward"),
        "vector field: sparse (Eq. 8-9), reduced (Eq. 20), encoder-decoder (Eq. 6-7), recurrent (Eq. 5), "
        "feed-forward (Eq. 2)",
    )
    lam: tuple[float, bool] = _option(
        "0.1x", read.lam, "weight of |a|_1: a number, or with an x a share of each signal's critical value max |P^T x|"
    )
    alpha: float | None = _option("none", read.or_none(read.number()), "leak of the neurons (default: the field's, 1)")
    beta: float | None = _option(
        "none", read.or_none(read.number()), "leak of the encoding neurons (default: 2; encoder-decoder 1)"
    )
    gamma: float | None = _option(
        "none", read.or_none(read.number()), "inhibition between encoding neurons (default: 2)"
    )
    tau_z: float | None = _option("none", read.or_none(read.number()), "time constant of the neurons (default: 1)")
    tau_u: float | None = _option(
        "none", read.or_none(read.number()), "time constant of the encoding neurons (default: 1)"
    )
    threshold: str | None = _option(
        "none", read.or_none(read.one_of("soft", "nonnegative")), "gate of the encoding neurons (default: soft)"
    )


@dataclass(frozen=True)
class IntegratorOptions:
    """integrator"""

    method: str = _option("dopri5", read.one_of(*METHODS), f"one of {', '.join(METHODS)}")
    rtol: float = _option("1e-6", read.number(0.0, above=True), "relative tolerance")
    atol: float = _option("1e-8", read.number(0.0, above=True), "absolute tolerance, times each signal's size")
    t_max: float = _option("1000", read.number(0.0, above=True), "time to stop at, in membrane time constants")
    dt: float = _option("0.1", read.number(0.0, above=True), "spacing of the times")
    times: str = _option(
        "octaves",
        read.one_of("octaves", "even"),
        "octaves: the spacing doubles whenever time has; even: it stays (see --dt)",
    )
    gap: float | None = _option(
        "1e-6", read.or_none(read.number(0.0, above=True)), "relative gap to settle at; none runs to --t-max"
    )
    step: float | None = _option(
        "none", read.or_none(read.number(0.0, above=True)), "step of a fixed-step method; first step of others"
    )
    check_every: float | None = _option(
        "none", read.or_none(read.number(0.0, above=True)), "time between looks at the gap"
    )
    max_steps: int = _option("1000000", read.count(1), "steps at most")


@dataclass(frozen=True)
class RecordOptions:
    """recording"""

    out: Path | None = _option(
        "none", read.or_none(read.path), "zarr store (default: run-0001.zarr, or the next free number)"
    )
    figure: Path | None = _option(
        "auto", read.or_none(read.path), "picture of the run (default: the store's name with .png); none"
    )
    record: list[str] | None = _option(
        "all", lambda t: None if t == "all" else read.names(t), f"all, or of {','.join(VARIABLES)}"
    )
    every: int = _option("1", read.count(1), "record every so manieth time")
    neurons: list[int] | None = _option(
        "all", lambda t: None if t == "all" else read.indices(t), "all, or such as 0,5,10-19"
    )
    atoms: list[int] | None = _option(
        "all", lambda t: None if t == "all" else read.indices(t), "all, or such as 0,5,10-19"
    )
    chunk: int = _option("16", read.count(1), "recorded times per commit")
    resume: bool = _flag("go on with the store; options that are not given are the store's, and --t-max may be raised")
    overwrite: bool = _flag("take the place of a store and a picture that are there")


@dataclass(frozen=True)
class RunOptions:
    """run"""

    seed: int = _option("0", read.count(0), "seed of everything drawn at random")
    device: str = _option("cpu", str, "cpu, cuda, cuda:1, ...")
    dtype: str = _option("float64", read.one_of("float64", "float32"), "precision of the states")
    threads: int | None = _option(
        "auto",
        lambda t: None if t == "auto" else read.count(1, 1024)(t),
        "threads of the CPU; auto takes one where an evaluation is too small to be shared, and else torch's choice",
    )
    json: bool = _flag("print a JSON object as the last line of standard output")
    config: Path | None = _option(
        "none", read.or_none(read.path), "YAML file of options, by these names; the command line wins"
    )


@dataclass(frozen=True)
class Options:
    """All options, and the text from which each was read."""

    signals: InputOptions
    dictionary: DictionaryOptions
    field: FieldOptions
    integrator: IntegratorOptions
    record: RecordOptions
    run: RunOptions
    text: dict[str, Any]
    given: frozenset[str]


_GROUPS: dict[str, type[Any]] = {
    "signals": InputOptions,
    "dictionary": DictionaryOptions,
    "field": FieldOptions,
    "integrator": IntegratorOptions,
    "record": RecordOptions,
    "run": RunOptions,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the options)")


def parse(arguments: Sequence[str], store: Callable[[Path], Mapping[str, Any]] | None = None) -> Options:
    """The options that the command line gives, then its YAML file, then (when resuming) the store, then the defaults.

    `store` gives the options that a store was made with, by its path. Raises ValueError for an unknown option or a
    value that it cannot take.
    """
    line = {name: value for name, value in vars(_parser().parse_args(_joined(arguments))).items() if value is not None}
    if line.get("input") == []:
        del line["input"]
    read_config = dict(_fields())["config"].metadata["read"]
    config = read_config(line["config"]) if "config" in line else None
    given = _from_yaml(config) | line if config is not None else line
    base: Mapping[str, Any] = {}
    if given.get("resume") == "yes" and store is not None and given.get("out", "none") != "none":
        base = store(Path(given["out"]))
    text = {name: field.metadata["default"] for name, field in _fields()} | dict(base) | given
    return _typed(text, frozenset(given))


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--lam -0.1x` as `--lam=-0.1x`: what begins like a negative number is a value, to be refused as one."""
    joined: list[str] = []
    for text in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-[\d.]", text):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def stored(options: Options) -> str:
    """The options as the text of an attribute, from which `parse` takes what a resumed run is not given."""
    kept = {
        name: value
        for name, value in options.text.items()
        if name not in FREE or name in ("t_max", "max_steps", "threads")
    }
    if kept["input"] is not None:
        kept["input"] = [str(Path(name).resolve()) for name in kept["input"]]
    return json.dumps(kept)


def _typed(text: dict[str, Any], given: frozenset[str]) -> Options:
    groups = {}
    for group, kind in _GROUPS.items():
        values = {}
        for field in dataclasses.fields(kind):
            raw = text[field.name]
            try:
                values[field.name] = field.metadata["read"](raw) if raw is not None else []
            except ValueError as error:
                raise ValueError(f"{_flag_of(field.name)} is {error}") from None
        groups[group] = kind(**values)
    return Options(**groups, text=text, given=given)


def _fields() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for kind in _GROUPS.values():
        for field in dataclasses.fields(kind):
            yield field.name, field


def _flag_of(name: str) -> str:
    return "INPUT" if name == "input" else f"--{name.replace('_', '-')}"


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m vars_dyn.simulate",
        description="Simulate recurrent sparse-coding neurons on signals until they are proven to have settled.",
        epilog="Exit status: 0 done; 1 the gap was not reached by --t-max, or the integration failed (the store says "
        "so); 2 bad input or arguments; 130 and 143 interrupted or terminated (the command that goes on is printed).",
        allow_abbrev=False,
    )
    for kind in _GROUPS.values():
        group = parser.add_argument_group(kind.__doc__ or "")
        for field in dataclasses.fields(kind):
            _add(group, field)
    return parser


def _add(group: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    about = field.metadata
    if field.name == "input":
        group.add_argument("input", nargs="*", metavar="INPUT", help=about["help"])
        return
    if about.get("flag"):
        group.add_argument(_flag_of(field.name), dest=field.name, action="store_const", const="yes", help=about["help"])
        return
    shown = (
        "" if about["default"] in ("none", "auto") or "default:" in about["help"] else f" (default: {about['default']})"
    )
    metavar = about["metavar"] or field.name.upper()
    group.add_argument(
        _flag_of(field.name), dest=field.name, metavar=metavar, help=(about["help"] + shown).replace("%", "%%")
    )


def _from_yaml(path: Path) -> dict[str, Any]:
    """The entries of a YAML file as the text that the command line would hold."""
    try:
        document = _yaml.load(path)
    except ValueError as error:
        raise ValueError(f"--config {error}") from None
    known = dict(_fields())
    found = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in known or name == "config":
            raise ValueError(f"--config {path} holds the unknown option {read.shown(key)}; --help lists the options")
        if name in found:
            raise ValueError(f"--config {path} holds {name} twice, as {name.replace('_', '-')} too; once is wanted")
        found[name] = _as_text(path, key, value, known[name])
    return found


def _as_text(path: Path, key: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    """A value of YAML as the command line would hold it: true as yes, null as none, a list with commas."""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, dict) or any(isinstance(part, (dict, list)) for part in parts):
        raise ValueError(f"--config {path}: {key} is {read.shown(str(value))}; one value, or a list of them, is wanted")
    if field.name == "input":
        if not all(isinstance(part, str) and part for part in parts):
            raise ValueError(
                f"--config {path}: {key} is {read.shown(str(value))}; a path, or a list of them, is wanted"
            )
        return parts
    words = [
        "none" if v is None else v if isinstance(v, str) else ("no", "yes")[v] if isinstance(v, bool) else str(v)
        for v in parts
    ]
    return ",".join(words)
