"""Kill the workers of sweeps at random moments, and compare what is left with a sweep that nobody disturbed.

    python -m tests.campaigns.sweeps [--kills N] [--members N] [--seconds S] [--seed S] [--s3]

Sends SIGKILL to worker processes until there were `--kills` of them, over as many sweeps as it takes. Every member
notes when it begins. Afterwards each sweep must be complete, with the value of every member. A member that the store
called done must not have been begun again. Prints one line of counts as JSON; the exit status is 1 after any fault.
With `--s3` the sweeps write to an S3 server of this machine, which needs s3fs and `moto[server]`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

import vars_dyn as vd
from tests.sweeping.members import lasting
from tests.sweeping.servers import s3_bucket
from tests.sweeping.test_workers import killing
from vars_dyn._files import StoreError
from vars_dyn.sweeping import open_sweep


def watch(store: str, notes: Path, ended: threading.Event, faults: list[str]) -> None:
    """Read the store all the while: what is done stays done, with its value, and is not begun after that."""
    known: dict[int, int] = {}
    while not ended.wait(0.2):
        now = time.monotonic_ns()
        try:
            found = open_sweep(store)
        except StoreError:
            continue  # not yet laid out
        done = set(np.flatnonzero(found["status"].values == 1).tolist())
        values = found["value"].values
        faults += [f"member {m} was done, and is no more" for m in known if m not in done]
        faults += [f"member {m} is done with the value {values[m]}" for m in done if values[m] != m]
        known |= {m: now for m in done if m not in known}
    for note in notes.iterdir():
        member, began = (int(part) for part in note.name.split(".")[:2])
        if member in known and began > known[member] + int(1e9):
            faults.append(f"member {member} was begun again {(began - known[member]) / 1e9:.2f} s after it was done")


def main() -> int:
    """Read the options, run the campaign, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.sweeps")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--members", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    with s3_bucket() if options.s3 else nullcontext() as bucket:
        return campaign(options, bucket)


def campaign(options: argparse.Namespace, bucket: str | None) -> int:
    """Run sweeps into folders, or into a bucket."""
    killed, sweeps, faults = 0, 0, []
    while killed < options.kills and not faults:
        with tempfile.TemporaryDirectory() as folder:
            notes, ended = Path(folder) / "notes", threading.Event()
            store = f"{bucket or folder}/{sweeps}.zarr"
            notes.mkdir()
            watcher = threading.Thread(target=watch, args=(store, notes, ended, faults))
            watcher.start()
            try:
                left, seed = options.kills - killed, options.seed + sweeps
                with killing(notes, left, seed, within=3 * options.seconds) as gone:
                    found = vd.sweep(
                        lasting,
                        {"number": list(range(options.members))},
                        store,
                        workers=2,
                        fixed={"folder": str(notes), "seconds": options.seconds},
                        retries=options.kills,
                        block=1 + 3 * (sweeps % 2),
                    )
            finally:
                ended.set()
                watcher.join()
            killed, sweeps = killed + len(gone), sweeps + 1
            if found["value"].values.tolist() != list(range(options.members)):
                faults.append(f"sweep {sweeps} ended with {found['value'].values.tolist()}")
            if not (found["status"].values == 1).all():
                faults.append(f"sweep {sweeps} ended with states {found['status'].values.tolist()}")
        print(f"{killed} kills in {sweeps} sweeps", file=sys.stderr, flush=True)
    print(json.dumps({"kills": killed, "sweeps": sweeps, "members": options.members, "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
