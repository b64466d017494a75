"""Guards of a training run: against another run in its folder, a device that is not there, and a full disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError

from vars_dyn import _files

__all__ = ["alone", "there_is", "told"]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder's checkpoints, because two runs would remove each other's. The lock ends with the process."""
    if any(int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "NODE_RANK")):
        yield  # the first process of the run holds the lock for all
        return
    made = [path for path in (folder / "checkpoints", folder, *folder.parents) if not path.exists()]
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    try:
        held = _files.lock(folder / "checkpoints")
    except _files.StoreError:
        raise ValueError(f"another process trains into {folder}; wait for its end, or give another --out") from None
    try:
        yield
    finally:
        for path in made:  # a run that made nothing leaves no empty folder
            with suppress(OSError):
                path.rmdir()
        if held is not None:
            os.close(held)


def there_is(accelerator: str) -> None:
    """Raise ValueError for an accelerator that this machine does not have."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"cuda": cuda, "gpu": cuda or mps, "mps": mps, "tpu": False}
    if not there.get(accelerator, True):
        raise ValueError(f"accelerator is {accelerator!r}, which this machine does not have; auto or cpu is wanted")


@contextmanager
def told(checkpoint: Path, folder: Path) -> Iterator[None]:
    """Say in the message which checkpoint stays if a file cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = getattr(error, "strerror", None) or " ".join(str(error).split())
        where = getattr(error, "filename", None) or folder
        raise ValueError(
            f"{where} cannot be written ({what}); the last whole checkpoint is "
            f"{checkpoint if checkpoint != folder else 'none'}; once there is room, --resume goes on from there"
        ) from None
