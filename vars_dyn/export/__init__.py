"""The command `python -m vars_dyn.export`: a recorded run as a file that other programs read, NWB or netCDF."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vars_dyn.export.command import main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    """`main`, imported on first use, so that the command can open its streams before libraries are imported."""
    if name == "main":
        return importlib.import_module("vars_dyn.export.command").main
    raise AttributeError(f"module 'vars_dyn.export' has no attribute {name!r}")
