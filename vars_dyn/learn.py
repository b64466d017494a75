"""The command `python -m vars_dyn.learn`. From Python, `vars_dyn.learn` is the function that it calls."""

import sys

from vars_dyn.learning.command import main
from vars_dyn.learning.training import learn

if __name__ == "__main__":
    sys.exit(main())

# `import vars_dyn.learn` must not put this file in the place of the function `vars_dyn.learn`.
sys.modules[__name__] = learn  # type: ignore[assignment]
