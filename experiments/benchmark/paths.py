"""Paths of lam beside peers: `python -m experiments.benchmark.paths [--out FOLDER]`.

Every contender solves the same LASSO problems for a sequence of lam, evenly spaced in log lam from the smallest at
which all codes are zero. In every round each solves the cell, in turn, on one thread. `vars_dyn.solve` and SPAMS solve
each lam by itself; `vars_dyn.solve_path`, celer and scikit-learn go on from one lam to the next. `--out` writes
paths.md and paths.json.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vars_dyn as vd
from experiments.benchmark import report
from experiments.benchmark.families import Cell, contenders_row, data, measure_all
from experiments.report import tables
from experiments.report.outputs import refuse_foreign

__all__ = ["CELLS", "main"]

#: The cells of families whose signals get a path; their own lam is not used.
CELLS = (Cell(1, 256, 512, 25, 0.0), Cell(16, 256, 512, 25, 0.0), Cell(64, 64, 256, 8, 0.0), Cell(4, 100, 800, 5, 0.0))
#: The share of the largest lam at which a path ends.
_LEAST = 0.05
_RESAMPLES = 2000

Work = Callable[[], Tensor]


def _ours(weight: Tensor, x: Tensor, lams: Tensor) -> Work:
    return lambda: vd.solve_path(vd.SparseProblem(vd.DenseDictionary(weight), x, 1.0), lams).code


def _each(weight: Tensor, x: Tensor, lams: Tensor) -> Work:
    def work() -> Tensor:
        P = vd.DenseDictionary(weight)
        return torch.stack([vd.solve(vd.SparseProblem(P, x, lam)).code for lam in lams])

    return work


def _spams(weight: Tensor, x: Tensor, lams: Tensor) -> Work:
    import spams  # deferred: a peer that need not be installed

    signals, atoms = np.asfortranarray(x.numpy().T), np.asfortranarray(weight.numpy())

    def work() -> Tensor:
        found = [
            spams.lasso(signals, D=atoms, lambda1=lam, mode=2, numThreads=1).toarray().T for lam in lams[:, 0].tolist()
        ]
        return torch.from_numpy(np.stack(found))

    return work


def _celer(weight: Tensor, x: Tensor, lams: Tensor) -> Work:
    from celer import celer_path  # deferred: a peer that need not be installed

    matrix, signals = np.asfortranarray(weight.numpy()), x.numpy()
    alphas = lams[:, 0].numpy() / len(weight)

    def work() -> Tensor:
        found = [celer_path(matrix, one, "lasso", alphas=alphas, tol=1e-14, max_iter=1000)[1].T for one in signals]
        return torch.from_numpy(np.stack(found, 1))

    return work


def _lars(weight: Tensor, x: Tensor, lams: Tensor) -> Work:
    from sklearn.linear_model import lars_path  # deferred: a peer that need not be installed

    matrix, signals, wanted = weight.numpy(), x.numpy(), lams[:, 0].numpy() / len(weight)

    def path(signal: NDArray[np.float64]) -> NDArray[np.float64]:
        alphas, _, codes = lars_path(matrix, signal, method="lasso", alpha_min=float(wanted[-1]))
        # The code is linear in lam between the path's kinks.
        order = np.argsort(alphas)
        return np.stack([np.interp(wanted, alphas[order], code[order]) for code in codes], 1)

    return lambda: torch.from_numpy(np.stack([path(one) for one in signals], 1))


_CONTENDERS = {
    "solve_path": (_ours, None),
    "solve, each lam": (_each, None),
    "SPAMS, each lam": (_spams, "spams"),
    "celer_path": (_celer, "celer"),
    "lars_path": (_lars, "sklearn"),
}


class Measured(NamedTuple):
    """A cell with its contenders' names, processor seconds (contenders, rounds), and largest relative KKT residuals."""

    cell: Cell
    names: tuple[str, ...]
    seconds: NDArray[np.float64]
    kkt: tuple[float, ...]


def measure(cell: Cell, count: int, rounds: int, seed: int) -> Measured:
    """Solve a cell's paths of `count` lam by all contenders that are installed; first runs are not timed."""
    weight, x = data(cell, seed)
    P = vd.DenseDictionary(weight)
    top = float(vd.SparseProblem(P, x, 1.0).critical_lam().max())
    lams = (top * torch.logspace(0, float(np.log10(_LEAST)), count, dtype=x.dtype))[:, None].expand(count, len(x))
    lams = lams.contiguous()
    works = {
        name: make(weight, x, lams)
        for name, (make, module) in _CONTENDERS.items()
        if module is None or module in sys.modules or find_spec(module) is not None
    }
    kkt, seconds = list[float](), np.empty((len(works), rounds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a contender that does not reach its tolerance says so by its KKT residual
        for work in works.values():
            codes = work()
            each = [vd.SparseProblem(P, x, lam).kkt_residual(code) for lam, code in zip(lams, codes, strict=True)]
            kkt.append(float(torch.stack(each).max()) / top)
        for number in range(rounds):
            for which, work in enumerate(works.values()):
                gc.collect()
                began = time.process_time()
                work()
                seconds[which, number] = time.process_time() - began
    return Measured(cell, tuple(works), seconds, tuple(kkt))


def page(record: dict[str, Any], done: Sequence[Measured]) -> str:
    """The table in Markdown."""
    generator, rows = np.random.default_rng(0), list[list[str]]()
    for one in done:
        for name, seconds, kkt in zip(one.names, one.seconds, one.kkt, strict=True):
            ratio = one.seconds[0] / seconds
            again = np.median(generator.choice(ratio, (_RESAMPLES, len(ratio))), axis=1)
            low, high = np.quantile(again, [0.05, 0.95])
            shape = f"{one.cell.signals} x {one.cell.d} x {one.cell.atoms}"
            rows.append(
                [shape, name, f"{1e3 * float(np.median(seconds)):.3g}", f"{float(np.median(ratio)):.2f}",
                 f"{low:.2f} to {high:.2f}", f"{kkt:.1g}"]
            )  # fmt: skip
    titles = ["signals x d x atoms", "", "ms", "solve_path over it", "90 % interval", "KKT"]
    return "\n".join([report.heading(record), tables.markdown(titles, rows, spaced=True)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m experiments.benchmark.paths"
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False, description="LASSO problems for many lam.")
    parser.add_argument("--out", type=Path, help="folder for paths.md and paths.json")
    parser.add_argument("--lams", type=int, default=50, help="lam on each path, at least 2")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each cell, at least 3")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all data")
    try:
        options = parser.parse_args(given)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        if options.rounds < 3 or options.lams < 2 or options.seed < 0:
            raise ValueError("at least 3 rounds, 2 lam, and a seed of at least 0 are wanted")
        if options.out:
            refuse_foreign([options.out / name for name in ("paths.json", "paths.md")],
                           beside=options.out / "paths.json")  # fmt: skip
            options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    options.command = " ".join([program, *given])
    one = partial(measure, count=options.lams, rounds=options.rounds, seed=options.seed)
    measure_all(CELLS, one, contenders_row, page, options, "paths", {"seed": options.seed, "lams": options.lams})
    return 0


if __name__ == "__main__":
    sys.exit(main())
