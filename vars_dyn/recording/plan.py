"""Plan a recording: check everything and work it out before anything is written, so that bad input leaves no store."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._suggestions import meant
from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration import Monitor, Snapshot, method_for, start_of
from vars_dyn.integration.integrate import stream
from vars_dyn.integration.times import checked_times
from vars_dyn.interventions import Intervened, with_interventions
from vars_dyn.problems import SparseProblem
from vars_dyn.recording import provenance
from vars_dyn.recording.json_facts import Facts, as_facts
from vars_dyn.recording.layout import Layout, as_numpy
from vars_dyn.recording.quantities import Quantity, certified_problem, chosen_quantities, end_arrays
from vars_dyn.recording.selection import Description, Selection, description_of
from vars_dyn.recording.store import Array

__all__ = ["RecordingPlan", "as_float64", "interventions_facts", "plan_recording", "times_digest"]

#: More files than this are refused, since a file system takes hours to make and to remove so many.
_MOST_FILES = 1_000_000
#: Arguments of the integrator that may differ when a run is resumed, since they do not change the states.
_FREE = ("max_steps",)


@dataclass(frozen=True)
class RecordingPlan:
    """One recording, checked and worked out before anything is written.

    Attributes:
        field, state: the field to integrate, and the state at the first time.
        layout: the labels of the field's neurons and atoms.
        problem: the problem that certificates are computed from; None if there is none.
        quantities: the variables to record.
        times: the times to integrate to, float64 on the CPU. The first is the time of `state`.
        selection: what is recorded.
        chunk: recorded times per commit.
        integration: arguments of `vars_dyn.integration.integrate.stream` by name.
        identity: facts that a store must share with this plan to be resumed.
        description: what the user says of the signals and the run.
        monitor: a function that sees the snapshot of every chunk, and may stop the run.
    """

    field: Field
    state: State
    layout: Layout
    problem: SparseProblem | None
    quantities: list[Quantity]
    times: Tensor
    selection: Selection
    chunk: int
    integration: dict[str, Any]
    identity: Facts
    description: Description
    monitor: Monitor | None = None

    @property
    def t_max(self) -> float:
        """The last time."""
        return float(self.times[-1])

    @property
    def every(self) -> int:
        """The number of integrated times per recorded time."""
        return self.selection.every

    @property
    def points(self) -> int:
        """The number of time points that are recorded if the run reaches t_max."""
        return self.selection.points(len(self.times))

    @property
    def stride(self) -> int:
        """The number of times that are integrated between two commits."""
        return self.chunk * self.every

    @property
    def times_facts(self) -> Facts:
        """The facts of the times. They may change when a store is resumed."""
        return {"t_max": self.t_max, "times": len(self.times)}

    @property
    def start(self) -> Snapshot:
        """The snapshot at the first time, before anything is integrated."""
        step = self.integration["step"] if method_for(self.integration["method"]).adaptive else None
        return start_of(self.field, self.state, float(self.times[0]), step)

    def chunks(self, snapshot: Snapshot, index: int) -> Iterator[tuple[Tensor, State, Snapshot]]:
        """Integrate from the snapshot at times[index] on. Raises ValueError for bad arguments, at the call."""
        rest = self.times[0 if index == 0 else index + 1 :]
        return stream(self.field, snapshot, rest, chunk=self.stride, **self.integration)

    @cached_property
    def end_names(self) -> list[str]:
        """The names of the arrays at the end of the run, which readers do not see before it has ended."""
        return [array.name for array in self.end_arrays(self.start)]

    def end_arrays(self, now: Snapshot) -> list[Array]:
        """The arrays that hold the end of the run."""
        settled_at = as_numpy(now.settled_at).reshape(-1)
        attributes = {"units": "tau", "long_name": "time at which the signal was found settled"}
        return [
            *end_arrays(self.layout, self.problem, now.state, now.time),
            Array("settled_at", ("signal",), settled_at, attributes),
        ]


def plan_recording(
    field: Field,
    times: Tensor | _checks.Numbers,
    state: State | None,
    selection: Selection,
    integration: Mapping[str, Any],
    *,
    coordinates: Mapping[str, NDArray[np.generic]] | None = None,
    attributes: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    monitor: Monitor | None = None,
) -> RecordingPlan:
    """The plan of a recording; `record` explains the arguments. Raises ValueError for those that do not fit."""
    options = _integrator_options(integration)
    field = with_interventions(field.detach(), options.pop("interventions"))
    instants = checked_times(times)
    start = field.checked(field.initial_state() if state is None else state)
    layout, problem = Layout(field, selection.neurons, selection.atoms), certified_problem(field)
    chunk = selection.chunk_for(start)
    quantities = chosen_quantities(layout, problem, selection.variables)
    _check_files(selection.points(len(instants)), chunk, len(quantities) + 1)
    identity = {
        **provenance.facts_of_field(field, start),
        **{f"stop_{name}" if name == "gap" else name: value for name, value in options.items() if name not in _FREE},
        **interventions_facts(field),
        "noise": "none" if options["noise"] is None else options["noise"].parameters(),
        "variables": [quantity.name for quantity in quantities],
        "every": selection.every,
        "neurons": _indices(layout.neurons.chosen),
        "atoms": _indices(layout.atoms.chosen),
        "chunk": chunk,
    }
    return RecordingPlan(
        field=field,
        state=start,
        layout=layout,
        problem=problem,
        quantities=quantities,
        times=instants,
        selection=selection,
        chunk=chunk,
        integration=options,
        identity=as_facts(identity),
        description=description_of(layout, coordinates, attributes, origin),
        monitor=monitor,
    )


def interventions_facts(field: Field) -> dict[str, Any]:
    """What is done to the field on the way, as facts; "none" where nothing is."""
    acting = field.interventions if isinstance(field, Intervened) else ()
    return {"interventions": [each.parameters() for each in acting] or "none"}


def _indices(chosen: tuple[int, ...] | None) -> list[int] | str:
    return "all" if chosen is None else list(chosen)


def _check_files(points: int, chunk: int, arrays: int) -> None:
    files = -(-points // chunk) * arrays
    if files > _MOST_FILES:
        least = -(-points * arrays // _MOST_FILES)
        raise ValueError(
            f"chunk is {chunk}: {points} recorded times of {arrays} variables make {files} files; a chunk of at least "
            f"{least}, or a larger every, is wanted"
        )


def _integrator_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `stream`, with its defaults for those that are not given."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(stream).parameters.items()
        if name not in ("field", "snapshot", "times", "chunk")
    }
    for name in given:
        if name not in known:
            wanted = f"one of {', '.join(known)} is wanted{meant(name, known)}"
            raise ValueError(f"{name} is no option of the integrator; {wanted}")
    return known | dict(given)


def times_digest(times: Tensor, index: int) -> str:
    """The hash of the times up to and including `index`."""
    return hashlib.sha256(times[: index + 1].numpy().tobytes()).hexdigest()


def as_float64(times: Tensor) -> NDArray[np.float64]:
    """Times as a numpy array."""
    return times.detach().cpu().double().numpy()
