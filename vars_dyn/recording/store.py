"""A zarr store of growing arrays that is whole at every moment.

Chunks are written first, each file complete before it gets its name. What was written becomes visible by one atomic
replacement of the root's zarr.json, whose consolidated metadata holds the arrays' committed lengths. A process that is
killed anywhere leaves the last commit. The arrays' own zarr.json hold the length that the run is planned to reach, so
the store also opens without consolidated metadata; what is not yet written reads as NaN there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from vars_dyn.recording.chunks import ENCODING, read_chunk, write_chunk, write_file

try:
    import fcntl
except ImportError:  # Windows has no flock; there two runs on one store are not told apart.
    fcntl = None  # type: ignore[assignment]

__all__ = ["Array", "StoreError", "Writer", "is_store", "read_attributes", "tidy"]

#: The attribute by which a store is known to be one of ours, and may be overwritten.
MARK = "vars_dyn_version"


class StoreError(ValueError):
    """A store that cannot be created, opened, resumed or written; the message is one sentence."""


@dataclass(frozen=True)
class Array:
    """An array of a store: its name (with its group's), what it holds, and what it means.

    `growing` arrays gain entries along their first dimension; `values` is empty in it, giving shape and dtype only.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[np.generic]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    growing: bool = False


class Writer:
    """Writes into a store and commits. Holds a lock on it until closed; use as a context manager."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock = lock
        self._unsynced: set[str] = set()
        # A run writes its arrays' own metadata, and only it does: what they hold is read once.
        self._metadata = {p.parent.relative_to(path).as_posix(): json.loads(p.read_text()) for p in _nodes(path)}

    @classmethod
    def create(
        cls, path: Path, arrays: Sequence[Array], attributes: Mapping[str, Any], *, planned: int, chunk: int
    ) -> Self:
        """A new store of `arrays` at `path`, where nothing may be; growing arrays get chunks of `chunk` entries."""
        path.mkdir()
        group = zarr.create_group(path, zarr_format=3, attributes=dict(attributes))
        for array in arrays:
            shape = (planned, *array.values.shape[1:]) if array.growing else array.values.shape
            group.create_array(
                array.name,
                shape=shape,
                chunks=tuple(max(1, n) for n in ((chunk, *shape[1:]) if array.growing else shape)),
                dtype=array.values.dtype,
                fill_value=_fill(array.values.dtype),
                dimension_names=array.dims,
                attributes=dict(array.attributes),
                **ENCODING,
            )
        writer = cls(path, _lock(path))
        for array in arrays:
            if not array.growing:
                writer.write(array.name, array.values)
        return writer

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing store; StoreError where it is none or another process writes to it."""
        if not is_store(path):
            raise StoreError(f"{path} is no store that a simulation wrote; there is nothing to resume")
        lock = _lock(path)
        for leftover in path.rglob("*.partial"):
            leftover.unlink()
        return cls(path, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def publish(self, path: Path, *, overwrite: bool) -> None:
        """Move the store to `path`, in the place of another of ours if `overwrite`; StoreError if something is there.

        Killed between its two renamings, overwriting leaves the old store under a hidden name, which `tidy` gives back.
        """
        old = None
        if overwrite and is_store(path):
            with _held(path):
                old = path.with_name(f".{path.name}.{os.getpid()}.old")
                path.rename(old)
        try:
            self.path.rename(path)
        except OSError as error:
            if old is not None:
                old.rename(path)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise exists(path) from None
            raise
        if old is not None:
            shutil.rmtree(old)
        self.path = path
        _sync(path.parent)

    def read(self, name: str) -> NDArray[np.generic]:
        """What an array that does not grow holds."""
        return read_chunk(self.path / name, self._metadata[name], 0)

    def write(self, name: str, values: NDArray[np.generic], start: int = 0) -> None:
        """Write `values` into an array, from entry `start` of its first dimension on."""
        folder, metadata = self.path / name, self._metadata[name]
        self._unsynced.add(name)
        if not metadata["shape"]:
            write_chunk(folder, metadata, 0, values, 0)
            return
        size, done = metadata["chunk_grid"]["configuration"]["chunk_shape"][0], 0
        while done < len(values):
            number, inside = divmod(start + done, size)
            piece = values[done : done + size - inside]
            write_chunk(folder, metadata, number, piece, inside)
            done += len(piece)

    def plan(self, length: int) -> None:
        """Set the length that growing arrays have in their own metadata."""
        for name, metadata in self._metadata.items():
            if _grows(metadata) and metadata["shape"][0] != length:
                metadata["shape"][0] = length
                write_file(self.path / name / "zarr.json", _as_bytes(metadata))

    def commit(self, length: int, attributes: Mapping[str, Any], *, without: Iterable[str] = ()) -> None:
        """Make the first `length` entries of growing arrays, and `attributes`, what the store is seen to hold.

        Arrays `without` are left out of what is seen.
        """
        for name in self._unsynced:
            _sync(self.path / name)
        self._unsynced.clear()
        hidden = set(without)
        members = {}
        for name, metadata in self._metadata.items():
            if name == "." or name in hidden:  # "." is the root itself
                continue
            seen = dict(metadata)
            if _grows(metadata):
                seen["shape"] = [length, *metadata["shape"][1:]]
            if metadata["node_type"] == "group":
                seen["consolidated_metadata"] = _consolidated({})
            members[name] = seen
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": dict(attributes),
            "consolidated_metadata": _consolidated(members),
        }
        write_file(self.path / "zarr.json", _as_bytes(root))
        _sync(self.path)


def tidy(path: Path) -> None:
    """Remove what killed processes left beside the store `path`; give back a store that one was about to replace."""
    for leftover in path.parent.glob(f".{path.name}.*.*"):
        if leftover.suffix not in (".new", ".old") or not leftover.is_dir():
            continue
        try:
            with _held(leftover):
                if leftover.suffix == ".old" and not path.exists():
                    leftover.rename(path)
                else:
                    shutil.rmtree(leftover)
        except (StoreError, OSError):
            continue


def is_store(path: Path) -> bool:
    """Whether `path` is a store that `Writer` made."""
    return MARK in read_attributes(path)


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of the store at `path` at its last commit; empty where it is none."""
    try:
        return dict(json.loads((path / "zarr.json").read_text()).get("attributes", {}))
    except (OSError, ValueError, AttributeError):
        return {}


def exists(path: Path) -> StoreError:
    """The error for something that is in a new store's way."""
    what = (
        "a simulation's store"
        if is_store(path)
        else "something that is no simulation's store, and is never overwritten,"
    )
    return StoreError(f"{path} exists: {what} is there; choose another place, or overwrite or resume a store")


def _grows(metadata: Mapping[str, Any]) -> bool:
    return (metadata.get("dimension_names") or [None])[0] == "time"


def _consolidated(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": dict(members)}


def _nodes(path: Path) -> Iterator[Path]:
    """The zarr.json of every group and array, outermost first; chunk folders are not walked."""
    here = path / "zarr.json"
    yield here
    if json.loads(here.read_text())["node_type"] == "group":
        for child in sorted(p for p in path.iterdir() if (p / "zarr.json").is_file()):
            yield from _nodes(child)


def _fill(dtype: np.dtype[Any]) -> Any:
    """The value of what was never written."""
    return np.nan if dtype.kind == "f" else np.array(False if dtype.kind == "b" else -1).astype(dtype)[()]


def _as_bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _sync(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """A lock on a folder that ends with the process; StoreError where another holds it."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(f"{path} is being written by another process") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _held(path: Path) -> Iterator[None]:
    lock = _lock(path)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)
