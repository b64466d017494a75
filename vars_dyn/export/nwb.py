"""Write a run as NWB 2 (Neurodata Without Borders), which physiologists' programs read."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from hdmf.backends.hdf5.h5_utils import H5DataIO
from hdmf.common import DynamicTable, VectorData
from hdmf.data_utils import DataChunkIterator
from numpy.typing import NDArray
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.image import ImageSeries

from vars_dyn._version import __version__
from vars_dyn.export.sources import blocks, check_time_constant, known_of, rows_at_once
from vars_dyn.spiking import by_unit

__all__ = ["is_our_nwb", "write_nwb"]

#: Bytes of a chunk of the file.
_CHUNK = 1 << 20
#: What the series are in the dynamics module: names in the dataset and in the file.
_STATES = {"z": "neurons_z", "u": "encoding_neurons_u", "code": "code"}
_SCALARS = ("lyapunov", "gap", "relative_gap", "active", "objective", "kkt_residual", "bound")
_UNIT = "dimensionless"


def write_nwb(dataset: xr.Dataset, file: Path, *, tau_ms: float | None = None) -> None:
    """Write the run of a dataset to a file. Memory holds one block of an array at a time.

    Times are in seconds. They come from the membrane time constant in milliseconds that the run has recorded, or from
    `tau_ms`. Raises StoreError where neither is there, and ValueError where both are and differ.
    """
    known = known_of(dataset)
    tau = _tau(known, tau_ms)
    nwb = NWBFile(
        session_description=f"Simulation of {known.get('field', 'a spiking LCA')}: recurrent sparse coding, no animal",
        identifier=str(known.get("run", uuid.uuid4())),
        session_start_time=_started(known),
        experiment_description="simulated by vars_dyn; there are no recordings of tissue in this file",
        keywords=["simulation", "sparse coding", "recurrent network"],
        source_script=str(known.get("command", "vars_dyn")),
        source_script_file_name="command line",
        was_generated_by=[["vars_dyn", __version__]],
        notes=json.dumps({"vars_dyn_version": __version__, **known}, default=str),
    )
    _Writer(nwb, dataset, tau).all()
    with NWBHDF5IO(str(file), "w") as opened:
        opened.write(nwb)


def is_our_nwb(file: Path) -> bool:
    """Whether a file is NWB that this package wrote."""
    try:
        with h5py.File(file, "r") as opened:
            return '"vars_dyn_version"' in opened["general/notes"][()].decode()
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _tau(known: dict[str, Any], given: float | None) -> float:
    """The membrane time constant in seconds."""
    recorded = known.get("tau_ms")
    if given is not None and isinstance(recorded, (int, float)) and recorded != given:
        raise ValueError(f"--tau-ms is {given:g}, but the run was recorded with {recorded:g}; leave it out")
    return 1e-3 * check_time_constant(recorded if given is None else given)


def _started(known: dict[str, Any]) -> datetime:
    """When the run was begun; the year zero of computers where the store does not say."""
    try:
        found = datetime.fromisoformat(str(known["date"]))
    except (KeyError, ValueError):
        return datetime(1970, 1, 1, tzinfo=UTC)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class _Writer:
    """What goes where in the file."""

    def __init__(self, nwb: NWBFile, dataset: xr.Dataset, tau: float) -> None:
        self.nwb, self.dataset, self.tau = nwb, dataset, tau
        self.times = tau * dataset["time"].to_numpy().astype(np.float64)
        self.first: TimeSeries | None = None

    def all(self) -> None:
        data = self.dataset
        module = self.nwb.create_processing_module("dynamics", "potentials, code and certificates over time")
        if "x" in data:
            self.nwb.add_stimulus(self.stimulus())
        for name, title in _STATES.items():
            if name in data:
                module.add(self.series(name, title))
        for name in _SCALARS:
            if name in data:
                module.add(self.series(name, name))
        module.add(self.signals())
        if (atoms := self.atoms()) is not None:
            module.add(atoms)
        if "spike_time" in data:
            self.units()

    def timing(self) -> dict[str, Any]:
        """A rate where the times are evenly spread, else timestamps, which the series share."""
        steps = np.diff(self.times)
        if len(steps) and np.allclose(steps, steps[0], rtol=1e-9, atol=0.0):
            return {"rate": 1.0 / float(steps[0]), "starting_time": float(self.times[0])}
        return {"timestamps": self.times if self.first is None else self.first}

    def series(self, name: str, title: str) -> TimeSeries:
        array = self.dataset[name]
        shape = array.shape[2:]
        comments = "dimensions: time, signal"
        if shape:
            comments += f", unit; units are in row-major order of {array.dims[2:]}, of shape {list(shape)}"
            comments += self.recorded("atom" if name in ("u", "code") else "neuron")
        found = TimeSeries(
            name=title,
            data=_data(array, (array.shape[1], math.prod(shape)) if shape else (array.shape[1],)),
            unit=_UNIT,
            description=str(array.attrs.get("long_name", name)),
            comments=comments,
            **self.timing(),
        )
        self.first = self.first or found
        return found

    def recorded(self, part: str) -> str:
        """Which neurons or atoms these are, if not all were recorded."""
        if part not in self.dataset.coords:
            return ""
        return f"; their numbers among all: {self.dataset[part].to_numpy().tolist()}"

    def stimulus(self) -> TimeSeries:
        """The moving input: images if there is one signal of grey images, else values per neuron."""
        x = self.dataset["x"]
        one = x.dims[2:] == ("colour", "row", "column") and x.shape[1:3] == (1, 1)
        about = {"name": "stimulus_x", "description": str(x.attrs.get("long_name", "x")), **self.timing()}
        if one:
            return ImageSeries(data=_data(x, x.shape[3:]), unit=_UNIT, format="raw", **about)
        comments = f"dimensions: time, signal, neuron in row-major order of {x.dims[2:]}"
        return TimeSeries(data=_data(x, (x.shape[1], math.prod(x.shape[2:]))), unit=_UNIT, comments=comments, **about)

    def signals(self) -> DynamicTable:
        """A row per signal: the signal itself, and all that there is one value of per signal."""
        data, columns = self.dataset, []
        for name, variable in data.variables.items():
            if variable.dims[:1] != ("signal",) or variable.dtype.kind not in "fiub":
                continue
            values = variable.to_numpy()
            text = str(variable.attrs.get("long_name", name))
            if values.ndim > 1:
                text += f"; row-major order of {variable.dims[1:]}, of shape {list(values.shape[1:])}"
                values = values.reshape(len(values), -1)
            columns.append(VectorData(name=str(name), description=text, data=values))
        return DynamicTable(name="signals", description="the input signals, and their results at the end",
                            columns=columns, id=np.arange(data.sizes["signal"]))  # fmt: skip

    def atoms(self) -> DynamicTable | None:
        """A row per atom, or per template of a convolution; None for dictionaries of other kinds."""
        found = self.dataset.get("dictionary")
        if found is None:
            return None
        values = found.to_numpy()
        if found.dims[0] == "channel":
            rows, name = values.reshape(len(values), -1), "template"
            text = f"row-major order of {found.dims[1:]}, of shape {list(values.shape[1:])}"
        else:
            own = [dim for dim in found.dims if dim in ("atom", "all_atom")]
            if found.ndim != 2 or not own:
                return None
            rows, name, text = values.T, "atom", "one number per neuron, a column of the dictionary P"
        column = VectorData(name=name, description=text, data=np.ascontiguousarray(rows))
        return DynamicTable(name="dictionary", description=str(found.attrs.get("long_name", "the dictionary P")),
                            columns=[column], id=np.arange(len(rows)))  # fmt: skip

    def units(self) -> None:
        """The spikes, a row per signal and unit."""
        trains = by_unit(self.dataset)
        self.nwb.add_unit_column("signal", "index of the signal that drives the unit")
        self.nwb.add_unit_column("atom", "flat index of the unit's atom")
        self.nwb.add_unit_column("sign", "1 for an on unit, -1 for an off unit")
        times, edges = self.tau * trains["spike_time"].to_numpy(), trains["offset"].to_numpy()
        labels = [trains[name].to_numpy() for name in ("signal", "atom", "sign")]
        end = float(self.times[-1]) if len(self.times) else 0.0
        for unit, (signal, atom, sign) in enumerate(zip(*labels, strict=True)):
            self.nwb.add_unit(
                spike_times=times[edges[unit] : edges[unit + 1]],
                obs_intervals=np.array([[0.0, end]]),
                signal=int(signal),
                atom=int(atom),
                sign=int(sign),
            )


def _data(array: xr.DataArray, event: tuple[int, ...]) -> Any:
    """The array (time, *event) for pynwb to read block by block, and to write in compressed chunks."""

    def rows() -> Iterator[NDArray[Any]]:
        for _, values in blocks(array):
            yield from values.reshape(len(values), *event)

    shape = (array.shape[0], *event)
    size = max(1, math.prod(event) * array.dtype.itemsize)
    iterator = DataChunkIterator(
        data=rows(), maxshape=shape, dtype=array.dtype, buffer_size=max(1, min(rows_at_once(array), shape[0]))
    )
    chunks = (max(1, min(shape[0], _CHUNK // size)), *event)
    return H5DataIO(data=iterator, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True)
