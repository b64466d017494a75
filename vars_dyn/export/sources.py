"""What is exported: the dataset of a store, of trajectories or of spikes, read block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from vars_dyn._files import StoreError
from vars_dyn.recording import facts, open_dataset
from vars_dyn.recording.integrity import read_attributes
from vars_dyn.spiking import open_spikes

__all__ = ["GROWING", "blocks", "check_time_constant", "known_of", "opened", "rows_at_once"]

#: Dimensions along which stores grow. Arrays along them are read and written block by block.
GROWING = ("time", "spike")
#: Bytes of a block.
_BLOCK = 1 << 24


def opened(store: Path) -> xr.Dataset:
    """The dataset of a store at its last commit; StoreError if it is none that this package wrote."""
    return open_spikes(store) if "spikes" in read_attributes(store) else open_dataset(store)


def known_of(dataset: xr.Dataset) -> dict[str, Any]:
    """All that is known of a run."""
    return facts(dataset)


def rows_at_once(array: xr.DataArray) -> int:
    """The entries of the first dimension that are read at once: whole chunks of the store, of some megabytes."""
    row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    chunk = (array.encoding.get("chunks") or (1,))[0]
    return max(int(chunk), int(_BLOCK // row) // int(chunk) * int(chunk))


def blocks(array: xr.DataArray) -> Iterator[tuple[int, NDArray[Any]]]:
    """The array in blocks along its first dimension, each with its start."""
    step = rows_at_once(array)
    for start in range(0, array.shape[0], step):
        yield start, array[start : start + step].to_numpy()


def check_time_constant(value: Any) -> float:
    """The membrane time constant in milliseconds; StoreError where the run does not know it."""
    if not isinstance(value, (int, float)) or not value > 0:
        raise StoreError(
            "the run does not know its membrane time constant in milliseconds, and NWB's times are in seconds; give it "
            "by --tau-ms"
        )
    return float(value)
