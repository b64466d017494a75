"""LASSO problems of many shapes beside SPAMS and others: `python -m experiments.benchmark.families [--out FOLDER]`.

One instance invites tuning to it, so this measures a family: the cells of a fixed grid, and others whose shapes,
numbers of non-zeros, coherences and dtypes are drawn from a seed. In every round each contender solves the cell, in
turn, on one thread. The figure of a cell is the median over the rounds of the ratio of processor times. The figures of
the family are the geometric mean and the worst of its cells, with 90 % intervals by a bootstrap over the rounds. A goal
is met if the whole interval is within it. With `--peers`, scikit-learn, celer and skglm solve the first signals of each
cell in every round, too. `--out` writes families.md and families.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import vars_dyn as vd
from experiments.benchmark import report
from experiments.benchmark.lasso_contenders import PEERS, ours, spams
from experiments.report import tables
from experiments.report.outputs import refuse_foreign

__all__ = [
    "GRID", "Cell", "Figure", "asked", "contenders_row", "drawn", "figures", "main", "measure", "measure_all", "timed"
]  # fmt: skip

#: The most multiply-adds of P^T x of all signals, and of P^T P, in a drawn cell.
_LARGEST = 1 << 30
#: A round lasts at least this many processor seconds of ours, if necessary by several calls.
_SHORTEST = 0.02
#: The goals: the geometric mean and the worst ratio.
_GOALS = {"geometric mean": 0.8, "worst": 1.2}
_RESAMPLES = 2000
#: The most signals of a cell that peers solve.
_PEER_SIGNALS = 8


class Cell(NamedTuple):
    """A LASSO problem of `signals` planted codes with .01 of noise, on normalised random atoms that share a part.

    Attributes:
        signals, d, atoms, nonzeros: the numbers of signals, of their entries, of atoms, and of planted non-zeros.
        lam: the weight of |a|_1.
        coherence: the inner product of two atoms, on average.
        dtype: "float64" or "float32".
    """

    signals: int
    d: int
    atoms: int
    nonzeros: int
    lam: float
    coherence: float = 0.0
    dtype: str = "float64"


#: Shapes at which an earlier solver was up to 15 times slower than SPAMS, and others.
GRID = (
    Cell(256, 256, 512, 20, 0.05),
    Cell(2000, 144, 288, 9, 0.1),
    Cell(256, 64, 128, 54, 0.1),
    Cell(2000, 256, 1024, 23, 0.05),
    Cell(64, 1024, 4096, 51, 0.05),
    Cell(4000, 64, 512, 12, 0.1),
    Cell(20000, 64, 128, 6, 0.1),
    Cell(1, 256, 512, 25, 0.05),
)


def drawn(count: int, seed: int) -> list[Cell]:
    """Cells drawn at random, none of them so large that a round takes more than some seconds."""
    generator, cells = np.random.default_rng(seed), list[Cell]()
    while len(cells) < count:
        signals, d = (int(2 ** generator.uniform(*range_)) for range_ in ((0, 14), (5, 10)))
        atoms = int(d * 2 ** generator.uniform(0, 3))
        nonzeros = max(1, int(d * generator.uniform(0.02, 0.3)))
        lam, coherence = float(0.2 * 10 ** generator.uniform(-1, 0)), float(generator.choice([0.0, 0.0, 0.3, 0.8]))
        dtype = str(generator.choice(["float64", "float64", "float32"]))
        if d * atoms * (atoms + signals) <= _LARGEST:
            cells.append(Cell(signals, d, atoms, nonzeros, round(lam, 3), coherence, dtype))
    return cells


def data(cell: Cell, seed: int) -> tuple[Tensor, Tensor]:
    """P (d, atoms) and the signals (signals, d)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    own, common = (t / t.norm(dim=0) for t in (normal(cell.d, cell.atoms), normal(cell.d, 1)))
    weight = (1 - cell.coherence) ** 0.5 * own + cell.coherence**0.5 * common
    weight = weight / weight.norm(dim=0)
    codes = torch.zeros(cell.signals, cell.atoms, dtype=torch.float64)
    order = torch.rand(cell.signals, cell.atoms, generator=generator).argsort(-1)[:, : cell.nonzeros]
    codes.scatter_(1, order, normal(*order.shape))
    x = codes @ weight.mT + 0.01 * normal(cell.signals, cell.d)
    dtype = getattr(torch, cell.dtype)
    return weight.to(dtype), x.to(dtype)


class Measured(NamedTuple):
    """What was measured of a cell.

    Attributes:
        cell: the cell.
        names: the contenders: ours, SPAMS, and other peers.
        seconds: processor seconds, (contenders, rounds); of peers that solved some of the signals, for all of them.
        kkt: the largest relative KKT residual of each contender.
    """

    cell: Cell
    names: tuple[str, ...]
    seconds: NDArray[np.float64]
    kkt: tuple[float, ...]

    def ratio(self, to: int = 1) -> float:
        """The median over the rounds of ours over that of the contender `to`."""
        return float(np.median(self.seconds[0] / self.seconds[to]))


def measure(cell: Cell, rounds: int, seed: int, peers: Sequence[str] = ()) -> Measured:
    """Solve a cell by all contenders in turn; the first run of each is not timed."""
    weight, x = data(cell, seed)
    some = x[:_PEER_SIGNALS].double()
    works = [make(weight, x, cell.lam) for make in (ours, spams)]
    works += [PEERS[name](weight.double(), some, cell.lam) for name in peers]
    problem = vd.SparseProblem(vd.DenseDictionary(weight.double()), x.double(), cell.lam)
    few = vd.SparseProblem(problem.dictionary, some, cell.lam)
    parts = [problem] * 2 + [few] * len(peers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a peer that does not reach its tolerance says so by its KKT residual
        worst = [
            float((part.kkt_residual(work().double()) / part.critical_lam()).max())
            for part, work in zip(parts, works, strict=True)
        ]
        seconds = timed(works, rounds, parts=[1.0, 1.0] + [len(some) / len(x)] * len(peers))
    return Measured(cell, ("ours", "SPAMS", *peers), seconds, tuple(worst))


def timed(works: Sequence[Callable[[], Any]], rounds: int, parts: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Processor seconds of each work in every round, (works, rounds), all in turn. Each is to have run before.

    A work that does only a part of what the others do, a share of `parts`, runs once in a round and is charged for all.
    """
    parts = parts or [1.0] * len(works)
    began = time.process_time()
    works[0]()
    calls = max(1, round(_SHORTEST / max(time.process_time() - began, 1e-4)))
    seconds = np.empty((len(works), rounds))
    # No round is charged for collecting what exists by now.
    gc.collect()
    gc.freeze()
    try:
        for number in range(rounds):
            for which, work in enumerate(works):
                gc.collect()
                times = calls if parts[which] == 1 else 1
                began = time.process_time()
                for _ in range(times):
                    work()
                seconds[which, number] = (time.process_time() - began) / times / parts[which]
    finally:
        gc.unfreeze()
    return seconds


class Figure(NamedTuple):
    """A figure of the family with its 90 % interval, and the goal, which is NaN if there is none."""

    name: str
    value: float
    low: float
    high: float
    goal: float

    @property
    def met(self) -> bool:
        """Whether the whole interval is within the goal."""
        return self.high <= self.goal


def figures(
    ratios: Sequence[NDArray[np.float64]], seed: int = 0, goals: Mapping[str, float] | None = None
) -> list[Figure]:
    """The geometric mean and the worst of the cells' median ratios; each cell has its ratio of every round."""
    goals = _GOALS if goals is None else goals
    generator = np.random.default_rng(seed)
    median = np.array([np.median(own) for own in ratios])
    again = np.stack(
        [np.median(generator.choice(own, (_RESAMPLES, len(own))), axis=1) for own in ratios], axis=1
    )  # (resamples, cells)
    found = []
    for name, of in (("geometric mean", lambda m: np.exp(np.log(m).mean(-1))), ("worst", lambda m: m.max(-1))):
        low, high = np.quantile(of(again), [0.05, 0.95])
        found.append(Figure(name, float(of(median)), float(low), float(high), goals.get(name, math.nan)))
    return found


def page(record: dict[str, Any], done: Sequence[Measured]) -> str:
    """The tables in Markdown."""
    names = done[0].names
    rows = [
        [
            names[to],
            of,
            f.name,
            f"{f.value:.2f}",
            f"{f.low:.2f} to {f.high:.2f}",
            *((f"{f.goal:g}", "met" if f.met else "not met") if to == 1 else ("", "")),
        ]
        for to in range(1, len(names))
        for of, own in (("the grid", [one for one in done if one.cell in GRID]), ("all cells", done))
        if own and (to == 1 or of == "all cells")
        for f in figures([one.seconds[0] / one.seconds[to] for one in own])
    ]  # fmt: skip
    cells = [
        [
            *(str(part) for part in one.cell[:4]), f"{one.cell.lam:g}", f"{one.cell.coherence:g}", one.cell.dtype,
            *(f"{1e3 * float(np.median(s)):.3g}" for s in one.seconds), f"{one.ratio():.2f}",
            *(f"{kkt:.1g}" for kkt in one.kkt),
        ]
        for one in done
    ]  # fmt: skip
    titles = ["signals", "d", "atoms", "non-zeros", "lam", "coherence", "dtype", *(f"{name}, ms" for name in names)]
    titles += ["ours over SPAMS", *(f"KKT of {name}" for name in names)]
    return "\n".join(
        [
            report.heading(record),
            f"{len(done)} cells, of which {record['drawn']} were drawn from seed {record['seed']}.\n",
            tables.markdown(["ours over", "", "", "ratio", "90 % interval", "goal, at most", ""], rows, spaced=True),
            tables.markdown(titles, cells, spaced=True),
        ]
    )


def asked(
    given: Sequence[str], program: str, description: str, file: str, *, peers: bool = False
) -> argparse.Namespace:
    """The options of a command that measures a family. Raises ValueError or OSError for bad ones.

    `--out` gets `file`.json and `file`.md. `command` is what was called. With `peers` there is an option `--peers`.
    """
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False, description=description)
    parser.add_argument("--out", type=Path, help=f"folder for {file}.md and {file}.json")
    parser.add_argument("--drawn", type=int, default=16, help="cells drawn beside those of the grid")
    if peers:
        parser.add_argument("--peers", action="store_true", help="beside SPAMS also scikit-learn, celer and skglm")
    parser.add_argument("--no-grid", action="store_true", help="measure drawn cells only")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each cell, at least 3")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the drawn cells and of all data")
    options = parser.parse_args(given)
    if options.rounds < 3 or options.drawn < (1 if options.no_grid else 0) or options.seed < 0:
        raise ValueError("at least 3 rounds, a cell, and a seed of at least 0 are wanted")
    if options.out:
        refuse_foreign([options.out / f"{file}{end}" for end in (".json", ".md")], beside=options.out / f"{file}.json")
        options.out.mkdir(parents=True, exist_ok=True)
    options.command = " ".join([program, *given])
    return options


def contenders_row(one: Any) -> dict[str, Any]:
    """The entry in JSON of a cell with named contenders."""
    return {**one.cell._asdict(), "contenders": one.names, "seconds": one.seconds.tolist(), "kkt": one.kkt}


def measure_all(
    cells: Sequence[Any],
    measured: Callable[[Any], Any],
    row: Callable[[Any], dict[str, Any]],
    shown: Callable[[dict[str, Any], Sequence[Any]], str],
    options: argparse.Namespace,
    file: str,
    told: Mapping[str, int],
) -> None:
    """Measure cell after cell and print the page.

    With `--out`, `file`.json and `file`.md there hold what is known at any time; `row` gives a cell's entry in JSON.
    """
    torch.set_num_threads(1)
    torch.empty((32 << 20) - 8192, dtype=torch.uint8)  # as in `alternating`: freed memory is kept from here on
    record = {**report.header(options.command, options.rounds, "cpu"), **told}
    record["machine"]["numba"] = report.version_of("numba")
    done: list[Any] = []
    for cell in tqdm(cells, disable=None, leave=False):
        done.append(measured(cell))
        if options.out:
            rows = [row(one) for one in done]
            report.write(options.out / f"{file}.json", json.dumps({**record, "rows": rows}, indent=2) + "\n")
            report.write(options.out / f"{file}.md", shown(record, done))
    print(shown(record, done))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m experiments.benchmark.families"
    try:
        options = asked(given, program, "LASSO problems of many shapes.", "families", peers=True)
        modules = {"SPAMS": "spams", "scikit-learn": "sklearn", "celer": "celer", "skglm": "skglm"}
        for name in ("SPAMS", *(PEERS if options.peers else ())):
            if modules[name] not in sys.modules and find_spec(modules[name]) is None:
                raise ValueError(f"{name} is not installed; the extra bench is wanted")
    except SystemExit as stop:
        return int(stop.code or 0)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    cells = [*(() if options.no_grid else GRID), *drawn(options.drawn, options.seed)]
    peers = tuple(PEERS) if options.peers else ()
    told = {"seed": options.seed, "drawn": options.drawn}
    one = partial(measure, rounds=options.rounds, seed=options.seed, peers=peers)
    measure_all(cells, one, contenders_row, page, options, "families", told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
