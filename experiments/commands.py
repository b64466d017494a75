"""What the commands share: options from YAML files and the command line, and failures in one line."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from experiments.settings import Attention

__all__ = ["add_data", "add_model", "parser_for", "run"]


def parser_for(program: str, description: str) -> ArgumentParser:
    """A parser that takes `--config FILE`, repeatedly (a later file wins, the command line wins over files)."""
    parser = ArgumentParser(prog=f"python -m experiments.{program}", description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of options; may be given several times")
    return parser


def add_model(parser: ArgumentParser) -> None:
    """Arguments that say which trained model is meant, and where data lie."""
    parser.add_argument(
        "checkpoint", help="a run's folder (its best checkpoint), a checkpoint's, or timm:NAME[=WEIGHTS]"
    )
    add_data(parser)
    parser.add_argument("--weights", type=str | None, default=None, help="safetensors of a timm:NAME model")
    parser.add_class_arguments(Attention, "attention", instantiate=True)


def add_data(parser: ArgumentParser) -> None:
    """Arguments that say where images lie."""
    parser.add_argument("--data", type=str | None, default=None, help="the folder that has imagenet-c, PACS, ... in it")
    parser.add_argument(
        "--validation", type=dict[str, Any], default={}, help="options of the validation images unlike in training"
    )


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
