"""What the commands share: options from YAML files and the command line, and failures in one line."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

__all__ = ["parser_for", "run"]


def parser_for(program: str, description: str) -> ArgumentParser:
    """A parser that takes `--config FILE`, repeatedly (a later file wins, the command line wins over files)."""
    parser = ArgumentParser(prog=f"python -m experiments.{program}", description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of options; may be given several times")
    return parser


def run(
    parser: ArgumentParser, command: Callable[[Namespace], int | None], arguments: Sequence[str] | None = None
) -> int:
    """Parse and run: the exit status, 2 after one line on standard error if input is bad, 1 if the run failed."""
    try:
        return command(parser.parse_args(arguments)) or 0
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except ArgumentError as error:
        return _fail(_readable(error), 2)
    except ArithmeticError as error:
        return _fail(str(error), 1)
    except (ValueError, ModuleNotFoundError) as error:
        return _fail(str(error), 2)


def _readable(error: Exception) -> str:
    """jsonargparse's message on one line."""
    return " ".join(str(error).split())


def _fail(message: str, status: int) -> int:
    # An error in a loader's worker comes with the worker's traceback, whose last line is the message.
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["failed without a message"]
    text = lines[-1].removeprefix("ValueError: ") if lines[0].startswith("Caught ") else " ".join(lines)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {text}", file=sys.stderr)
    return status


def as_plain(value: Any) -> Any:
    """A dataclass of options as what JSON holds."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(value):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
