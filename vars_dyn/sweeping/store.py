"""The store of an ensemble: one zarr group whose arrays have a region for every member.

Members are grouped into blocks. A block is one chunk of every array, so two workers never write to the same chunk. A
commit writes the results of a block first and its states last, each in one piece. So a member that the states call
done has all its results, whatever happened to the process. Nothing is ever done twice in the result: a member that is
run again writes the same region.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec

from vars_dyn._files import StoreError, Workplace, explained
from vars_dyn.recording.provenance import command_line, now, versions
from vars_dyn.recording.scalars import MARK
from vars_dyn.sweeping.designs import Design
from vars_dyn.sweeping.outputs import Output, Outputs, fill_of, length_name
from vars_dyn.sweeping.places import Place

__all__ = ["DONE", "FAILED", "WAITING", "Block", "EnsembleStore", "create", "open_sweep"]

#: The states of a member.
WAITING, DONE, FAILED = 0, 1, 2
_ATTRIBUTE = "ensemble"
_STATES = {"flag_values": [WAITING, DONE, FAILED], "flag_meanings": "waiting done failed", "units": "1"}
_BOOKS = (
    Output("status", (), (), "uint8", {**_STATES, "long_name": "state of the member"}),
    Output("attempts", (), (), "int64", {"units": "1", "long_name": "how often the member was begun"}),
    Output("member_seconds", (), (), "float64", {"units": "s", "long_name": "time that the member took"}),
    Output("error", (), (), "text", {"units": "1", "long_name": "why the member failed"}),
    Output("provenance", (), (), "text", {"units": "1", "long_name": "where the member's results come from, JSON"}),
)


@dataclass(frozen=True)
class EnsembleStore:
    """An ensemble's store, laid out.

    Attributes:
        place: where it is.
        outputs: what every member gives.
        members: how many members there are.
        block: how many members share a chunk.
        facts: what is known of the sweep: its command, design, versions and date.
    """

    place: Place
    outputs: Outputs
    members: int
    block: int
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, place: Place) -> EnsembleStore:
        """The store at a place; StoreError if there is none of a sweep."""
        try:
            group = zarr.open_group(place.store(read_only=True), mode="r", use_consolidated=True)
            found = json.loads(str(group.attrs[_ATTRIBUTE]))
            names = found["coordinates"]
            coordinates = {name: _plain(np.asarray(_array(group, name)[:])) for name in names}
            outputs = Outputs.from_text(json.dumps(found["outputs"]), coordinates)
            return cls(place, outputs, int(found["members"]), int(found["block"]), found["facts"])
        except (KeyError, TypeError, ValueError, OSError) as error:
            reason = "there is nothing" if not place.exists() else f"it is no store of a sweep ({type(error).__name__})"
            raise StoreError(f"{place.text} cannot be opened as an ensemble: {reason}") from None

    def bounds(self, number: int) -> tuple[int, int]:
        """The first member of a block, and the one after its last."""
        return number * self.block, min(self.members, (number + 1) * self.block)

    def books(self, name: str) -> NDArray[Any]:
        """The states, attempts, ... of all members."""
        group = zarr.open_group(self.place.store(read_only=True), mode="r", use_consolidated=True)
        return np.asarray(_array(group, name)[:])


class Block:
    """The members of one block, in memory, until they are committed."""

    def __init__(self, store: EnsembleStore, number: int) -> None:
        self._store, self.place = store, store.place
        self.first, self.end = store.bounds(number)
        self._group = zarr.open_group(store.place.store(), mode="r+", use_consolidated=True)
        lengths = [Output(length_name(dim), (), (), "int64") for dim in store.outputs.ragged]
        self._results = [*store.outputs.variables, *lengths]
        self._values: dict[str, NDArray[Any]] = {each.name: self._read(each.name) for each in _BOOKS}
        begun = bool((self._values["status"] == DONE).any())
        for each in self._results:
            self._values[each.name] = self._read(each.name) if begun else self._empty(each)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The values of a variable for the members of this block."""
        return self._values[name]

    def put(self, member: int, values: Mapping[str, Any]) -> None:
        """Set variables of a member."""
        for name, value in values.items():
            self._values[name][member - self.first] = value

    def commit(self, *, results: bool = True) -> None:
        """Write the block. The states go last, after all that they speak of."""
        names = [each.name for each in self._results] if results else []
        with explained(self._store.place.path):
            for name in (
                [*names, "member_seconds", "error", "provenance", "attempts", "status"] if results else ["attempts"]
            ):
                _array(self._group, name)[self.first : self.end] = self._values[name]

    def _read(self, name: str) -> NDArray[Any]:
        return _plain(np.array(_array(self._group, name)[self.first : self.end]))

    def _empty(self, each: Output) -> NDArray[Any]:
        dtype = object if each.dtype == "text" else each.dtype
        return np.full((self.end - self.first, *each.shape), fill_of(each.dtype), dtype=dtype)


def create(place: Place, design: Design, outputs: Outputs, block: int, facts: Mapping[str, Any]) -> EnsembleStore:
    """Lay out a store with room for every member's results; StoreError if something is there.

    A store in a folder appears whole or not at all.
    """
    known = {**facts, **versions(), "command_line": command_line(), "date": now()}
    store = EnsembleStore(place, outputs, len(design), block, known)
    if place.exists():
        raise StoreError(f"{place.text} exists; resume, or another place is wanted")
    if place.url:
        _lay_out(place.store(), store, design)
        return store
    with explained(place.path), Workplace.begin(place.path) as work:
        _lay_out(Place(str(work.new), False).store(), store, design)

        def permit() -> None:
            raise StoreError(f"{place.text} exists: it was made by another process meanwhile")

        work.publish(permit)
    return store


def _lay_out(target: Store, store: EnsembleStore, design: Design) -> None:
    outputs, members = store.outputs, store.members
    group = zarr.create_group(target, zarr_format=3)
    lengths = [
        Output(length_name(dim), (), (), "int64", {"units": "1", "long_name": f"entries of the member along {dim}"})
        for dim in outputs.ragged
    ]
    for each in (*outputs.variables, *lengths, *_BOOKS):
        _create(group, each, members, store.block)
    columns = {name: _column(values) for name, values in design.columns().items()}
    taken = {each.name for each in (*outputs.variables, *lengths, *_BOOKS)} | {"member"}
    coordinates = {f"parameter_{name}" if name in taken else name: values for name, values in columns.items()}
    for name, values in {"member": np.arange(members), **coordinates}.items():
        about = {"units": "1", "long_name": "number of the member" if name == "member" else f"parameter {name}"}
        _create(group, Output(name, (), (), _kind(values), about), members, members)[:] = values
    for dim, values in outputs.coordinates.items():
        about = {"units": "1", "long_name": dim}
        _create(group, Output(dim, (), (), _kind(values), about), len(values), len(values), dim)[:] = values
    group.attrs.update(
        {
            "title": "Ensemble of vars_dyn",
            MARK: store.facts[MARK],
            "coordinates": " ".join(coordinates),
            _ATTRIBUTE: json.dumps(
                {
                    "members": members,
                    "block": store.block,
                    "outputs": json.loads(outputs.as_text()),
                    "coordinates": list(outputs.coordinates),
                    "facts": dict(store.facts),
                }
            ),
        }
    )
    with warnings.catch_warnings():
        # Readers find all arrays in one file so. The specification of format 3 does not have it yet, says zarr.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(target)


def _create(group: zarr.Group, each: Output, length: int, chunk: int, dim: str = "member") -> zarr.Array[Any]:
    shape = (length, *each.shape)
    text = each.dtype == "text"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        return group.create_array(
            each.name,
            shape=shape,
            chunks=tuple(max(1, n) for n in (chunk, *each.shape)),
            dtype=str if text else each.dtype,
            fill_value=fill_of(each.dtype) if each.name not in ("status", "attempts") else 0,
            dimension_names=(dim, *each.dims),
            attributes=dict(each.attributes),
            compressors=[ZstdCodec(level=0, checksum=True)],
            config={"write_empty_chunks": True},
        )


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(object) if values.dtype.kind in "UT" else values


def _column(values: list[Any]) -> NDArray[Any]:
    """The values of a parameter as numbers if all are, and else as text."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.array(values, dtype=np.bool_)
    if kinds == {int} and max(map(abs, values)) < 2**63:
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float, type(None)} and kinds & {int, float}:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array([value if isinstance(value, str) else json.dumps(value) for value in values], dtype=object)


def _kind(values: NDArray[Any]) -> str:
    return "text" if values.dtype.kind in "UOT" else values.dtype.name


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(name)
    return found


def open_sweep(store: Any) -> xr.Dataset:
    """The dataset of an ensemble, read lazily, even while a sweep is writing to it.

    Args:
        store: folder or URL of the store.

    Returns:
        Results by name, with `member` as the first dimension and the design's parameters as coordinates. `status` is 1
        for a member that is done; only such members have results. Along a ragged dimension `NAME`, `NAME_length` says
        how long each member is; entries beyond are NaN, or -1 for integers.

    Raises:
        StoreError: (a ValueError) if there is no store of a sweep.
    """
    place = store if isinstance(store, Place) else Place.of(store)
    EnsembleStore.open(place)
    found: xr.Dataset = xr.open_zarr(place.store(read_only=True), chunks=None, consolidated=True)
    found.encoding["source"] = place.text
    return found
