"""`python -m vars_dyn.simulate`."""

import sys

from vars_dyn.simulate.command import main

if __name__ == "__main__":
    sys.exit(main())
