"""The store of a training run: one checkpoint file that is whole at every moment, and the results beside it.

A checkpoint holds all that the next step depends on, and the course so far. It is one file, which replaces the one
before in a single renaming, so that a run that is killed goes on from a step that was complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from vars_dyn._files import StoreError, explained, lock, write_bytes
from vars_dyn.learning.learner import Step
from vars_dyn.learning.results import read_tensors
from vars_dyn.recording.provenance import first_difference

__all__ = ["Checkpoint", "Store", "read_checkpoint", "read_facts"]

_FILE = "checkpoint.safetensors"
#: A folder that the running process locks. The store itself is locked for moments while results are put into it.
_RUNNING = ".running"


class Checkpoint(NamedTuple):
    """The learner's state, the steps so far, and the facts of the run."""

    state: dict[str, Tensor]
    steps: list[Step]
    facts: dict[str, Any]


class Store:
    """The folder of a run, held by this process until closed."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._lock: int | None = None
        if resume and not (path / _FILE).is_file():
            raise StoreError(f"{path} holds no checkpoint of a training run; there is nothing to resume")
        if not resume and os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
            raise StoreError(f"{path} exists; resume=True goes on with it, another place starts anew")
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / _RUNNING).mkdir(exist_ok=True)
        self._lock = lock(path / _RUNNING)

    def close(self) -> None:
        """Let other processes write to the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        with suppress(OSError):
            (self.path / _RUNNING).rmdir()

    def write(self, state: Mapping[str, Tensor], steps: Sequence[Step], facts: Mapping[str, Any]) -> None:
        """Make this the checkpoint, in one renaming."""
        table = torch.tensor([tuple(step) for step in steps], dtype=torch.float64).reshape(
            len(steps), len(Step._fields)
        )
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        with explained(self.path):
            write_bytes(self.path / _FILE, save({**tensors, "course": table}, {"facts": json.dumps(facts)}))


def read_checkpoint(path: Path, facts: Mapping[str, Any]) -> Checkpoint:
    """The last checkpoint of the run in a folder; StoreError if it had other settings than `facts`."""
    tensors, old = read_tensors(path / _FILE)
    difference = first_difference(old["settings"], json.loads(json.dumps(facts)))
    if difference is not None:
        name, before, now = difference
        raise StoreError(f"{path} cannot be resumed with another {name}: it has {before}, this run has {now}")
    table = tensors.pop("course")
    steps = [Step._make([*row[:-2], int(row[-2]), int(row[-1])]) for row in table.tolist()]
    return Checkpoint(tensors, steps, old)


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the checkpoint of a run; StoreError where there is none."""
    if not (path / _FILE).is_file():
        raise StoreError(f"{path} holds no checkpoint of a training run; there is nothing to resume")
    return read_tensors(path / _FILE)[1]
