"""Peak memory of recording a run, at n and at ten times n recorded time points.

`python -m experiments.benchmark.recording_memory [--points N]` records the same field over the same simulated time, at
N and at 10 N points. Each runs in a process of its own, and so does one that only imports. The command prints the peak
resident memory of all three, and by how much ten times the points raise it. `--json` prints one JSON object as the last
line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import vars_dyn as vd
from experiments.benchmark.machine import peak_bytes
from vars_dyn.recording.record import record

#: Signals, neurons and atoms: a state of 64 x (256 + 512) numbers, .4 MB a time point.
SIGNALS, NEURONS, ATOMS = 64, 256, 512
T_MAX = 20.0


def field() -> vd.SparseRecurrent:
    """The field that is recorded."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(NEURONS, ATOMS, generator=generator, dtype=torch.float64)
    x = torch.randn(SIGNALS, NEURONS, generator=generator, dtype=torch.float64)
    return vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, lam=1.0)


def measure(points: int) -> dict[str, float]:
    """Record `points` time points (0: only import and build the field) and return this process's peak memory."""
    began, made = time.perf_counter(), field()
    if points:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "run.zarr"
            times = torch.linspace(0.0, T_MAX, points, dtype=torch.float64)
            recorded = record(made, store, times, rtol=1e-4).sizes["time"]
            if recorded != points:
                raise RuntimeError(f"{recorded} of {points} points were recorded")
    return {"points": points, "peak_mib": peak_bytes() / 2**20, "seconds": time.perf_counter() - began}


def measured_apart(points: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "experiments.benchmark.recording_memory", "--measure", str(points)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=200, help="the smaller number of recorded time points")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return
    none, few, many = (measured_apart(n) for n in (0, arguments.points, 10 * arguments.points))
    for found in (none, few, many):
        print(f"{found['points']:6.0f} points: {found['peak_mib']:7.1f} MiB at peak, {found['seconds']:.1f} s")
    rise = many["peak_mib"] / few["peak_mib"] - 1
    state = many["points"] * SIGNALS * (NEURONS + ATOMS) * 8 / (1 << 20)
    print(f"ten times the points raise peak memory by {100 * rise:.1f} %; their states alone take {state:.0f} MiB")
    if arguments.json:
        print(json.dumps({"import": none, "few": few, "many": many, "rise": rise}))


if __name__ == "__main__":
    main()
