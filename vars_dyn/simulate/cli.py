"""Read the command's options from the command line, a YAML file, and the store of a run that is resumed."""

from __future__ import annotations

import json
from argparse import ArgumentError, HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vars_dyn import _yaml
from vars_dyn._command import CommandParser
from vars_dyn._suggestions import meant
from vars_dyn.simulate.options import Option, Options, groups, options_of
from vars_dyn.simulate.values import shown

__all__ = ["FREE", "parse", "parser_of", "stored"]

#: Options that may differ when a run is resumed, since they do not change what was computed before.
FREE = ("t_max", "max_steps", "threads", "out", "figure", "animate", "resume", "overwrite", "workers", "json", "config")

#: The options of spiking units.
_SPIKING = ("spiking", "leak", "quantum", "window")

#: What `auto` stands for without a stimulus.
_STILL = {"t_max": "1000", "times": "octaves", "gap": "1e-6", "chunk": "16"}


@dataclass(frozen=True)
class _Read:
    """A value, with the text that it was read from."""

    text: str
    value: Any


class _RefusedError(Exception):
    """An option has a bad value. It is no ValueError, since argparse would add its own words to one."""


class _Type:
    """The type of an option. jsonargparse calls it with a text, and then again with the result."""

    def __init__(self, option: Option) -> None:
        self._option = option

    def __call__(self, text: str | _Read) -> _Read:
        if isinstance(text, _Read):
            return text
        try:
            return _Read(text, self._option.read(text))
        except ValueError as error:
            raise _RefusedError(f"{self._option.written} is {error}") from None


_GROUPS = groups()
_OPTIONS = {option.name: option for kind in _GROUPS.values() for option in options_of(kind)}
_DEFAULTS: dict[str, Any] = {
    name: [] if option.default is None else _Type(option)(option.default) for name, option in _OPTIONS.items()
}


def parse(arguments: Sequence[str], store: Callable[[Path], Mapping[str, Any]] | None = None) -> Options:
    """The options, each from the first that has it: command line, YAML file, store (when resuming), defaults.

    `store` takes the path of a store and returns the options that it was made with. Raises ValueError for an unknown
    option or a bad value.
    """
    try:
        given = _given(arguments)
        resumed: dict[str, Any] = {}
        out = given["out"].value if "out" in given else None
        if store is not None and out is not None and "resume" in given and given["resume"].value:
            resumed = _read_all(store(out))
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except ArgumentError as error:
        raise ValueError(f"{' '.join(str(error).split())} (--help lists the options)") from None
    found = _DEFAULTS | resumed | given
    texts = {name: [one.text for one in each] or None if name == "input" else each.text for name, each in found.items()}
    values = {name: [one.value for one in each] if name == "input" else each.value for name, each in found.items()}
    return Options(
        **{
            group: kind(**{each.name: values[each.name] for each in options_of(kind)})
            for group, kind in _GROUPS.items()
        },
        text=texts,
        given=frozenset(given),
    )


def stored(options: Options) -> str:
    """The options as a text that a store keeps. When the run is resumed, `parse` takes options from there."""
    kept = {
        name: value
        for name, value in options.text.items()
        if name not in FREE or name in ("t_max", "max_steps", "threads")
    }
    if kept["stimulus"] in ("none", "auto"):
        # The text of versions without stimuli, which can thus resume the run.
        kept = {name: value for name, value in kept.items() if not name.startswith("stimulus")}
        kept |= {name: still for name, still in _STILL.items() if kept[name] == "auto"}
    if kept["spiking"] == "no":
        kept = {name: value for name, value in kept.items() if name not in _SPIKING}
    for name in ("weights", "bias"):
        if kept[name] == "none":
            del kept[name]
        else:
            kept[name] = str(Path(str(kept[name])).resolve())
    if isinstance(kept["input"], list):
        kept["input"] = [str(Path(name).resolve()) for name in kept["input"]]
    return json.dumps(kept)


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """The options that the command line and its YAML file give, by name."""
    namespace = vars(parser_of().parse_args(arguments, defaults=False))
    line = {}
    for name, value in namespace.items():
        if _OPTIONS[name].flag:
            line[name] = _Type(_OPTIONS[name])("yes")
        elif value:  # the list of inputs is empty if no INPUT was given
            line[name] = value
    config = line["config"].value if "config" in line else None
    return line if config is None else _from_yaml(config) | line


def parser_of() -> CommandParser:
    """The parser of the command. shtab makes completions for shells from it."""
    parser = CommandParser(
        prog="python -m vars_dyn.simulate",
        description="Simulate recurrent sparse-coding neurons on signals until every signal is proven to have settled.",
        epilog="Exit status: 0 done; 1 the gap was not reached by --t-max, or the integration failed (the store says "
        "so); 2 bad input or arguments; 130 interrupted and 143 terminated (the command that continues the run is "
        "printed).",
        formatter_class=HelpFormatter,
    )
    for kind in _GROUPS.values():
        group = parser.add_argument_group(kind.__doc__ or "")
        for option in options_of(kind):
            if option.flag:
                group.add_argument(option.written, action="store_true", help=option.help)
                continue
            text = option.help
            if option.default not in (None, "none") and "default:" not in text:
                text += f" (default: {option.default})"
            text = text.replace("%", "%%")
            if option.name == "input":
                group.add_argument("input", nargs="*", type=_Type(option), metavar=option.metavar, help=text)
            else:
                # jsonargparse would make a group of a name with a dot. Sweeps write names with dashes only.
                dotted = "." in option.written
                names = [option.written, *([option.written.replace(".", "-")] if dotted else [])]
                own: dict[str, Any] = {"dest": option.name} if dotted else {}
                group.add_argument(*names, type=_Type(option), metavar=option.metavar, help=text, **own)
    return parser


def _from_yaml(file: Path) -> dict[str, Any]:
    """The options in a YAML file. They are read by the same rules as those of the command line."""
    try:
        document = _yaml.load(file)
    except ValueError as error:
        raise ValueError(f"--config {error}") from None
    found: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_").replace(".", "_")
        if name not in _OPTIONS or name == "config":
            close = meant(key, [*_OPTIONS])
            raise ValueError(f"--config {file} holds the unknown option {shown(key)}; --help lists the options{close}")
        if name in found:
            raise ValueError(f"--config {file} holds {name} twice, as {name.replace('_', '-')} too; once is wanted")
        found[name] = value
    try:
        return _read_all(found)
    except ValueError as error:
        raise ValueError(f"--config {file}: {error}") from None


def _read_all(document: Mapping[str, Any]) -> dict[str, Any]:
    """Options from plain data. Unknown names are skipped, since another version may have stored them."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        if name == "input":
            found[name] = _paths(value)
        elif name in _OPTIONS:
            found[name] = _Type(_OPTIONS[name])(_as_text(name, value))
    return found


def _paths(value: Any) -> list[_Read]:
    parts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"input is {shown(str(value))}; a path, or a list of them, is wanted")
    return [_Type(_OPTIONS["input"])(part) for part in parts]


def _as_text(name: str, value: Any) -> str:
    """A value of YAML as it would stand on the command line: true as yes, null as none, a list with commas."""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, dict) or any(isinstance(part, (dict, list)) for part in parts):
        raise ValueError(f"{name} is {shown(str(value))}; one value, or a list of them, is wanted")
    return ",".join(_word(part) for part in parts)


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
