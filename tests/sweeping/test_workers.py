"""Sweeps on worker processes: the same results, whatever is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import vars_dyn as vd
from tests.sweeping.members import deadly, lasting, settling
from vars_dyn._files import StoreError
from vars_dyn.sweeping import clusters, open_sweep
from vars_dyn.sweeping.clusters import jobqueue_cluster

pytest.importorskip("distributed", reason="the extra cluster is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*loop.*")

ROOT = str(Path(__file__).parents[2])


@contextmanager
def killing(notes: Path, kills: int, seed: int, within: float = 0.4) -> Iterator[list[int]]:
    """Meanwhile send SIGKILL to `kills` processes, each at most `within` seconds after it has begun a member."""
    killed: list[int] = []
    ended = threading.Event()
    draw = random.Random(seed)

    def run() -> None:
        while len(killed) < kills and not ended.is_set():
            latest = max(notes.iterdir(), key=lambda note: int(note.name.split(".")[1]), default=None)
            pid = None if latest is None else int(latest.name.split(".")[2])
            if pid is None or pid in killed or pid == os.getpid():
                time.sleep(0.01)
                continue
            time.sleep(draw.uniform(0, within))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def test_workers_give_the_bits_of_one_process(tmp_path: Path) -> None:
    design = {"lam": [0.1, 0.3, -1.0], "seed": list(range(8))}
    ragged = {"step": np.arange(4)}
    serial = vd.sweep(settling, design, tmp_path / "serial.zarr", ragged=ragged)
    parallel = vd.sweep(settling, design, tmp_path / "parallel.zarr", workers=2, ragged=ragged, block=2)
    for name in ("code", "gap", "course", "step_length", "status", "error", "lam", "seed"):
        assert serial[name].values.tobytes() == parallel[name].values.tobytes() or (
            serial[name].values.tolist() == parallel[name].values.tolist()
        ), name
    assert serial["status"].values.tolist() == [1] * 16 + [2] * 8


def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    with killing(notes, 3, seed=0) as killed:
        found = vd.sweep(
            lasting,
            {"number": list(range(24))},
            tmp_path / "s.zarr",
            workers=2,
            fixed={"folder": str(notes)},
            retries=10,
            block=3,
        )
    assert len(killed) == 3
    assert found["status"].values.tolist() == [1] * 24
    assert found["value"].values.tolist() == list(range(24))
    assert not (tmp_path / "s.zarr.members").exists()


def test_a_member_that_kills_its_worker_is_given_up_and_the_rest_goes_on(tmp_path: Path) -> None:
    found = vd.sweep(
        deadly,
        {"number": [0, 1, 2, 3, 4, 5]},
        tmp_path / "s.zarr",
        workers=1,
        fixed={"folder": str(tmp_path)},
        retries=0,
        block=3,
    )
    assert found["status"].values.tolist() == [1, 1, 2, 1, 1, 1]
    assert found["attempts"].values[2] == 1
    assert "its process ended 1 times" in str(found["error"].values[2])


def test_the_scheduler_is_killed_and_the_sweep_resumes(tmp_path: Path) -> None:
    """A scheduler and a worker of their own, as on a cluster; killed together while members run."""
    notes, store = tmp_path / "notes", tmp_path / "s.zarr"
    notes.mkdir()
    environment = {**os.environ, "PYTHONPATH": ROOT}
    told = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "cwd": tmp_path}
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--scheduler-file", str(told),
         "--host", "127.0.0.1", "--no-dashboard"], **quiet)  # fmt: skip
    worker = None
    try:
        while not told.exists():
            assert scheduler.poll() is None
            time.sleep(0.05)
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(told), "--nthreads", "1",
             "--no-nanny", "--no-dashboard", "--death-timeout", "60"], **quiet)  # fmt: skip
        # The scheduler imports torch when the first task comes. It does not answer for seconds, and a worker must wait.
        address = json.loads(told.read_text())["address"]

        def kill() -> None:
            while len(list(notes.iterdir())) < 4:
                time.sleep(0.02)
            scheduler.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        arguments = {"fixed": {"folder": str(notes), "seconds": 0.1}, "block": 2}
        design = {"number": list(range(16))}
        with pytest.raises(StoreError, match="scheduler is gone"):
            vd.sweep(lasting, design, store, scheduler=address, **arguments)
        thread.join()
    finally:
        for process in (scheduler, worker):
            if process is not None:
                process.kill()
                process.wait()
    done = open_sweep(store)["status"].values == 1
    assert 1 <= done.sum() < 16
    for note in notes.iterdir():
        note.unlink()
    found = vd.sweep(lasting, design, store, resume=True, **arguments)
    assert found["value"].values.tolist() == list(range(16))
    again = {int(note.name[:4]) for note in notes.iterdir()}
    assert not again & set(np.flatnonzero(done).tolist())


def test_there_is_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_CONNECT", "1s")
    with pytest.raises(ValueError, match="no Dask scheduler answers"):
        vd.sweep(lasting, {"number": [0]}, tmp_path / "s.zarr", scheduler="tcp://127.0.0.1:9", fixed={"folder": "."})


def test_a_batch_system_is_asked_as_its_file_says(tmp_path: Path) -> None:
    """There is no batch system here. The script that would be submitted says what is asked for."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed")
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "jobqueue:\n  slurm:\n    cores: 8\n    processes: 4\n    memory: 32GB\n    walltime: '02:00:00'\n"
        "    queue: short\n    job-extra-directives: ['--gres=gpu:1']\n"
    )
    with jobqueue_cluster(file) as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -p short", "#SBATCH --cpus-per-task=8", "--mem=30G", "-t 02:00:00", "--gres=gpu:1"):
        assert line in script
    assert "--nworkers 4" in script
    for text, words in (
        ("jobqueue: {slurm: {cores: 1}}", "lacks cores or memory"),
        ("jobqueue: {slurm: {cores: 1, memory: 1GB}, pbs: {}}", "slurm, pbs"),
        ("jobqueue: {magic: {}}", "magic"),
        ("jobqueue: {slurm: {cores: 1, memory: 1GB, colour: red}}", "colour"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            jobqueue_cluster(file)


def test_an_interrupt_stays_one_past_the_import_of_a_batch_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dask-jobqueue sets a handler of its own while it is imported, by which Ctrl-C ends the process at once."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed")
    for name in [name for name in sys.modules if name.partition(".")[0] == "dask_jobqueue"]:
        monkeypatch.delitem(sys.modules, name)
    before = signal.getsignal(signal.SIGINT)
    file = tmp_path / "cluster.yaml"
    file.write_text("jobqueue: {slurm: {cores: 1, memory: 1GB}}")
    try:
        with jobqueue_cluster(file):
            assert "dask_jobqueue.runner" in sys.modules
            assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)
