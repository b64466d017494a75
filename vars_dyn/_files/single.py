"""Single files in folders that are this process's own: each appears whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["open_new", "sync", "write_bytes"]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file. At every moment the old or the new one is there and whole. The new one is on the disk at the end.

    The folder must be the caller's own, since a file that is named as the unfinished one, path.partial, is removed.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(open_new(partial), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def open_new(path: Path) -> int:
    """A descriptor of a new file, which this call makes. It never follows a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
