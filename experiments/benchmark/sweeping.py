"""How well a sweep uses workers: `python -m experiments.benchmark.sweeping [--members N] [--seconds S] [--workers N]`.

With `--waiting SHARE`, each member sleeps for that share of its time. So a busy machine, or one with fewer cores than
workers, still shows what the sweep itself costs, but not how well the workers use the cores.

Runs the same members, each of about a second of work on one thread, in one process and on local worker processes.
Compares the results bit for bit, and prints the efficiency, which is serial time / (workers x wall time), as JSON. The
time of the workers includes their start. The load of the machine before each run is part of the result, because a busy
machine measures something else.

Two cores that share arithmetic units or memory are not twice as fast as one. So the same members also run in bare
processes side by side, without a sweep: `machine` is the efficiency that the machine leaves, and
`efficiency / machine` is what the sweep makes of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import torch

import vars_dyn as vd
from experiments.benchmark.machine import machine

__all__ = ["main", "member"]


def member(seed: int, products: int, sleep: float) -> dict[str, Any]:
    """Multiply matrices, a fixed number of times, and sleep: work whose time depends on the machine alone."""
    time.sleep(sleep)
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(256, 256, generator=generator, dtype=torch.float64) / 16
    x = matrix
    for _ in range(products):
        x = torch.tanh(x @ matrix)
    return {"mean": x.mean(), "row": x[0]}


def _bare(ready: Barrier, done: Barrier, seeds: range, products: int, sleep: float) -> None:
    """Run members in this process, between two barriers that keep the start of processes out of the time."""
    torch.set_num_threads(1)
    member(seeds.start, 1, 0.0)
    ready.wait()
    for seed in seeds:
        member(seed, products, sleep)
    done.wait()


def side_by_side(processes: int, members: int, products: int, sleep: float) -> float:
    """Seconds that bare processes take, side by side, for so many members each."""
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Barrier(processes + 1), spawn.Barrier(processes + 1)
    running = [
        spawn.Process(target=_bare, args=(ready, done, range(i * members, (i + 1) * members), products, sleep))
        for i in range(processes)
    ]
    for each in running:
        each.start()
    ready.wait()
    start = time.perf_counter()
    done.wait()
    spent = time.perf_counter() - start
    for each in running:
        each.join()
    return spent


def main() -> int:
    """Measure, and return the exit status, which is 1 if results differ."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.sweeping", allow_abbrev=False)
    parser.add_argument("--members", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one member, about")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--waiting", type=float, default=0.0, help="share of a member's time that it sleeps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    member(0, 20, 0.0)
    computing = options.seconds * (1 - options.waiting)
    products = max(1, round(20 * computing / (time.process_time() - began)))
    fixed = {"products": products, "sleep": options.seconds * options.waiting}
    design = {"seed": list(range(options.members))}
    found, spent, load = {}, {}, {}
    # Enough members to last some seconds, whatever their number in the sweep.
    few = max(1, min(10, options.members // options.workers))
    alone = side_by_side(1, few, products, fixed["sleep"])
    together = side_by_side(options.workers, few, products, fixed["sleep"])
    left = alone / together
    with tempfile.TemporaryDirectory() as folder:
        for workers in (0, options.workers):
            load[workers] = os.getloadavg()[0]
            start = time.perf_counter()
            dataset = vd.sweep(member, design, Path(folder) / f"{workers}.zarr", workers=workers, fixed=fixed)
            spent[workers] = time.perf_counter() - start
            found[workers] = dataset[["mean", "row"]].load()
    same = all(
        found[0][name].values.tobytes() == found[options.workers][name].values.tobytes() for name in ("mean", "row")
    )
    efficiency = spent[0] / (options.workers * spent[options.workers])
    result = {
        "members": options.members,
        "workers": options.workers,
        "share_waiting": options.waiting,
        "seconds_serial": spent[0],
        "seconds_workers": spent[options.workers],
        "efficiency": efficiency,
        "machine": left,
        "efficiency / machine": efficiency / left,
        "same_bits": same,
        "load_before": list(load.values()),
        **machine("cpu"),
    }
    print(json.dumps(result, indent=1))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
