"""What members give: the names, dimensions and types of their results, which are fixed before a store is laid out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Output", "Outputs", "as_dataset", "fill_of", "length_name", "outputs_of"]

#: Names that the store uses itself.
RESERVED = ("member", "status", "attempts", "member_seconds", "error", "provenance")


@dataclass(frozen=True)
class Output:
    """One result of a member: its name, dimensions, largest shape, dtype (numpy's name, or "text") and attributes."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of one member's result, unpacked; a text counts as 64."""
        return int(np.prod(self.shape, dtype=np.int64)) * (
            64 if self.dtype == "text" else np.dtype(self.dtype).itemsize
        )


@dataclass(frozen=True)
class Outputs:
    """All results of a member.

    Attributes:
        variables: the results.
        ragged: the dimensions whose size may differ between members, with the largest size of each.
        coordinates: the values along dimensions that all members share.
    """

    variables: tuple[Output, ...]
    ragged: Mapping[str, int]
    coordinates: Mapping[str, NDArray[np.generic]]

    @property
    def nbytes(self) -> int:
        """Bytes of one member's results, unpacked."""
        return sum(each.nbytes for each in self.variables)

    def padded(self, found: xr.Dataset) -> dict[str, Any]:
        """A member's results by name, padded to the largest shape, with the length of each ragged dimension.

        Raises ValueError if a result is missing, new, or of a shape or type that the store has no room for.
        """
        found = _with_values(found, self.ragged, self.coordinates)
        wanted = {each.name for each in self.variables}
        for name in found.data_vars:
            if name not in wanted:
                raise ValueError(f"the member gave {name}, which the first one did not; the same results are wanted")
        values: dict[str, Any] = {}
        for each in self.variables:
            if each.name not in found.data_vars:
                raise ValueError(f"the member gave no {each.name}, which the first one did; the same is wanted")
            values[each.name] = self._fitted(each, found[each.name])
        for name, known in self.coordinates.items():
            if name in found.indexes:
                own = np.asarray(found[name].values)
                if len(own) > len(known) or not np.array_equal(own, known[: len(own)]):
                    raise ValueError(
                        f"the member has other values of the coordinate {name} than the first one; the same are wanted "
                        "(or leave the coordinate out)"
                    )
        for dim in self.ragged:
            values[length_name(dim)] = np.int64(found.sizes.get(dim, 0))
        return values

    def _fitted(self, each: Output, value: xr.DataArray) -> Any:
        if tuple(map(str, value.dims)) != each.dims:
            raise ValueError(f"{each.name} has the dimensions {value.dims}; {each.dims}, as before, are wanted")
        for dim, size, most in zip(each.dims, value.shape, each.shape, strict=True):
            if size > most if dim in self.ragged else size != most:
                least = "at most " if dim in self.ragged else ""
                more = (
                    ""
                    if dim in self.ragged
                    else "; name the dimension in `ragged`, with its largest size, if it varies"
                )
                raise ValueError(f"{each.name} has {size} entries along {dim}; {least}{most} are wanted{more}")
        if each.dtype == "text":
            if value.dtype.kind not in "UOT":
                raise ValueError(f"{each.name} is of dtype {value.dtype}; text, as before, is wanted")
            return np.asarray(value.values, dtype=object)
        own = np.asarray(value.values)
        if not np.can_cast(own.dtype, np.dtype(each.dtype), casting="safe"):
            raise ValueError(f"{each.name} is of dtype {own.dtype}; {each.dtype}, as before, is wanted")
        full = np.full(each.shape, fill_of(each.dtype), dtype=each.dtype)
        full[tuple(slice(size) for size in own.shape)] = own
        return full

    def as_text(self) -> str:
        """The outputs as JSON. Coordinates are left out: the store has them as arrays."""
        return json.dumps(
            {
                "variables": [
                    [each.name, list(each.dims), list(each.shape), each.dtype, dict(each.attributes)]
                    for each in self.variables
                ],
                "ragged": dict(self.ragged),
            }
        )

    @classmethod
    def from_text(cls, text: str, coordinates: Mapping[str, NDArray[np.generic]]) -> Outputs:
        """The outputs that `as_text` wrote."""
        found = json.loads(text)
        variables = tuple(
            Output(name, tuple(dims), tuple(shape), dtype, about)
            for name, dims, shape, dtype, about in found["variables"]
        )
        return cls(variables, found["ragged"], coordinates)


def length_name(dim: str) -> str:
    """The name of the variable that says how long a member is along a ragged dimension."""
    return f"{dim}_length"


def fill_of(dtype: str) -> Any:
    """What stands where a member has no numbers: NaN, -1 for integers, the largest unsigned one, False, or no text."""
    if dtype == "text":
        return ""
    kind = np.dtype(dtype)
    return np.nan if kind.kind in "fc" else np.array(False if kind.kind == "b" else -1).astype(kind)[()]


def as_dataset(found: Any) -> xr.Dataset:
    """What a member returned, as a dataset.

    A number, an array or a tensor becomes `value`; a mapping gives one variable per name. ValueError for anything else.
    """
    if isinstance(found, xr.Dataset):
        return found
    if isinstance(found, xr.DataArray):
        return found.to_dataset(name="value" if found.name is None else found.name)
    if not isinstance(found, Mapping):
        found = {"value": found}
    arrays: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, xr.DataArray):
            arrays[name] = value
            continue
        array = _array(str(name), value)
        arrays[str(name)] = ([f"{name}_{axis}" for axis in range(array.ndim)], array)
    if not arrays:
        raise ValueError("the member gave no results; at least one is wanted")
    return xr.Dataset(arrays)


def _with_values(found: xr.Dataset, ragged: Mapping[str, int], shared: Mapping[str, Any]) -> xr.Dataset:
    """The dataset, where the values along a ragged dimension are a result `NAME_values` unless all members share them.

    Coordinates that are no index become results.
    """
    found = found.reset_coords([str(name) for name in found.coords if name not in found.indexes])
    for dim in ragged:
        if dim in found.indexes and dim not in shared:
            values = found[dim]
            found = found.drop_vars(dim).assign({f"{dim}_values": ((dim,), values.values, dict(values.attrs))})
    return found


def _array(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, (str, bool, int, float, complex, np.generic, np.ndarray)):
        return np.asarray(value)
    if isinstance(value, (list, tuple)) and all(isinstance(each, (bool, int, float)) for each in value):
        return np.asarray(value)
    what = "nothing (None)" if value is None else f"{name}, a {type(value).__name__}"
    raise ValueError(f"the member gave {what}; numbers, arrays, tensors or an xarray dataset are wanted")


def outputs_of(found: xr.Dataset, ragged: Mapping[str, int | NDArray[np.generic]]) -> Outputs:
    """The outputs of an ensemble whose first finished member gave `found`.

    `ragged` has the largest size of each dimension that may vary, or all values along it. ValueError for results that
    no store can hold.
    """
    sizes = {dim: most if isinstance(most, int) else len(most) for dim, most in ragged.items()}
    coordinates = {dim: np.asarray(most) for dim, most in ragged.items() if not isinstance(most, int)}
    found = _with_values(found, sizes, coordinates)
    for name in found.indexes:
        if str(name) not in sizes and found[name].dims == (name,):
            coordinates[str(name)] = np.asarray(found[name].values)
    variables = []
    for name, array in found.data_vars.items():
        dims = tuple(map(str, array.dims))
        if name in RESERVED or "member" in dims or name in {length_name(dim) for dim in sizes}:
            raise ValueError(f"a result is named {name} {dims}, which the store uses itself; another name is wanted")
        kind = array.dtype.kind
        if kind not in "fiubcUOT":
            raise ValueError(f"{name} is of dtype {array.dtype}; numbers or text are wanted")
        shape = tuple(sizes.get(dim, size) for dim, size in zip(dims, array.shape, strict=True))
        about = {key: value for key, value in array.attrs.items() if isinstance(value, (str, int, float))}
        variables.append(Output(str(name), dims, shape, "text" if kind in "UOT" else array.dtype.name, about))
    present = {dim for each in variables for dim in each.dims}
    for dim in sizes:
        if dim not in present:
            raise ValueError(f"ragged names {dim}, but no result has this dimension; {sorted(present)} are there")
    return Outputs(tuple(variables), sizes, {dim: value for dim, value in coordinates.items() if dim in present})
