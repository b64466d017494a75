"""`python -m vars_dyn.view`."""

import sys

from vars_dyn import _process

if __name__ == "__main__":
    with _process.streams():
        from vars_dyn.view.command import main  # deferred: some libraries cannot be imported without standard streams

        sys.exit(main())
