"""The command's first step: it prints its help without the libraries of a run, whose import takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vars_dyn import _process
from vars_dyn._command import asks_for_help
from vars_dyn.simulate.cli import parse

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    with _process.streams():
        if asks_for_help(words):
            try:
                parse(words)
            except ValueError as error:  # a bad option before --help
                _process.say(f"error: {error}")
                return 2
        # deferred: help needs none of it, and some libraries cannot be imported without standard streams
        from vars_dyn.simulate import run

        return run.main(words)
