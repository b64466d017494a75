"""Dictionary learning beside the peers: `python -m experiments.benchmark.learning [--out FOLDER]`.

Every contender starts from the same random atoms, learns from the same whitened patches of photographs at the same
penalty, in this process on one thread, in turn. At marks of processor time the objective on patches that none has seen
is computed from certified codes, whose time does not count. Neither does the loading of libraries. `--out` writes
learning.md, learning.json and learning.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

import vars_dyn as vd
from experiments.benchmark import report
from experiments.benchmark.machine import machine
from experiments.report.outputs import marked, refuse_foreign
from vars_dyn.learning import Atoms, Learner, OlshausenField, Online, Patches, Rows, random_dictionary
from vars_dyn.learning.photographs import photographs
from vars_dyn.plotting.style import colours, tidy_axes

__all__ = ["main", "measure"]

_BATCH = 256
#: Batches in a call of SPAMS.
_CALL = 10


class Work(NamedTuple):
    """What all contenders get: training patches (n, d), patches to judge by, the first atoms (d, d'), and lam."""

    train: NDArray[np.float64]
    held_out: Tensor
    start: Tensor
    lam: float
    seed: int


#: A contender: it advances by one piece of work at each call, and returns its atoms (d, d').
Advance = Callable[[], Tensor]


def ours(work: Work) -> Advance:
    """`vars_dyn.learning.Learner`, online."""
    rows = Rows(work.train)
    atoms = Atoms("ball", patience=None, moves=None)  # the peers revive and move no atoms
    learner, loaded = (Learner(vd.DenseDictionary(work.start), work.lam, Online(), "solve", atoms) for _ in range(2))
    loaded.step(torch.from_numpy(work.train[:_BATCH]))  # loads compiled loops, as the peers' imports load theirs

    def advance() -> Tensor:
        learner.step(torch.from_numpy(rows.batch(learner.steps, _BATCH, work.seed)))
        return learner.dictionary.tensors()[0]

    return advance


def scikit_learn(work: Work, algorithm: str) -> Advance:
    """scikit-learn's MiniBatchDictionaryLearning; "lars" is its default, and "cd" is coordinate descent."""
    # deferred: an optional peer
    from sklearn.decomposition import MiniBatchDictionaryLearning

    peer = MiniBatchDictionaryLearning(
        work.start.shape[1],
        alpha=work.lam,
        batch_size=_BATCH,
        fit_algorithm=algorithm,
        dict_init=work.start.T.numpy().copy(),
        random_state=work.seed,
        n_jobs=1,
    )
    rows, step = Rows(work.train), iter(range(10**9))

    def advance() -> Tensor:
        peer.partial_fit(rows.batch(next(step), _BATCH, work.seed))
        return torch.from_numpy(peer.components_.T.copy())

    return advance


def spams_online(work: Work) -> Advance:
    """SPAMS trainDL (Mairal et al. 2009), whose model is handed on from call to call.

    Every call gets other signals, because it draws in the same order each time.
    """
    # deferred: an optional peer
    import spams

    rows, step = Rows(work.train), iter(range(10**9))
    atoms: Any = np.asfortranarray(work.start.numpy())
    model: Any = None

    def advance() -> Tensor:
        nonlocal atoms, model
        signals = np.asfortranarray(rows.batch(next(step), _CALL * _BATCH, work.seed).T)
        atoms, model = spams.trainDL(
            signals, return_model=True, model=model, D=atoms, lambda1=work.lam, mode=2, iter=_CALL, batchsize=_BATCH,
            numThreads=1, verbose=False,
        )  # fmt: skip
        return torch.from_numpy(np.array(atoms))

    return advance


CONTENDERS: dict[str, Callable[[Work], Advance]] = {
    "vars_dyn online": ours,
    "scikit-learn, lars": lambda work: scikit_learn(work, "lars"),
    "scikit-learn, cd": lambda work: scikit_learn(work, "cd"),
    "SPAMS trainDL": spams_online,
}


def held_out_objective(weight: Tensor, work: Work) -> float:
    """The mean of 1/2 |x - P a|^2 + lam |a|_1 at the argmin, over the patches that nobody learned from.

    Atoms are brought to norm 1 where they are longer, as all contenders promise that they are not.
    """
    inside = weight / weight.norm(dim=0, keepdim=True).clamp(min=1.0)
    problem = vd.SparseProblem(vd.DenseDictionary(inside.double()), work.held_out, work.lam)
    solution = vd.solve(problem)
    if not bool(solution.converged.all()):
        raise RuntimeError("a held-out code is not certified")
    return float(problem.objective(solution.code).mean())


def prepared(patch: int, atoms: int, lam: float, count: int, seed: int) -> Work:
    """Patches of photographs, filtered as Olshausen and Field did."""
    source = Patches(photographs(), patch, image_steps=[OlshausenField()], pool=64)
    train = source.batch(0, count, seed)  # refuses patches larger than the photographs before memory is taken
    held_out = torch.from_numpy(source.batch(1, 500, seed + 1))
    start = random_dictionary(vd.DenseDictionary(torch.ones(patch**2, atoms, dtype=torch.float64)), seed)
    return Work(train, held_out, start.tensors()[0], lam, seed)


def measure(work: Work, marks: Sequence[float]) -> dict[str, list[dict[str, float]]]:
    """Each contender's course: processor seconds, pieces of work, and the held-out objective at the marks."""
    found = {}
    for name, make in CONTENDERS.items():
        try:
            advance = make(work)
        except ImportError:
            continue
        spent, calls, course = 0.0, 0, []
        weight = work.start
        for mark in marks:
            while spent < mark:
                began = time.process_time()
                weight = advance()
                spent += time.process_time() - began
                calls += 1
            course.append({"seconds": spent, "calls": calls, "objective": held_out_objective(weight, work)})
            print(f"{name}: {spent:.1f} s, held-out objective {course[-1]['objective']:.4f}", flush=True)
        found[name] = course
    return found


def page(record: dict[str, Any]) -> str:
    """The table in Markdown."""
    marks = record["marks"]
    lines = [
        f"Measured on {record['date']} on one thread by",
        "",
        f"    {record['command']}",
        "",
        report.paragraph(f"with {', '.join(f'{k} {v}' for k, v in record['machine'].items())}."),
        "",
        report.paragraph(
            f"{record['patches']} patches of {record['patch']} x {record['patch']} pixels from {record['photographs']} "
            f"photographs, {record['atoms']} atoms, lam = {record['lam']:g}, batches of {_BATCH}, seed "
            f"{record['seed']}. The random atoms at the start have the held-out objective {record['start']:.3f}."
        ),
        "",
        f"| held-out objective after processor seconds | {' | '.join(f'{mark:g}' for mark in marks)} |",
        f"| --- |{' --- |' * len(marks)}",
    ]
    for name, course in record["rows"].items():
        objectives = " | ".join(f"{each['objective']:.3f}" for each in course)
        lines.append(f"| {name} | {objectives} |")
    return "\n".join(lines) + "\n"


def draw(record: dict[str, Any], path: Path) -> None:
    """The curves of the held-out objective over processor time."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for (name, course), colour in zip(record["rows"].items(), colours(len(record["rows"])), strict=True):
        ax.plot([c["seconds"] for c in course], [c["objective"] for c in course], "o-", ms=4, color=colour, label=name)
    ax.set_xscale("log")
    ax.set_xticks(record["marks"], [f"{mark:g}" for mark in record["marks"]])
    ax.minorticks_off()
    ax.set_xlabel("processor seconds")
    ax.set_ylabel("objective on held-out patches")
    ax.legend(frameon=False)
    tidy_axes(ax)
    figure.savefig(path, dpi=110, metadata=marked(path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark.learning", allow_abbrev=False, description="Dictionary learning."
    )
    parser.add_argument("--out", type=Path, help="folder for learning.md, learning.json and learning.png")
    parser.add_argument("--patch", type=int, default=12, help="side of the patches in pixels")
    parser.add_argument("--atoms", type=int, default=288, help="number of atoms")
    parser.add_argument("--lam", type=float, default=1.5, help="weight of |a|_1")
    parser.add_argument("--patches", type=int, default=20_000, help="patches to learn from")
    parser.add_argument("--seconds", type=float, default=16.0, help="processor seconds for each contender")
    parser.add_argument("--seed", type=int, default=0, help="the seed of everything random")
    try:
        options = parser.parse_args(given)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        if min(options.patch, options.atoms, options.patches) < 2 or min(options.lam, options.seconds) <= 0:
            raise ValueError("patch, atoms and patches of at least 2, and lam and seconds above 0 are wanted")
        if options.out:
            refuse_foreign([options.out / name for name in ("learning.json", "learning.md", "learning.png")],
                           beside=options.out / "learning.json")  # fmt: skip
            options.out.mkdir(parents=True, exist_ok=True)
        work = prepared(options.patch, options.atoms, options.lam, options.patches, options.seed)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    marks = [options.seconds / 2**k for k in (3, 2, 1, 0)]
    record = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": " ".join(["python -m experiments.benchmark.learning", *given]),
        "machine": {**machine("cpu"), **_peers()},
        "patch": options.patch,
        "atoms": options.atoms,
        "lam": options.lam,
        "patches": options.patches,
        "photographs": len(photographs()),
        "seed": options.seed,
        "marks": marks,
        "start": held_out_objective(work.start, work),
        "rows": measure(work, marks),
    }
    print(page(record))
    if options.out:
        (options.out / "learning.json").write_text(json.dumps(record, indent=2) + "\n")
        (options.out / "learning.md").write_text(page(record))
        draw(record, options.out / "learning.png")
    return 0


def _peers() -> dict[str, str]:
    """The versions of the peers that are installed."""
    found = {}
    for name in ("scikit-learn", "spams-bin"):
        try:
            found[name] = version(name)
        except ImportError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
