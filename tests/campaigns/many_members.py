"""Ten thousand tiny members: does the store open at once, and does the client's memory stay flat?

    python -m tests.campaigns.many_members [--members N] [--workers N]

Prints one line of JSON: the seconds of the sweep and of opening the store, and the resident memory of this process
after a tenth of the members and at the end. The exit status is 1 if a value is wrong, if opening takes 2 s or more, or
if memory grew by more than 32 MB in between.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import vars_dyn as vd
from experiments.benchmark.machine import resident_bytes
from vars_dyn._files import StoreError
from vars_dyn.sweeping import open_sweep


def tiny(number: int) -> float:
    """A member that takes no time."""
    return number / 3


def main() -> int:
    """Run the campaign and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.many_members")
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    early, ended = [], threading.Event()

    def watch(store: Path) -> None:
        while not ended.wait(0.5) and not early:
            try:
                done = int((open_sweep(store)["status"].values == 1).sum())
            except StoreError:
                continue
            if done > options.members / 10:
                early.append(resident_bytes())

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "s.zarr"
        watcher = threading.Thread(target=watch, args=(store,))
        watcher.start()
        began = time.perf_counter()
        try:
            vd.sweep(tiny, {"number": list(range(options.members))}, store, workers=options.workers)
        finally:
            ended.set()
            watcher.join()
        swept, late = time.perf_counter() - began, resident_bytes()
        began = time.perf_counter()
        found = open_sweep(store)
        opened = time.perf_counter() - began
        right = bool((found["value"].values == np.arange(options.members) / 3).all())
    grown = late - early[0] if early else None
    numbers = {"members": options.members, "workers": options.workers, "seconds": swept, "seconds_open": opened}
    print(json.dumps({**numbers, "resident_bytes": late, "grown_bytes": grown, "right": right}))
    return 0 if right and opened < 2 and (grown is None or grown < 32 * 10**6) else 1


if __name__ == "__main__":
    raise SystemExit(main())
