"""Locks on folders, which end with the process that holds them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vars_dyn._files.places import StoreError

try:
    import fcntl
except ImportError:  # Windows has no flock; there two runs on one store are not told apart.
    fcntl = None  # type: ignore[assignment]

__all__ = ["guarded", "lock"]

_PATIENCE = 20.0  # seconds; others hold the lock of a folder for moments only


def lock(folder: Path) -> int | None:
    """A lock on a folder that ends with the process; StoreError where another holds it. None where there are none."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, now = os.fstat(descriptor), folder.stat()
        if (found.st_dev, found.st_ino) != (now.st_dev, now.st_ino):
            raise BlockingIOError  # another took its place meanwhile
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise StoreError(f"{folder} is being written by another process") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Among processes of ours, only one at a time adds, moves or removes what is in `folder`."""
    if fcntl is None:
        yield
        return
    descriptor, end = os.open(folder, os.O_RDONLY), time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StoreError(f"{folder} has been locked by another process for {_PATIENCE:g} s") from None
                time.sleep(0.005)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)
