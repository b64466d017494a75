"""One recording, checked and worked out before anything is written."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration import FIXED_METHODS, Snapshot, start_of
from vars_dyn.integration.integrate import stream
from vars_dyn.problems import SparseProblem
from vars_dyn.recording import provenance, scalars
from vars_dyn.recording.coordinates import signal_coordinates
from vars_dyn.recording.layout import Layout, as_numpy
from vars_dyn.recording.quantities import Quantity, certified_problem, end_arrays, quantities
from vars_dyn.recording.store import Array

__all__ = ["Plan", "as_float64", "of_times", "plan_of", "times_digest"]

#: A chunk holds at most this many bytes of states, and at most this many time points.
_CHUNK_BYTES, _CHUNK_POINTS = 1 << 24, 64
#: More files than this are refused: a file system takes hours to make and to remove them.
_MOST_FILES = 1_000_000
#: Arguments of the integrator that may change between a run and its resumption: they do not touch the states.
_FREE = ("max_steps",)


@dataclass(frozen=True)
class Plan:
    """One recording, checked and worked out before anything is written."""

    field: Field
    state: State
    layout: Layout
    problem: SparseProblem | None
    quantities: list[Quantity]
    times: Tensor
    every: int
    chunk: int
    integration: dict[str, Any]
    identity: dict[str, Any]
    coordinates: list[Array]
    attributes: dict[str, Any]  # of the dataset, as the user gave them
    given: dict[str, Any]  # facts that the user gave, the attributes among them

    @property
    def points(self) -> int:
        """How many time points are recorded if the run reaches t_max."""
        return -(-len(self.times) // self.every)

    @property
    def stride(self) -> int:
        """How many times are integrated between two commits."""
        return self.chunk * self.every

    @property
    def start(self) -> Snapshot:
        """The snapshot at the first time, before anything is integrated."""
        step = None if self.integration["method"] in FIXED_METHODS else self.integration["step"]
        return start_of(self.field, self.state, float(self.times[0]), step)

    def chunks(self, snapshot: Snapshot, index: int) -> Iterator[tuple[Tensor, State, Snapshot]]:
        """The integration from the snapshot at times[index] on; raises ValueError at once for what does not fit."""
        rest = self.times[0 if index == 0 else index + 1 :]
        return stream(self.field, snapshot, rest, chunk=self.stride, **self.integration)

    @cached_property
    def end_names(self) -> list[str]:
        """The arrays that are not seen while the run goes on."""
        return [array.name for array in self.end_arrays(self.start)]

    def end_arrays(self, now: Snapshot) -> list[Array]:
        """What the store holds of the end of the run."""
        settled_at = as_numpy(now.settled_at).reshape(-1)
        attributes = {"units": "tau", "long_name": "time at which the signal was found settled"}
        return [
            *end_arrays(self.layout, self.problem, now.state),
            Array("settled_at", ("signal",), settled_at, attributes),
        ]


def plan_of(
    field: Field,
    times: Tensor | Sequence[float] | NDArray[np.floating],
    state: State | None,
    integration: Mapping[str, Any],
    variables: Sequence[str] | None,
    every: int,
    neurons: Sequence[int] | None,
    atoms: Sequence[int] | None,
    chunk: int | None,
    coordinates: Mapping[str, NDArray[np.generic]] | None,
    attributes: Mapping[str, Any] | None,
    origin: Mapping[str, Any] | None,
) -> Plan:
    """The plan of a recording; the arguments are `record`'s. Raises ValueError for what does not fit."""
    field = field.detach()
    instants = _checked_times(times)
    start = field.checked(field.initial_state() if state is None else state)
    _checks.count("every", every)
    layout, problem = Layout(field, neurons, atoms), certified_problem(field)
    size = sum(part.numel() * part.element_size() for part in start) * every
    chunk = max(1, min(_CHUNK_POINTS, _CHUNK_BYTES // max(size, 1))) if chunk is None else _checks.count("chunk", chunk)
    chosen = quantities(layout, problem, variables)
    _check_files(-(-len(instants) // every), chunk, len(chosen) + 1)
    options = _integrator_options(integration)
    identity = {
        **provenance.attributes_of_field(field, start),
        **{f"stop_{name}" if name == "gap" else name: value for name, value in options.items() if name not in _FREE},
        "variables": [quantity.name for quantity in chosen],
        "every": every,
        "neurons": "all" if neurons is None else list(layout.neurons.chosen or ()),
        "atoms": "all" if atoms is None else list(layout.atoms.chosen or ()),
        "chunk": chunk,
    }
    extra = signal_coordinates(layout, coordinates)
    given = _plain(attributes)
    if "coordinates" in given:
        raise ValueError(
            "attributes holds coordinates, by which xarray knows a dataset's coordinates; another name is wanted"
        )
    return Plan(
        field,
        start,
        layout,
        problem,
        chosen,
        instants,
        every,
        chunk,
        options,
        _plain(identity),
        extra,
        given,
        given | _plain(origin),
    )


def _plain(given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {str(name): scalars.plain(str(name), value) for name, value in (given or {}).items()}


def _check_files(points: int, chunk: int, arrays: int) -> None:
    files = -(-points // chunk) * arrays
    if files > _MOST_FILES:
        least = -(-points * arrays // _MOST_FILES)
        raise ValueError(
            f"chunk is {chunk}: {points} recorded times of {arrays} variables make {files} files; a chunk of at least "
            f"{least}, or a larger every, is wanted"
        )


def _integrator_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `stream` after its first three, with its defaults where none are given."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(stream).parameters.items()
        if name not in ("field", "snapshot", "times", "chunk")
    }
    for name in given:
        if name not in known:
            raise ValueError(f"{name} is no option of the integrator; one of {', '.join(known)} is wanted")
    return known | dict(given)


def of_times(times: Tensor) -> dict[str, Any]:
    """The facts of the times."""
    return {"t_max": float(times[-1]), "times": len(times)}


def _checked_times(times: Tensor | Sequence[float] | NDArray[np.floating]) -> Tensor:
    instants = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if instants.ndim != 1 or not len(instants) or not bool(torch.isfinite(instants).all()):
        raise ValueError(
            "times is not a list of finite numbers; at least one time, in membrane time constants, is wanted"
        )
    if bool((instants.diff() <= 0).any()):
        raise ValueError("times do not increase; strictly increasing times are wanted")
    return instants


def times_digest(times: Tensor, index: int) -> str:
    """The hash of the times up to and including `index`."""
    return hashlib.sha256(times[: index + 1].numpy().tobytes()).hexdigest()


def as_float64(times: Tensor) -> NDArray[np.float64]:
    """Times as numpy has them."""
    return times.detach().cpu().double().numpy()
