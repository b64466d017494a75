"""How an option of the command is declared: once, as a field of a dataclass, with its default, reader and help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vars_dyn.simulate.values import yes

__all__ = ["Option", "flag", "option", "options_of", "written"]


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


def option(default: str | None, reader: Callable[[str], Any], help_text: str, metavar: str) -> Any:
    """A field of a dataclass that is an option with a value."""
    return dataclasses.field(metadata={"option": (reader, default, help_text, metavar)})


def flag(help_text: str) -> Any:
    """A field of a dataclass that is an option without a value."""
    return dataclasses.field(metadata={"option": (yes, "no", help_text, "", True)})


def options_of(group: type[Any]) -> Iterator[Option]:
    """The options of a group, in the order of their declarations."""
    for field in dataclasses.fields(group):
        yield Option(field.name, *field.metadata["option"])
