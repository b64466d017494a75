"""What the commands share: they read options from YAML files and the command line, and report failures in one line."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentError
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import Namespace

from experiments.options import plain_data
from experiments.settings import Attention, Data
from vars_dyn import _process, _yaml
from vars_dyn._command import CommandParser

__all__ = ["Parser", "add_data", "add_model", "parser_for", "run"]

#: The most characters of a failure's message. It may quote the input, which may be long.
_LONGEST = 600


class Parser(CommandParser):
    """A parser that first checks configurations and values as plain data, by the types of their options.

    jsonargparse alone imports whatever a value names as `class_path`, and makes an object of it where a type is Any.
    Here it therefore gets only mappings of known options, with numbers, texts and lists of the declared types.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.kinds: dict[str, Any] = {}
        self.given: set[str] = set()
        self.flags: set[str] = set()
        super().__init__(*arguments, **keywords)

    def add_option(self, name: str, kind: Any, **keywords: Any) -> None:
        """Add an option `--name` of the type `kind`. Keywords are argparse's."""
        self.kinds[name] = keywords.pop("checked_as", kind)
        self.add_argument(f"--{name}", type=kind, **keywords)

    def add_flag(self, name: str, help: str) -> None:  # noqa: A002  # argparse's name
        """Add an option `--name` that takes no value. In a configuration it is true or false."""
        self.flags.add(name)
        self.kinds[name.replace("-", "_")] = bool
        self.add_argument(f"--{name}", action="store_true", help=help)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *others: Any, **keywords: Any) -> Any:
        """As jsonargparse's, for a dataclass."""
        hints, skipped = get_type_hints(theclass), keywords.get("skip") or ()
        own = {each.name: hints[each.name] for each in fields(theclass) if each.name not in skipped}
        self.kinds.update({f"{nested_key}.{name}" if nested_key else name: kind for name, kind in own.items()})
        if nested_key:
            self.kinds[nested_key] = theclass
        return super().add_class_arguments(theclass, nested_key, *others, **keywords)

    def parse_args(  # type: ignore[override]  # one signature for the overloads of argparse
        self, args: Sequence[str] | None = None, *others: Any, **keywords: Any
    ) -> Any:
        """As jsonargparse's. Raises ValueError for an unknown option or a value of another type.

        Afterwards `given` has the names of the options on the command line itself.
        """
        words = list(sys.argv[1:] if args is None else args)
        self.given = set()
        for name, value in _options(words, self.flags):
            if name == "config" and value is not None:
                self._check_mapping(_yaml.load(Path(value)))
            else:
                self._check_option(name, value)
        return super().parse_args(words, *others, **keywords)

    def _check_mapping(self, values: Mapping[str, Any], prefix: str = "") -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name in self.kinds:
                plain_data.check(self.kinds[name], value, name)
            elif isinstance(value, Mapping) and any(each.startswith(f"{name}.") for each in self.kinds):
                self._check_mapping(value, f"{name}.")
            else:
                raise ValueError(f"{name!r} is not an option of {self.prog}; --help lists the options")

    def _check_option(self, name: str, text: str) -> None:
        if name == "config" and text is None:
            raise ValueError("config has no value; a YAML file is wanted")
        if name in ("help", "print_config") or name.startswith("print_config=") or (name in self.flags and not text):
            return
        kind = self._kind(name)
        self.given.add(name)
        if not isinstance(text, str):
            raise ValueError(f"{name} has no value; a value is wanted")
        if str in _members(kind):
            plain_data.check(str, text, name)
        if kind is str:
            return
        try:
            value = _yaml.value_of(text)
        except ValueError as error:
            if str in _members(kind):
                return
            raise ValueError(f"{name} is {text[:80]!r}: {error}") from None
        whole = any(_is_group(each) for each in _members(kind))
        if whole and isinstance(value, str) and Path(value[:4096]).is_file():
            value = _yaml.load(Path(value))
        if str in _members(kind) and not isinstance(value, Mapping | list):
            return  # text may look like a number
        plain_data.check(kind, value, name)

    def _kind(self, name: str) -> Any:
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            outer = ".".join(parts[:count])
            if outer in self.kinds:
                return plain_data.within(self.kinds[outer], parts[count:], f"--{name}")
        raise ValueError(f"there is no option --{name}; --help lists the options")


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if type(None) in get_args(kind) or get_origin(kind) is None else (kind,)


def _is_group(kind: Any) -> bool:
    return hasattr(kind, "__dataclass_fields__")


def _options(words: Sequence[str], flags: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """The options on a command line with the texts of their values. An option without a value has None."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--":
            return
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if name in ("help", "print_config") or (name in flags and not equals):
            yield name, None
        elif equals:
            yield name, value
        else:
            yield name, words[position] if position < len(words) else None
            position += 1


def parser_for(program: str, description: str) -> Parser:
    """A parser that takes `--config FILE` repeatedly. A later file wins, and the command line wins over files."""
    parser = Parser(prog=f"python -m experiments.{program}", description=description)
    parser.add_argument("--config", action="config", help="YAML file of options; may be given several times")
    return parser


def add_model(parser: Parser) -> None:
    """Add the arguments that say which trained model is meant, and where data lie."""
    parser.add_argument(
        "checkpoint", help="folder of a run (its best checkpoint is taken) or of a checkpoint, or timm:NAME[=WEIGHTS]"
    )
    add_data(parser)
    parser.add_option("weights", str | None, default=None, help="safetensors file of weights for timm:NAME")
    parser.add_class_arguments(Attention, "attention", instantiate=True)


def add_data(parser: Parser) -> None:
    """Add the arguments that say where images lie."""
    parser.add_option("data", str | None, default=None, help="folder of the data sets (imagenet-c, PACS, ...)")
    parser.add_option(
        "validation",
        dict[str, bool | int | float | str | list[str] | list[float] | None],
        checked_as=Data,
        default={},
        help="options of the validation images that differ from those of the training",
    )


def run(
    parser: Parser,
    command: Callable[[Namespace], int | None],
    arguments: Sequence[str] | None = None,
    again: Sequence[str] | None = (),
) -> int:
    """Parse the arguments, run the command, and return the exit status.

    It is 2 after one line on standard error if input is bad, 1 if the run failed, 130 if it was interrupted, and 143 if
    it was told to stop. In the last two cases it prints the command that goes on, which is the same with the options
    `again`. If `again` is None, there is nothing to go on from.
    """
    with _process.streams():
        return _status(parser, command, list(sys.argv[1:] if arguments is None else arguments), again)


def _status(
    parser: Parser, command: Callable[[Namespace], int | None], words: Sequence[str], again: Sequence[str] | None
) -> int:
    try:
        with _process.terminable():
            return command(parser.parse_args(words)) or 0
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        status, told = (143, "told to stop") if isinstance(stop, _process.Terminated) else (130, "interrupted")
        if again is None:
            return _fail(f"{told}; nothing was kept", status)
        more = [word for word in again if word not in words]
        return _fail(f"{told}; to go on: {parser.prog} {shlex.join([*words, *more])}", status)
    except ArgumentError as error:
        return _fail(_readable(error), 2)
    except ArithmeticError as error:
        return _fail(str(error), 1)
    except (ValueError, ModuleNotFoundError) as error:
        return _fail(str(error), 2)
    except OSError as error:
        reason = error.strerror or str(error)
        return _fail(f"{error.filename}: {reason}" if error.filename else reason, 2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            return _fail(f"there is not enough memory for this ({_readable(error)}); something smaller is wanted", 2)
        raise


def _readable(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())


def _fail(message: str, status: int) -> int:
    # An error in a loader's worker has the worker's traceback, and the last line of that is the message.
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["failed without a message"]
    text = lines[-1].removeprefix("ValueError: ") if lines[0].startswith("Caught ") else " ".join(lines)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _process.say(f"error: {text}")
    return status
