"""A zarr store of growing arrays that is whole at every moment.

Chunks are written first, and each file is complete before it gets its name. The consolidated metadata in the root's
zarr.json hold the committed lengths of the arrays. One atomic replacement of that file makes the new chunks visible. If
the process is killed at any point, the last commit stays. The zarr.json of each array holds the length that the run is
planned to reach. So the store also opens without consolidated metadata; entries that are not yet written read as NaN.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from vars_dyn._files import StoreError, Workplace, lock, sync, write_bytes
from vars_dyn.recording.chunks import ENCODING, read_chunk, write_chunk

__all__ = ["Array", "Length", "Writer"]

#: The dimensions along which arrays gain entries during a run, and their lengths: one for all, or one for each.
GROWING = ("time", "spike")
Length = int | Mapping[str, int]


@dataclass(frozen=True)
class Array:
    """An array of a store: its name (with the name of its group), its values, and what they mean.

    A `growing` array gains entries along its first dimension. Its `values` have no entries there, and only tell shape
    and dtype. A `carried` array is one number or text and has no chunk file. Its metadata carry it as the fill value,
    so that a commit changes it together with everything else that readers see.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[np.generic]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    growing: bool = False
    carried: bool = False


class Writer:
    """Writes into a store and commits. It locks the store until it is closed; use it as a context manager."""

    def __init__(self, path: Path, held: int | None) -> None:
        self.path = path
        self._lock = held
        self._unsynced: set[str] = set()
        # The lock keeps other processes from writing the arrays' metadata, so it is enough to read them once.
        self._metadata = {p.parent.relative_to(path).as_posix(): json.loads(p.read_text()) for p in _nodes(path)}
        self.carries = any(is_carried(metadata) for metadata in self._metadata.values())

    @classmethod
    def create(cls, path: Path, arrays: Sequence[Array], *, planned: Length, chunk: Length) -> Self:
        """A new store of `arrays` at `path`, where nothing may be; growing arrays get chunks of `chunk` entries."""
        path.mkdir()
        held = lock(path)
        try:
            group = zarr.create_group(path, zarr_format=3)
            for array in arrays:
                if array.carried:
                    (path / array.name).mkdir()
                    (path / array.name / "zarr.json").write_bytes(_as_bytes(_carrying(array)))
                    continue
                shape = array.values.shape
                first = shape[:1]
                if array.growing:
                    shape = (_along(array.dims[0], planned), *shape[1:])
                    first = (_along(array.dims[0], chunk),)
                text = array.values.dtype.kind in "UOT"
                group.create_array(
                    array.name,
                    shape=shape,
                    chunks=tuple(max(1, n) for n in (*first, *shape[1:])),
                    dtype=str if text else array.values.dtype,
                    fill_value="" if text else _fill(array.values.dtype),
                    dimension_names=array.dims,
                    attributes=dict(array.attributes),
                    **ENCODING,
                )
            writer = cls(path, held)
            for array in arrays:
                if not array.growing and not array.carried:
                    writer.write(array.name, array.values)
        except BaseException:
            if held is not None:
                os.close(held)
            raise
        return writer

    @classmethod
    def open(cls, path: Path, check: Callable[[Path], object]) -> Self:
        """An existing store that `check` finds no fault with; StoreError where another process writes to it."""
        held = lock(path)
        try:
            check(path)
            for folder in [path, *(node.parent for node in _nodes(path))]:
                for leftover in folder.glob("*.partial"):
                    leftover.unlink()
            return cls(path, held)
        except BaseException:
            if held is not None:
                os.close(held)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def publish(self, work: Workplace, permit: Callable[[], int | None]) -> None:
        """Move the store from its workplace to its place.

        `permit` is called just before where something is there. If it gives a lock on that, the store replaces it.
        Raises StoreError where the place is not free.
        """
        try:
            work.publish(permit)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise StoreError(f"{work.target} exists: it was made by another process meanwhile") from None
            raise
        self.path = work.target

    def read(self, name: str) -> NDArray[np.generic]:
        """The values of an array that does not grow."""
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

    def set_planned_length(self, length: Length) -> None:
        """Put the length that the run is planned to reach into the metadata of each growing array."""
        for name, metadata in self._metadata.items():
            if grows(metadata) and metadata["shape"][0] != (own := _along(metadata["dimension_names"][0], length)):
                metadata["shape"][0] = own
                write_bytes(self.path / name / "zarr.json", _as_bytes(metadata))

    def settle(self, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Put the values of carried arrays into the metadata of each, as the last commit put them into the root's."""
        for name, value in values.items():
            if self._metadata[name]["fill_value"] != (fill := as_fill(value)):
                self._metadata[name]["fill_value"] = fill
                write_bytes(self.path / name / "zarr.json", _as_bytes(self._metadata[name]))

    def commit(
        self,
        length: Length,
        attributes: Mapping[str, Any],
        values: Mapping[str, NDArray[np.generic]],
        *,
        without: Iterable[str] = (),
    ) -> None:
        """Make the first `length` entries of growing arrays, the carried `values`, and `attributes` visible to readers.

        The arrays named in `without` stay hidden.
        """
        for name in self._unsynced:
            sync(self.path / name)
        self._unsynced.clear()
        hidden = set(without)
        members = {}
        for name, metadata in self._metadata.items():
            if name == "." or name in hidden:  # "." is the root itself
                continue
            seen = dict(metadata)
            if grows(metadata):
                seen["shape"] = [_along(metadata["dimension_names"][0], length), *metadata["shape"][1:]]
            if name in values:
                seen["fill_value"] = as_fill(values[name])
            if metadata["node_type"] == "group":
                seen["consolidated_metadata"] = _consolidated({})
            members[name] = seen
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": dict(attributes),
            "consolidated_metadata": _consolidated(members),
        }
        write_bytes(self.path / "zarr.json", _as_bytes(root))
        sync(self.path)


def grows(metadata: Mapping[str, Any]) -> bool:
    """Whether an array gains entries during a run."""
    return (metadata.get("dimension_names") or [None])[0] in GROWING


def _along(dimension: str, length: Length) -> int:
    return length if isinstance(length, int) else length[dimension]


def is_carried(metadata: Mapping[str, Any]) -> bool:
    """Whether an array's metadata carry its value. An array with chunk files has a second codec, which compresses."""
    return metadata["node_type"] == "array" and len(metadata["codecs"]) == 1


def as_fill(value: NDArray[np.generic]) -> Any:
    """A number or text as zarr's metadata hold it."""
    plain = value.item()
    if isinstance(plain, float) and plain != plain:
        return "NaN"
    if plain in (float("inf"), float("-inf")):
        return "Infinity" if plain > 0 else "-Infinity"
    return plain


def _carrying(array: Array) -> dict[str, Any]:
    kind = array.values.dtype.kind
    codec = {"name": "vlen-utf8", "configuration": {}} if kind == "U" else {"name": "bytes"}
    return {
        "shape": [],
        "data_type": "string" if kind == "U" else array.values.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": []}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": as_fill(array.values),
        "codecs": [codec if kind in "Ub" else codec | {"configuration": {"endian": "little"}}],
        "attributes": dict(array.attributes),
        "dimension_names": [],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _consolidated(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": dict(members)}


def _nodes(path: Path) -> Iterator[Path]:
    """The zarr.json of every group and array, outermost first."""
    here = path / "zarr.json"
    yield here
    if json.loads(here.read_text())["node_type"] == "group":
        for child in sorted(p for p in path.iterdir() if (p / "zarr.json").is_file()):
            yield from _nodes(child)


def _fill(dtype: np.dtype[Any]) -> Any:
    """The value that readers get for entries that were never written."""
    return np.nan if dtype.kind == "f" else np.array(False if dtype.kind == "b" else -1).astype(dtype)[()]


def _as_bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False).encode()
