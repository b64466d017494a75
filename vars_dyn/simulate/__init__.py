"""The command line: `python -m vars_dyn.simulate`."""

from vars_dyn.simulate.run import main

__all__ = ["main"]
