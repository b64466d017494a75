"""The command `python -m vars_dyn.learn`. From Python, `vars_dyn.learn` is the function that it calls."""

import sys
from argparse import ArgumentError
from contextlib import suppress

from vars_dyn._command import asks_for_help
from vars_dyn._learn_options import parser

if __name__ == "__main__":
    if asks_for_help(sys.argv[1:]):
        # Help needs no library of a run, and so does not wait for their import. It ends the process.
        with suppress(ArgumentError):
            parser().parse_args(sys.argv[1:])
    from vars_dyn.learning.command import main

    sys.exit(main())

from vars_dyn.learning.training import learn  # help does not wait for it

# `import vars_dyn.learn` must not put this file in the place of the function `vars_dyn.learn`.
sys.modules[__name__] = learn  # type: ignore[assignment]
