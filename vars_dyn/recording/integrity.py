"""Check whether a folder is a store that a simulation wrote, and whether its files are still as they were written.

A store states most things twice. The root's consolidated metadata repeat those of each array, and variables repeat the
text of the provenance. A difference between the two reveals damage or an edit. The files of a store may come from
anyone. So nothing is allocated, loaded or run for them before they are known to have the form that
`vars_dyn.recording.store` writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vars_dyn._files import StoreError
from vars_dyn.recording.chunks import check_chunk
from vars_dyn.recording.json_facts import Facts, from_text
from vars_dyn.recording.scalars import MARK, as_values
from vars_dyn.recording.store import as_fill, grows, is_carried

__all__ = ["Contents", "check_replaceable", "contents", "exists", "is_empty_folder", "is_store", "read_attributes"]

_LARGEST_FILE, _MOST_MEMBERS = 1 << 26, 4096
_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "float32", "float64")
_FACTS: dict[str, type | tuple[type, ...]] = {
    MARK: str,
    "status": str,
    "equilibrium": bool,
    "t_end": (int, float),
    "t_max": (int, float),
    "times": int,
    "wall_seconds": (int, float),
    "evaluations": int,
    "accepted": int,
    "rejected": int,
    "snapshot_slot": int,
    "snapshot_index": int,
    "snapshot_times_sha256": str,
    "variables": list,
    "signal_shape": list,
    "code_shape": list,
}


class Contents(NamedTuple):
    """What a store holds at its last commit: the arrays' metadata by name, as readers see them, and the run's facts."""

    arrays: dict[str, dict[str, Any]]
    facts: Facts


def is_store(path: Path) -> bool:
    """Whether `path` is a store that `record` made, damaged or not."""
    found = read_attributes(path)
    return MARK in found and "snapshot_index" in found and not path.is_symlink()


def read_attributes(path: Path) -> Facts:
    """The facts of the run whose store is at `path`, at its last commit; empty if there is no store."""
    try:
        return _facts(_load(path / "zarr.json"))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def contents(path: Path) -> Contents:
    """What the store at `path` holds; StoreError if there is no store, or a damaged one."""
    if not path.is_symlink() and not path.exists():
        raise StoreError(f"{path} does not exist; there is no store")
    if not is_store(path):
        raise StoreError(f"{path} is no store that a simulation wrote")
    try:
        root = _load(path / "zarr.json")
        return _checked(path, root)
    except StoreError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise _damaged(path, " ".join(str(error).split()) or type(error).__name__) from error


def check_replaceable(path: Path) -> None:
    """Raise StoreError unless `path` is an empty folder, or a store that `record` made with nothing else in it."""
    if is_empty_folder(path):
        return
    if not is_store(path):
        raise exists(path)
    if (foreign := _foreign(path)) is not None:
        raise StoreError(f"{path} is not overwritten: it holds {foreign}, which no simulation put there")


def is_empty_folder(path: Path) -> bool:
    """Whether `path` is a folder, not a link to one, with nothing in it."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def exists(path: Path) -> StoreError:
    """The error that is raised if the place of a new store is taken."""
    what = (
        "a simulation's store"
        if is_store(path)
        else "something that is no simulation's store, and is never overwritten,"
    )
    return StoreError(f"{path} exists: {what} is there; choose another place, or overwrite or resume a store")


def _foreign(folder: Path) -> str | None:
    """The first file or folder found below a group's or array's folder that does not belong to it; None if all do."""
    is_group = json.loads((folder / "zarr.json").read_text()).get("node_type") == "group"
    for entry in list(os.scandir(folder)):  # the list exhausts the iterator, which closes the folder
        if entry.is_symlink():
            return entry.path
        if entry.is_dir():
            inside = Path(entry.path)
            if not is_group or not (inside / "zarr.json").is_file():
                return entry.path
            if (found := _foreign(inside)) is not None:
                return found
        elif entry.name.removesuffix(".partial") != "zarr.json" and (is_group or not _is_chunk(entry.name)):
            return entry.path
    return None


def _is_chunk(name: str) -> bool:
    head, *numbers = name.removesuffix(".partial").split(".")
    return head == "c" and all(number.isdecimal() for number in numbers)


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is damaged: {reason}")


def _load(path: Path) -> dict[str, Any]:
    """The contents of a metadata file; OSError or ValueError if it is none, or too large for one of ours."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path} is no file of metadata")
    try:
        found = json.loads(path.read_text())
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def _facts(root: Mapping[str, Any]) -> Facts:
    carried = root.get("consolidated_metadata", {}).get("metadata", {}).get("provenance")
    return dict(root.get("attributes", {})) if carried is None else from_text(carried["fill_value"])


def _checked(path: Path, root: dict[str, Any]) -> Contents:
    members = root["consolidated_metadata"]["metadata"]
    if root["node_type"] != "group" or root["zarr_format"] != 3 or len(members) > _MOST_MEMBERS:
        raise _damaged(path, "its zarr.json is not one that a simulation wrote")
    if not isinstance(root["attributes"], dict):
        raise _damaged(path, "its attributes are no JSON object")
    facts = _facts(root)
    for name, kind in _FACTS.items():
        if not isinstance(facts.get(name), kind) or (kind is int and isinstance(facts[name], bool)):
            raise _damaged(path, f"it has {facts.get(name)!r} as its {name}")
    if facts["snapshot_slot"] not in (0, 1) or facts["snapshot_index"] < 0:
        raise _damaged(path, "it has no snapshot to go on from")
    arrays = {}
    for name, seen in members.items():
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            raise _damaged(path, f"it names an array {name!r}")
        folder = path
        for part in parts:
            folder = folder / part
            if folder.is_symlink():
                raise _damaged(path, f"{folder} is a symbolic link")
        if not (folder / "zarr.json").is_file():
            raise _damaged(path, f"the array {name} is missing")
        own = _load(folder / "zarr.json")
        if own.get("node_type") == "group" == seen.get("node_type"):
            continue
        _check_array(path, name, own)
        _check_twin(path, name, own, seen)
        arrays[name] = seen
    _check_dimensions(path, arrays)
    _check_carried(path, arrays, facts)
    for name in (
        "time",
        *facts["variables"],
        "signals",
        *(f"snapshot/{facts['snapshot_slot']}/{k}" for k in _SNAPSHOT),
    ):
        if name not in arrays:
            raise _damaged(path, f"the array {name} is missing")
    for name, metadata in arrays.items():
        if not is_carried(metadata):
            _check_chunks(path, name, metadata)
    return Contents(arrays, facts)


_SNAPSHOT = ("live", "relative_gap", "settled_at", "at", "step", "statistics")


def _check_array(path: Path, name: str, own: Mapping[str, Any]) -> None:
    """Check that an array's own metadata have the form that `Writer` writes, so that no other codec is ever loaded."""
    shape, kind = own["shape"], own["data_type"]
    chunks = own["chunk_grid"]["configuration"]["chunk_shape"]
    whole = [*shape, *chunks]
    if len(shape) != len(chunks) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 48 for n in whole):
        raise _damaged(path, f"the array {name} has the shape {shape} in chunks of {chunks}")
    first = 1 if grows(own) else 0
    if any(n < 1 for n in chunks) or any(c != max(1, n) for c, n in zip(chunks[first:], shape[first:], strict=True)):
        raise _damaged(path, f"the array {name} of shape {shape} has chunks of {chunks}")
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    plain = [{"name": "vlen-utf8", "configuration": {}}, {"name": "vlen-utf8"}] if kind == "string" else [little]
    if kind in ("bool", "int8", "uint8"):
        plain.append({"name": "bytes"})
    packed = own["codecs"][1:]
    if (
        own["node_type"] != "array"
        or own["zarr_format"] != 3
        or (kind not in _DTYPES and kind not in _FLOATS and kind != "string")
        or own["chunk_grid"]["name"] != "regular"
        or own["chunk_key_encoding"] != {"name": "default", "configuration": {"separator": "."}}
        or own["codecs"][0] not in plain
        or (packed and [(c["name"], sorted(c["configuration"])) for c in packed] != _PACKED)
        or (packed and [type(c["configuration"]["checksum"]) for c in packed] != [bool])
        or (not packed and shape)
        or own.get("storage_transformers", [])
        or len(own.get("dimension_names") or []) != len(shape)
        or not all(isinstance(dim, str) for dim in own.get("dimension_names") or [])
        or not isinstance(own["attributes"], dict)
    ):
        raise _damaged(path, f"the metadata of the array {name} are not those of a simulation's store")


_PACKED = [("zstd", ["checksum", "level"])]


def _check_twin(path: Path, name: str, own: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
    """Check that the root and the array itself agree on its metadata, except on how far the run has come."""
    free = {"shape"} if grows(own) else {"fill_value"} if is_carried(own) else set()
    if set(own) != set(seen) or any(
        own[k] != seen[k] or type(own[k]) is not type(seen[k]) for k in own if k not in free
    ):
        raise _damaged(path, f"its zarr.json and that of the array {name} differ")
    shape = seen["shape"]
    if grows(own) and not (
        isinstance(shape, list)
        and shape[1:] == own["shape"][1:]
        and type(shape[0]) is int
        and 1 <= shape[0] <= own["shape"][0]
    ):
        raise _damaged(path, f"its zarr.json and that of the array {name} differ in shape")


def _check_dimensions(path: Path, arrays: Mapping[str, Mapping[str, Any]]) -> None:
    sizes: dict[tuple[str, str], int] = {}
    for name, metadata in arrays.items():
        for dim, size in zip(metadata.get("dimension_names") or [], metadata["shape"], strict=True):
            key = (name.rpartition("/")[0], dim)
            if sizes.setdefault(key, size) != size:
                raise _damaged(path, f"its arrays have {sizes[key]} and {size} entries along {dim}")
    if len({m["chunk_grid"]["configuration"]["chunk_shape"][0] for m in arrays.values() if grows(m)}) > 1:
        raise _damaged(path, "its arrays over time have chunks of different lengths")


def _check_carried(path: Path, arrays: Mapping[str, Mapping[str, Any]], facts: Facts) -> None:
    """Check that the variables made from the provenance agree with it."""
    carried = {name: metadata for name, metadata in arrays.items() if is_carried(metadata)}
    if not carried:
        return  # a store of version 0.1
    values = as_values(facts)
    for name in [*values, *(name for name in carried if name not in values)]:
        if name not in carried or name not in values or carried[name]["fill_value"] != as_fill(values[name]):
            raise _damaged(path, f"its {name} is not what its provenance says")


def _check_chunks(path: Path, name: str, metadata: Mapping[str, Any]) -> None:
    """Check that the first and the last chunk exist and have the right size. The others are checked when read."""
    size = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    last = (metadata["shape"][0] - 1) // size[0] if grows(metadata) else 0
    for number in {0, last}:
        file = path / name / ".".join(["c", *(["0"] * len(size))]).replace("c.0", f"c.{number}", 1)
        if file.is_symlink() or not file.is_file():
            raise _damaged(path, f"{file} is missing")
        with file.open("rb") as opened:
            check_chunk(file, opened.read(64), metadata)
