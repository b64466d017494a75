"""Speed compared with peers: `python -m experiments.benchmark [NAMES ...] [--out FOLDER]`.

Every row is one kind of work, which this package and its peers do in a process of the row's own, in turn, round after
round, on one thread. The figures are the median of the rounds in processor time, and the accuracy that each reached. A
ratio does not count if our result is less accurate than asked for and than the peer's. `--out` writes table.md (the
goals, then every row) and benchmark.json. The extra `bench` installs the peers, and the tables say which are missing.
`--list` names the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
from experiments.benchmark import report
from experiments.benchmark.processes import measure_rows
from experiments.benchmark.rows import ROWS
from experiments.report.outputs import refuse_foreign


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m experiments.benchmark"
    parser = _Parser(prog=program, allow_abbrev=False, description="Speed beside the peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows to run, by default all: {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, help="folder for table.md and benchmark.json")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each contender, at least 5")
    parser.add_argument("--list", action="store_true", help="name the rows and their work, and run nothing")
    try:
        options = parser.parse_args(given)
    except ValueError as error:
        return _refused(str(error))
    except SystemExit as stop:
        return int(stop.code or 0)
    unknown = [name for name in options.names if name not in ROWS]
    if unknown:
        return _refused(f"there is no row {unknown[0]!r}; one of {', '.join(ROWS)} is wanted")
    if options.rounds < 5:
        return _refused(f"rounds is {options.rounds}; at least 5 are wanted")
    chosen = options.names or list(ROWS)
    if options.list:
        print("\n".join(f"{name}: {ROWS[name]().work}" for name in chosen))
        return 0
    try:
        if options.out:
            refuse_foreign([options.out / name for name in ("benchmark.json", "table.md")],
                           beside=options.out / "benchmark.json")  # fmt: skip
            options.out.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        return _refused(str(error))
    except OSError as error:
        return _refused(f"--out {options.out} cannot be made: {error.strerror}")
    command = " ".join(["python -m experiments.benchmark", *given])
    record = {**report.header(command, options.rounds, "cpu"), "rows": []}
    done = []
    for row, measured in measure_rows(chosen, options.rounds):
        record["rows"].append(report.as_json(row, measured))
        done.append((row, measured))
        print(report.section(row, measured), flush=True)
        if options.out:
            report.write(options.out / "benchmark.json", json.dumps(record, indent=2) + "\n")
            report.write(options.out / "table.md", report.page(record, done))
    return 0


def _refused(sentence: str) -> int:
    line = " ".join(sentence.split())
    print(f"error: {line if len(line) < 600 else f'{line[:596]} ...'}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
