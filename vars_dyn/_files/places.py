"""Check where files may be written, and explain why a file cannot be written."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["StoreError", "check_place", "explained"]


class StoreError(ValueError):
    """A store or file that cannot be made, opened, resumed or written; the message is one sentence."""


def check_place(name: str, path: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise StoreError if `path` is a symbolic link, lies inside a zarr store, or would replace an input."""
    if path.is_symlink():
        raise StoreError(f"{name} is {path}, a symbolic link; the place itself is wanted")
    place = path.resolve()
    for above in place.parents:
        if any((above / file).is_file() for file in ("zarr.json", ".zgroup", ".zarray")):
            raise StoreError(f"{name} is {path}, inside the zarr store {above}; a place outside of stores is wanted")
    for file in inputs:
        source = file.resolve()
        if source == place or place in source.parents:
            raise StoreError(f"{name} is {path}, where the input {file} is; another place is wanted")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a StoreError of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; what was committed before stays whole"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"no permission to write to {error.filename or path.parent}"
        else:
            reason = error.strerror or str(error)
        raise StoreError(f"{path} cannot be written: {reason}") from error
