"""`python -m vars_dyn.export`."""

import sys

from vars_dyn import _process

if __name__ == "__main__":
    with _process.streams():
        from vars_dyn.export.command import main  # deferred: some libraries cannot be imported without standard streams

        sys.exit(main())
