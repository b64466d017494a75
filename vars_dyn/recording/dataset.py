"""A trajectory in memory as a dataset like a store's."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field
from vars_dyn.integration import Trajectory
from vars_dyn.recording import provenance, scalars
from vars_dyn.recording.coordinates import signal_coordinates
from vars_dyn.recording.layout import Layout
from vars_dyn.recording.plan import as_float64
from vars_dyn.recording.quantities import certified_problem, end_arrays, quantities, static_arrays, time_array
from vars_dyn.recording.store import Array

__all__ = ["to_dataset"]


def to_dataset(
    field: Field,
    trajectory: Trajectory,
    *,
    variables: Sequence[str] | None = None,
    every: int = 1,
    neurons: Sequence[int] | None = None,
    atoms: Sequence[int] | None = None,
    coordinates: Mapping[str, NDArray[np.generic]] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """A trajectory of `integrate` as a dataset like a store's; the arguments are `record`'s.

    What was asked of `integrate` (method, tolerances) is not in the trajectory: give it in `attributes`.
    """
    _checks.count("every", every)
    layout, problem = Layout(field, neurons, atoms), certified_problem(field)
    states = list(zip(*trajectory.states, strict=True))
    arrays = [Array("time", time_array().dims, as_float64(trajectory.times[::every]), time_array().attributes)]
    arrays += [
        Array(q.name, ("time", *q.dims), q.over(states[::every]), q.attributes)
        for q in quantities(layout, problem, variables)
    ]
    arrays += static_arrays(layout) + signal_coordinates(layout, coordinates) + end_arrays(layout, problem, states[-1])
    found = {
        **(attributes or {}),
        **provenance.attributes_of_field(field, states[0]),
        "parameters": [*field.parameters()],
        "problem": provenance.described_problem(field, problem),
        **provenance.attributes_of_process(field.x.device),
        "run": uuid.uuid4().hex,
        **{name: int(value) for name, value in trajectory.statistics._asdict().items()},
        "every": every,
        "t_end": float(trajectory.times[-1]),
    }
    found = {name: scalars.plain(name, value) for name, value in found.items()}
    about = scalars.meanings(found)
    values = scalars.as_values(found)
    arrays += [Array(name, (), values[name], about[name]) for name in values]
    dataset = xr.Dataset(
        {array.name: (array.dims, array.values, dict(array.attributes)) for array in arrays},
        attrs=scalars.attributes_of({name: found[name] for name in attributes or {}}, found),
    )
    coordinates_of = layout.coordinates() + signal_coordinates(layout, coordinates)
    return xr.decode_cf(dataset).set_coords([array.name for array in coordinates_of])
