"""Write a run as netCDF 4, which xarray, MATLAB, R and Panoply read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import xarray as xr

from vars_dyn.export.sources import GROWING, blocks, rows_at_once

__all__ = ["is_our_netcdf", "write_netcdf"]

#: The title that marks files of this package.
_MARKS = ("Trajectory of a vars_dyn field", "Spikes of a vars_dyn spiking LCA")
#: Bytes of a chunk of the file.
_CHUNK = 1 << 22


def write_netcdf(dataset: xr.Dataset, file: Path) -> None:
    """Write the dataset with its labels, units and attributes. Memory holds one block of an array at a time.

    xarray writes everything but the entries along time and spikes, and so chooses every encoding. The entries follow,
    block by block, so that `xarray.open_dataset(file)` reads the dataset back.
    """
    growing = [name for name in GROWING if name in dataset.dims]
    empty = dataset.isel({name: slice(0, 0) for name in growing}).copy()
    empty.attrs = _attributes(dataset.attrs)
    for name, variable in empty.variables.items():
        variable.encoding = {}
        variable.attrs = _attributes(variable.attrs)
        if variable.dims and variable.dims[0] in growing:
            whole = dataset[name]
            row = max(1, whole.dtype.itemsize * int(np.prod(whole.shape[1:], dtype=np.int64)))
            variable.encoding = {"chunksizes": (max(1, min(len(whole), _CHUNK // row)), *map(int, whole.shape[1:]))}
            if not whole.size:
                variable.encoding = {}
            elif rows_at_once(whole) and whole.dtype.kind in "fiu":
                variable.encoding |= {"zlib": True, "complevel": 4, "shuffle": True}
        if variable.dtype.kind == "f":
            variable.encoding["_FillValue"] = None
    empty.to_netcdf(file, engine="h5netcdf", unlimited_dims=growing)
    with h5netcdf.File(file, "a") as opened:
        for dim in growing:
            opened.resize_dimension(dim, dataset.sizes[dim])
        for name, variable in dataset.variables.items():
            if variable.dims and variable.dims[0] in growing:
                for start, values in blocks(dataset[name]):
                    opened.variables[str(name)][start : start + len(values)] = values


def is_our_netcdf(file: Path) -> bool:
    """Whether a file is netCDF that this package wrote."""
    try:
        with h5py.File(file, "r") as opened:
            title = opened.attrs.get("title", "")
            return (title.decode() if isinstance(title, bytes) else str(title)) in _MARKS
    except (OSError, ValueError, KeyError):
        return False


def _attributes(given: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as netCDF takes them: texts, numbers and lists of these. Anything else becomes JSON."""
    return {str(name): _attribute(value) for name, value in given.items()}


def _attribute(value: Any) -> Any:
    if isinstance(value, (str, int, float, np.number)) and not isinstance(value, bool):
        return value
    plain = isinstance(value, list) and value and all(type(part) is type(value[0]) for part in value)
    if plain and isinstance(value[0], (str, int, float)) and not isinstance(value[0], bool):
        return value
    return json.dumps(value)
