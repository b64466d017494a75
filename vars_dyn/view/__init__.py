"""The command `python -m vars_dyn.view`: a recorded run in the browser, served locally or kept as one file."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vars_dyn.view.command import main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    """`main`, imported on first use, so that the command can open its streams before libraries are imported."""
    if name == "main":
        return importlib.import_module("vars_dyn.view.command").main
    raise AttributeError(f"module 'vars_dyn.view' has no attribute {name!r}")
