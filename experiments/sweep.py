"""`python -m experiments.sweep --config FILE`: run a command for every member of a design, into one store.

The file says which command, over which options, and where to. The members run in this process, in `--workers N`
processes of this machine, or on a Dask cluster: `--scheduler tcp://HOST:PORT`, or a YAML file of dask-jobqueue for
SLURM, PBS and others. If the command is stopped, `--resume true` goes on. `--figure FILE` draws the results.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse import Namespace
from tqdm.contrib.logging import logging_redirect_tqdm

import vars_dyn as vd
from experiments import cli
from experiments.options import plain_data
from experiments.report import ensembles
from experiments.report.outputs import refuse_foreign
from experiments.sweeps.commands import COMMANDS, work_of
from vars_dyn.sweeping import Design, Grid, LatinHypercube, Listed, Random, Range
from vars_dyn.sweeping.designs import Crossed

__all__ = ["Points", "Span", "design_of", "main"]

Value = bool | int | float | str | None

#: How many failures are named one by one.
_NAMED = 5


@dataclass
class Span:
    """A range of numbers.

    Attributes:
        low: the lower end.
        high: the upper end.
        log: spread evenly in the logarithm.
        whole: only integers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass
class Points:
    """Which members there are.

    Attributes:
        kind: grid (all combinations of lists), list (of members), random or latin-hypercube (points in ranges).
        parameters: options of the command, each with a list of values or, for points in ranges, a range.
        listed: the members, if kind is list.
        members: how many points are drawn from ranges.
        seed: the seed of what is drawn.
        seeds: run every member with each of these values of the command's own seed.
    """

    kind: Literal["grid", "list", "random", "latin-hypercube"] = "grid"
    parameters: dict[str, list[Value | list[Value]] | Span] = field(default_factory=dict)
    listed: list[dict[str, Value | list[Value]]] = field(default_factory=list)
    members: int | None = None
    seed: int = 0
    seeds: list[int] = field(default_factory=list)


def design_of(points: Points) -> Design:
    """The design that options describe; ValueError if they do not fit together."""
    drawn = points.kind in ("random", "latin-hypercube")
    if (points.members is not None) != drawn:
        wanted = "wanted for points that are drawn" if drawn else "for points that are drawn only"
        raise ValueError(f"design.members is {points.members} with kind {points.kind}; a number is {wanted}")
    if bool(points.listed) != (points.kind == "list") or (points.kind == "list" and points.parameters):
        has = "members listed" if points.listed else "no members listed"
        raise ValueError(f"design has {has} with kind {points.kind}; a list is wanted with kind list, and only there")
    design: Design
    if points.kind == "list":
        design = Listed(points.listed)
    elif points.kind == "grid":
        for name, values in points.parameters.items():
            if isinstance(values, Span):
                raise ValueError(f"design.parameters.{name} is a range with kind grid; a list of values is wanted")
        design = Grid(points.parameters)  # type: ignore[arg-type]
    else:
        kinds = {
            name: Range(each.low, each.high, each.log, each.whole) if isinstance(each, Span) else each
            for name, each in points.parameters.items()
        }
        design = (Random if points.kind == "random" else LatinHypercube)(kinds, points.members or 0, points.seed)
    return Crossed(design, "seed", points.seeds) if points.seeds else design


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, which is 1 if some members failed."""
    parser = cli.parser_for("sweep", "Run a command for every member of a design, into one store.")
    parser.add_option("command", str, default="simulate", help=f"what every member runs: {', '.join(COMMANDS)}")
    parser.add_option("design", dict, checked_as=Points, default={}, help="which members there are: kind, parameters, "
                      "listed, members, seed, seeds")  # fmt: skip
    parser.add_option("fixed", dict, checked_as=dict[str, Value | list[Value]], default={}, help="options that all "
                      "members share")  # fmt: skip
    parser.add_option("keep", list[str], default=[], help="variables of simulations that are kept at all times")
    parser.add_option("store", str, default="runs/sweep.zarr", help="zarr store of the results: a folder, or a URL")
    parser.add_option("resume", bool, default=False, help="go on with the store")
    parser.add_option("workers", int, default=0, help="worker processes; 0: this process does the work")
    parser.add_option("scheduler", str | None, default=None, help="address of a Dask scheduler, or a YAML file of "
                      "dask-jobqueue")  # fmt: skip
    parser.add_option("retries", int, default=2, help="how often a member is begun again if its process was killed")
    parser.add_option("block", int | None, default=None, help="members that share a chunk of the store")
    parser.add_option("threads", int, default=1, help="threads of the CPU for each member")
    parser.add_option("progress", bool, default=True, help="show the progress bar on a terminal")
    parser.add_option("figure", str | None, default=None, help="picture of the results (.png, .pdf or .svg)")
    parser.add_option("along", str | None, default=None, help="the figure's axis; default: the first parameter of "
                      "numbers")  # fmt: skip
    parser.add_option("panels", list[str], default=[], help="the results that the figure shows; default: the gap, the "
                      "active fraction and the error of the reconstruction, or all that are numbers")  # fmt: skip

    return cli.run(parser, _command, arguments, ("--resume=true",))


def _command(values: Namespace) -> int:
    points = plain_data.read(Points, dict(values.design), "design")
    work = work_of(values.command, values.keep)
    figure = None if values.figure is None else Path(values.figure)
    if figure is not None:
        refuse_foreign([figure])
    with _told():
        dataset = vd.sweep(
            work,
            design_of(points),
            values.store,
            workers=values.workers,
            scheduler=values.scheduler,
            resume=values.resume,
            fixed=dict(values.fixed),
            retries=values.retries,
            block=values.block,
            threads=values.threads,
            progress=None if values.progress else False,
        )
    if figure is not None:
        ensembles.draw(dataset, figure, along=values.along, panels=values.panels)
    failed = np.flatnonzero(dataset["status"].values == 2)
    done = dataset.sizes["member"] - len(failed)
    print(f"{done} members done, {len(failed)} failed, in {values.store}" + (f"\n{figure}" if figure else ""))
    for member in failed[:_NAMED]:
        print(f"member {member} failed: {dataset['error'].values[member]}", file=sys.stderr)
    if len(failed) > _NAMED:
        print(f"and {len(failed) - _NAMED} more, each with a traceback beside the store", file=sys.stderr)
    return 1 if len(failed) else 0


@contextmanager
def _told() -> Iterator[None]:
    """Let the sweep say on standard error where it runs."""
    log = logging.getLogger("vars_dyn.sweeping")
    handler, before = logging.StreamHandler(sys.stderr), log.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm([log]):
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


if __name__ == "__main__":
    sys.exit(main())
