"""Turn a trajectory in memory into a dataset like that of a store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from vars_dyn.dynamics.base import Field
from vars_dyn.integration import Trajectory
from vars_dyn.recording import provenance, scalars
from vars_dyn.recording.json_facts import as_facts
from vars_dyn.recording.layout import Layout
from vars_dyn.recording.plan import as_float64, interventions_facts
from vars_dyn.recording.quantities import certified_problem, chosen_quantities, end_arrays, static_arrays, time_array
from vars_dyn.recording.selection import Selection, description_of
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
    """Turn a trajectory of `integrate` into a dataset like that of a store; `record` explains the arguments.

    A trajectory does not hold the settings of `integrate` (method, tolerances). Pass them in `attributes` to keep them.

    Raises ValueError for arguments that do not fit.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> field = vd.SparseRecurrent(P, x, lam=0.5)
        >>> trajectory = vd.integrate(field, field.initial_state(), torch.linspace(0, 1, 3, dtype=torch.float64))
        >>> vd.to_dataset(field, trajectory).u.dims
        ('time', 'signal', 'atom')
    """
    selection = Selection(variables, every, neurons, atoms)
    layout, problem = Layout(field, selection.neurons, selection.atoms), certified_problem(field)
    description = description_of(layout, coordinates, attributes)
    states = list(zip(*trajectory.states, strict=True))
    arrays = [Array("time", time_array().dims, as_float64(trajectory.times[::every]), time_array().attributes)]
    arrays += [
        Array(q.name, ("time", *q.dims), q.values_at(trajectory.times[::every].tolist(), states[::every]), q.attributes)
        for q in chosen_quantities(layout, problem, selection.variables)
    ]
    arrays += (
        static_arrays(layout)
        + description.coordinates
        + end_arrays(layout, problem, states[-1], float(trajectory.times[-1]))
    )
    found = {
        **description.facts,
        **as_facts(provenance.facts_of_field(field, states[0])),
        **provenance.facts_of_making(field, problem),
        **as_facts({} if trajectory.stopped is None else {"stopped": trajectory.stopped}),
        **as_facts(interventions_facts(field)),
        "run": uuid.uuid4().hex,
        **{name: int(value) for name, value in trajectory.statistics._asdict().items()},
        "every": every,
        "t_end": float(trajectory.times[-1]),
    }
    about, values = scalars.meanings(found), scalars.as_values(found)
    arrays += [Array(name, (), values[name], about[name]) for name in values]
    dataset = xr.Dataset(
        {array.name: (array.dims, array.values, dict(array.attributes)) for array in arrays},
        attrs=scalars.dataset_attributes(description.attributes, found),
    )
    return xr.decode_cf(dataset).set_coords([array.name for array in layout.coordinates() + description.coordinates])
