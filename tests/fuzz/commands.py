"""Random command lines of `python -m vars_dyn.simulate`."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.sandbox import Foreign, called
from vars_dyn.simulate import main

QUICK = 20


def run(count: int, seed: int, folder: Path) -> list[str]:
    """Faults of `count` random command lines."""
    draw, foreign, faults = random.Random(seed), Foreign(folder), []
    for number in range(count):
        arguments = [draw.choice(["--lam", "--t-max", "--dt", "--crop"]), draw.choice(["nan", "inf", "x", "-1", ""])]
        found = called(main, arguments, folder).faults((2,)) + [f"touched {name}" for name in foreign.touched()]
        faults += [f"{number}: {' '.join(arguments)}: {fault}" for fault in found]
    return faults
