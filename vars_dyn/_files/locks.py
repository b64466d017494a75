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
except ImportError:  # Windows has no flock: nothing keeps two runs from writing to one store there.
    fcntl = None  # type: ignore[assignment]

__all__ = ["guarded", "lock"]

_PATIENCE = 20.0  # seconds; others hold the lock of a folder for moments only


def lock(folder: Path) -> int | None:
    """A lock on a folder; StoreError where another process holds it. None where the system has no locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, now = os.fstat(descriptor), folder.stat()
        if (found.st_dev, found.st_ino) != (now.st_dev, now.st_ino):
            raise BlockingIOError  # another folder took its place meanwhile
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise StoreError(f"{folder} is being written by another process") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Let only one of our processes at a time add, move or remove what is in `folder`."""
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
