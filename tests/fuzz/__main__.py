"""Throw random and broken input at the commands: `python -m tests.fuzz [TARGET ...] --count N --seed S`.

A target is a module beside this one with `run(count, seed, folder) -> list[str]`. It makes `count` cases from `seed`
in the empty `folder` and returns the faults that it found, one line each. A fault is a traceback, a hang, a wrong exit
status, or a change of foreign files. The same count and seed give the same cases.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

#: Modules of this folder that are not targets.
_HELPERS = ("sandbox",)


def targets() -> list[str]:
    """The names of all targets. A new file in this folder is a new target."""
    names = [path.stem for path in Path(__file__).parent.glob("*.py")]
    return sorted(name for name in names if not name.startswith(("_", "test_")) and name not in _HELPERS)


def run(target: str, count: int, seed: int, folder: Path) -> list[str]:
    """Run one target in a fresh folder below `folder`."""
    place = Path(tempfile.mkdtemp(prefix=f"{target}-", dir=folder))
    found: list[str] = importlib.import_module(f"tests.fuzz.{target}").run(count, seed, place)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run targets and print what they find; the exit status is 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets())} (default: all)")
    parser.add_argument("--count", type=int, default=100, help="cases of each target (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="where the cases come from (default: 0)")
    parser.add_argument("--minutes", type=float, help="go on with the next seeds until so much time has gone")
    parser.add_argument("--folder", type=Path, help="keep what is made in this folder (default: a temporary one)")
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - set(targets())
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; one of {', '.join(targets())} is wanted")
    began, seed, faults = time.monotonic(), options.seed, 0
    while True:
        for target in options.targets or targets():
            with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
                if options.folder is not None:
                    options.folder.mkdir(parents=True, exist_ok=True)
                start = time.monotonic()
                found = run(target, options.count, seed, options.folder or Path(temporary))
            seconds = time.monotonic() - start
            print(f"{target}, seed {seed}: {options.count} cases, {len(found)} faults, {seconds:.0f} s", flush=True)
            for line in found:
                print(f"  {line}", flush=True)
            faults += len(found)
        seed += 1
        if options.minutes is None or time.monotonic() - began > 60 * options.minutes:
            return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
