"""Chunk files of zarr format 3: little-endian numbers in row-major order, compressed with zstd (specification 3.1).

This module writes them, not zarr-python, so that each is complete and on the disk before it gets its name. It also
takes half the time. zarr-python makes the arrays, and it can read them, as any other reader of the format can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8  # type: ignore[import-untyped]
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from vars_dyn._files import StoreError, write_bytes

__all__ = ["ENCODING", "check_chunk", "chunk_bytes", "read_chunk", "write_chunk"]

_LEVEL = 0  # zstd's own default
#: The settings with which zarr must create an array so that it can read the chunks written here. The checksum reveals
#: damaged numbers.
ENCODING: dict[str, Any] = {
    "compressors": [ZstdCodec(level=_LEVEL, checksum=True)],
    "filters": [],
    "chunk_key_encoding": {"name": "default", "separator": "."},
}


def write_chunk(
    folder: Path, metadata: Mapping[str, Any], number: int, values: NDArray[np.generic], start: int
) -> None:
    """Put `values` into chunk `number` (along the first dimension) of the array in `folder`, from entry `start` on."""
    shape = _shape(metadata)
    checksum = bool(metadata["codecs"][-1]["configuration"].get("checksum", False))
    if metadata["data_type"] == "string":
        plain = VLenUTF8().encode(np.asarray(values, dtype=object))
    else:
        dtype = _dtype(metadata)
        if not shape or (start == 0 and len(values) == shape[0]):
            full = np.ascontiguousarray(values, dtype=dtype)
        else:
            full = read_chunk(folder, metadata, number) if start else np.full(shape, _fill(metadata), dtype=dtype)
            full[start : start + len(values)] = values
        plain = full.tobytes()
    write_bytes(_path(folder, metadata, number), bytes(Zstd(level=_LEVEL, checksum=checksum).encode(plain)))


def read_chunk(folder: Path, metadata: Mapping[str, Any], number: int) -> NDArray[np.generic]:
    """All of chunk `number` along the first dimension; StoreError if it is missing or damaged."""
    path = _path(folder, metadata, number)
    try:
        if path.is_symlink():
            raise StoreError(f"{path} is damaged: it is a symbolic link, where a chunk's file is wanted")
        packed = path.read_bytes()
        check_chunk(path, packed, metadata)
        plain = Zstd().decode(packed)
        return np.frombuffer(plain, dtype=_dtype(metadata)).reshape(_shape(metadata)).copy()
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: the store is damaged") from None
    except (RuntimeError, ValueError) as error:
        raise error if isinstance(error, StoreError) else StoreError(f"{path} is damaged: {error}") from None


def chunk_bytes(metadata: Mapping[str, Any]) -> int | None:
    """The bytes of an unpacked chunk; None for text."""
    if metadata["data_type"] == "string":
        return None
    return math.prod(_shape(metadata)) * int(_dtype(metadata).itemsize)


def check_chunk(path: object, packed: bytes, metadata: Mapping[str, Any]) -> None:
    """Raise StoreError if a file states another unpacked size than its chunk has. Nothing is unpacked for that."""
    size, wanted = _content_size(packed), chunk_bytes(metadata)
    if size is None or (size != wanted if wanted is not None else size > 1 << 30):
        found = "is no zstd frame" if size is None else f"unpacks to {size} bytes"
        raise StoreError(f"{path} is damaged: it {found}, {wanted or 'less than 2^30'} bytes are wanted")


def _content_size(packed: bytes) -> int | None:
    """The unpacked size that a zstd frame states (RFC 8878, 3.1.1); None if it states none."""
    if packed[:4] != b"\x28\xb5\x2f\xfd" or len(packed) < 6:
        return None
    flag, single, dictionary = packed[4] >> 6, packed[4] >> 5 & 1, packed[4] & 3
    length = (single, 2, 4, 8)[flag]
    start = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    if not length or len(packed) < start + length:
        return None
    return int.from_bytes(packed[start : start + length], "little") + (256 if flag == 1 else 0)


def _path(folder: Path, metadata: Mapping[str, Any], number: int) -> Path:
    dimensions = len(metadata["shape"])
    return folder / ".".join(["c", *([str(number)] + ["0"] * (dimensions - 1) if dimensions else [])])


def _shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])


def _dtype(metadata: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype(metadata["data_type"]).newbyteorder("<")


def _fill(metadata: Mapping[str, Any]) -> Any:
    return float("nan") if metadata["fill_value"] == "NaN" else metadata["fill_value"]
