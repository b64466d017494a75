"""Commands of the project as the work of ensembles: their options are the parameters of a design."""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vars_dyn._suggestions import meant
from vars_dyn.sweeping.members import Called, Work

__all__ = ["Command", "CommandError", "as_work", "words_of"]

#: The commands of the library, and where each says how it is a member of an ensemble.
_LIBRARY = {"simulate": "vars_dyn.simulate.member", "learn": "vars_dyn.learning.member"}


class CommandError(RuntimeError):
    """A command ended with a bad exit status; the message is the line that it printed."""


@dataclass(frozen=True)
class Command(Work):
    """A command that is called in the process of its member, by its function `main`.

    Attributes:
        name: the name of the command.
        module: the module whose `main(arguments)` returns the exit status.
        extra: arguments that every member gets; {folder} in them stands for the member's own folder.
        accepted: the exit statuses of a member that is done.
        read: reads the results from the member's folder; None: they are the numbers, truth values and texts of the JSON
            object in the last line of standard output.
        options: the options that a design may set; None: the command itself refuses unknown ones.
        sizes: what `Work.ragged` returns for members with these parameters; None: no result is ragged.
        flags: whether a truth value is a flag, and a list has commas; else all values are written as in JSON.
        keep: whether the member's folder stays when it is done.
        positional: the parameter whose values stand on the command line without a name.
    """

    name: str
    module: str
    extra: tuple[str, ...] = ()
    accepted: tuple[int, ...] = (0,)
    read: Callable[[Path], Any] | None = None
    options: frozenset[str] | None = None
    sizes: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]] | None = None
    flags: bool = False
    keep: bool = False
    positional: str = "input"

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError for a name that is no option, or one that the ensemble sets itself."""
        own = {word[2:].partition("=")[0].replace("-", "_") for word in self.extra if word.startswith("--")}
        for name in names:
            plain = name.replace("-", "_")
            if plain in own:
                raise ValueError(f"the design sets {name} of {self.name}, which the ensemble sets itself")
            if self.options is not None and plain not in self.options:
                wanted = f"of {', '.join(sorted(self.options))} is wanted{meant(plain, self.options)}"
                raise ValueError(f"{self.name} has no option {name}; {wanted}")

    def ragged(self, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The dimensions whose size differs between members."""
        return {} if self.sizes is None else self.sizes(members)

    def run(self, parameters: Mapping[str, Any], folder: Path) -> Any:
        """Call the command; CommandError if its exit status is none of the accepted ones."""
        folder.mkdir(parents=True, exist_ok=True)
        given = words_of(parameters, flags=self.flags, positional=self.positional)
        words = [*given, *(word.format(folder=folder) for word in self.extra)]
        main = importlib.import_module(self.module).main
        told, said = io.StringIO(), io.StringIO()
        with redirect_stdout(told), redirect_stderr(said):
            status = main(words)
        if status in (130, 143):
            raise KeyboardInterrupt
        if status not in self.accepted:
            lines = [line for line in said.getvalue().splitlines() if line.strip()]
            why = lines[-1].removeprefix("error: ") if lines else f"exit status {status}"
            raise CommandError(why)
        return _numbers(told.getvalue()) if self.read is None else self.read(folder)


def as_work(given: Any) -> Work:
    """What a sweep's members do: a function, a command by its name, or work as it is; ValueError for anything else."""
    if isinstance(given, Work):
        return given
    if isinstance(given, str):
        if given not in _LIBRARY:
            wanted = f"one of {', '.join(_LIBRARY)} is wanted{meant(given, _LIBRARY)}"
            raise ValueError(f"there is no command {given!r} to sweep; {wanted}")
        found: Work = importlib.import_module(_LIBRARY[given]).MEMBER
        return found
    if callable(given):
        return Called(given)
    raise ValueError(f"command_or_function is a {type(given).__name__}; a function or the name of a command is wanted")


def words_of(parameters: Mapping[str, Any], *, flags: bool = False, positional: str = "input") -> list[str]:
    """Parameters as words of a command line: --name=value, with values as JSON writes them; `positional` has no name.

    With `flags`, true becomes --name alone, false and None are left out, and a list has commas.
    """
    words: list[str] = []
    for name, value in parameters.items():
        if name == positional:
            words = [*(value if isinstance(value, list) else [value]), *words]
        elif flags and value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif flags and isinstance(value, list):
            words.append(f"--{name.replace('_', '-')}={','.join(map(str, value))}")
        elif flags and value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}={value}")
        elif not flags:
            words.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def _numbers(text: str) -> dict[str, Any]:
    """The numbers, truth values and texts of the JSON object in the last line; null is NaN, and lists are left out."""
    lines = text.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CommandError("the command printed no JSON object as its last line")
    plain = {name: math.nan if value is None else value for name, value in found.items()}
    return {
        name: float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        for name, value in plain.items()
        if isinstance(value, (bool, int, float, str)) and name not in ("seed", "store", "figure")
    }
