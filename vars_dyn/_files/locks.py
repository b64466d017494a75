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
except ImportError:  # Windows has no flock, so nothing there keeps two runs from writing to one store.
    fcntl = None  # type: ignore[assignment]

__all__ = ["guarded", "lock"]

_PATIENCE = 20.0  # seconds; other processes hold the lock of a folder only for moments


def lock(folder: Path) -> int | None:
    """Lock a folder; StoreError if another process holds the lock. None if the system has no locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, now = os.fstat(descriptor), folder.stat()
        if (found.st_dev, found.st_ino) != (now.st_dev, now.st_ino):
            raise BlockingIOError  # another folder has taken its place meanwhile
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise StoreError(f"{folder} is being written by another process") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Let only one process of this package at a time add, move or remove things in `folder`."""
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
