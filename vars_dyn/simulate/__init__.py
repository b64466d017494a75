"""The command line: `python -m vars_dyn.simulate`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vars_dyn.simulate.run import main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    """`main`, imported on first use, so that the command can open its streams before libraries are imported."""
    if name == "main":
        return importlib.import_module("vars_dyn.simulate.run").main
    raise AttributeError(f"module 'vars_dyn.simulate' has no attribute {name!r}")
