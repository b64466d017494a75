"""Chunk files of zarr format 3: little-endian numbers in row-major order, compressed with zstd (specification 3.1).

They are written here rather than by zarr-python so that each is complete, and on the disk, before it gets its name, and
in half the time; zarr-python makes the arrays, and it or any other reader of the format reads them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

__all__ = ["ENCODING", "read_chunk", "write_chunk", "write_file"]

_LEVEL = 0  # zstd's own default
#: How arrays must be created for the chunks written here to be theirs.
ENCODING: dict[str, Any] = {
    "compressors": [ZstdCodec(level=_LEVEL)],
    "filters": [],
    "chunk_key_encoding": {"name": "default", "separator": "."},
}


def write_chunk(
    folder: Path, metadata: Mapping[str, Any], number: int, values: NDArray[np.generic], start: int
) -> None:
    """Put `values` into chunk `number` (along the first dimension) of the array in `folder`, from entry `start` on."""
    shape = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    dtype = _dtype(metadata)
    if not shape or (start == 0 and len(values) == shape[0]):
        full = np.ascontiguousarray(values, dtype=dtype)
    else:
        full = read_chunk(folder, metadata, number) if start else np.full(shape, _fill(metadata), dtype=dtype)
        full[start : start + len(values)] = values
    write_file(_path(folder, metadata, number), bytes(Zstd(level=_LEVEL).encode(full.tobytes())))


def read_chunk(folder: Path, metadata: Mapping[str, Any], number: int) -> NDArray[np.generic]:
    """The chunk `number` along the first dimension, all of it."""
    shape = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    plain = Zstd().decode(_path(folder, metadata, number).read_bytes())
    return np.frombuffer(plain, dtype=_dtype(metadata)).reshape(shape).copy()


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that at every moment it is whole, the old or the new, and on the disk when this returns."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _path(folder: Path, metadata: Mapping[str, Any], number: int) -> Path:
    dimensions = len(metadata["shape"])
    return folder / ".".join(["c", *([str(number)] + ["0"] * (dimensions - 1) if dimensions else [])])


def _dtype(metadata: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype(metadata["data_type"]).newbyteorder("<")


def _fill(metadata: Mapping[str, Any]) -> Any:
    return float("nan") if metadata["fill_value"] == "NaN" else metadata["fill_value"]
