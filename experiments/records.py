"""`python -m experiments.records FILE ...`: print the table of several evaluations, a row per label."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from experiments import cli
from experiments.report.records import latest, read
from experiments.report.summaries import columns_of, over_seeds

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of record files, and return the exit status."""
    parser = cli.parser_for("records", "Print mean and standard deviation over seeds of several evaluations.")
    parser.add_flag("published", "show the paper's row under each model that it has")
    parser.add_argument("files", nargs="+", help="records.jsonl of evaluations; runs of one label differ in their seed")

    def command(values: Namespace) -> None:
        missing = [file for file in values.files if not Path(file).is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is no file; the records.jsonl of an evaluation is wanted")
        found = [record for file in values.files for record in latest(read([Path(file)]))]
        print(over_seeds(found, columns_of(found), published=values.published))

    return cli.run(parser, command, arguments, None)


if __name__ == "__main__":
    sys.exit(main())
