"""What integrations start from, return and raise."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vars_dyn._showing import as_line, as_table, largest
from vars_dyn.dynamics.base import Field, State

__all__ = ["IntegrationError", "Monitor", "Snapshot", "Statistics", "Trajectory", "start_of", "verdict"]


class Statistics(NamedTuple):
    """Work done so far, for the batch as a whole: evaluations of f, and steps accepted and rejected."""

    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0


class Snapshot(NamedTuple):
    """Everything that an integration uses to go on from a moment.

    Attributes:
        time: the moment, in membrane time constants.
        state: the state there, parts of shape (*signal_batch, *event).
        step: the step that the method would try next; None to let it choose.
        live: of shape signal_batch; False for signals that have settled and whose state is carried on unchanged.
        relative_gap: of shape signal_batch, as last computed; NaN where it was not computed.
        settled_at: the time at which a signal was found settled; NaN where it was not.
        statistics: work done since the start of the run.
    """

    time: float
    state: State
    step: float | None
    live: Tensor
    relative_gap: Tensor
    settled_at: Tensor
    statistics: Statistics


#: A function that sees a run's snapshots, and may stop it by returning the reason as a text.
Monitor = Callable[[Snapshot], str | None]


def verdict(monitor: Monitor | None, snapshot: Snapshot) -> str | None:
    """The monitor's reason to stop the run at the snapshot; None to go on. ValueError for any other answer."""
    reason = None if monitor is None else monitor(snapshot)
    if reason is not None and not isinstance(reason, str):
        raise ValueError(f"the monitor returned {reason!r}; a text with the reason to stop, or None, is wanted")
    return reason


class Trajectory(NamedTuple):
    """What `integrate` returns.

    Attributes:
        times: the times asked for, float64.
        states: a tuple like the field's state, every part with time first.
        statistics: evaluations of f, steps accepted and rejected.
        relative_gap: at the end, per signal; NaN where the field has no stable equilibrium.
        settled_at: per signal, the time at which it was found settled; NaN where no gap was asked for or reached.
        stopped: the reason for which a monitor stopped the run; None where none did. A run that was stopped has the
            times up to there.
        field: the field that was integrated, with its interventions.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> field = vd.SparseRecurrent(P, x, lam=0.5)
        >>> times = torch.linspace(0, 100, 5, dtype=torch.float64)
        >>> trajectory = vd.integrate(field, field.initial_state(), times, gap=1e-6)
        >>> [part.shape for part in trajectory.states], trajectory.relative_gap.item() <= 1e-6
        ([torch.Size([5, 3]), torch.Size([5, 3])], True)
    """

    times: Tensor
    states: State
    statistics: Statistics
    relative_gap: Tensor
    settled_at: Tensor
    stopped: str | None = None
    field: Field | None = None

    def to_dataset(self, field: Field | None = None, **keywords: Any) -> Any:
        """The trajectory as an `xarray.Dataset` with labels and units, like that of a store.

        Args:
            field: the field that was integrated; by default the one that the trajectory knows.
            keywords: those of `vars_dyn.to_dataset`, such as `variables`, `every` and `atoms`.

        Raises ValueError for a trajectory without a field.
        """
        field = self.field if field is None else field
        if field is None:
            raise ValueError("the trajectory has no field; the field that was integrated is wanted as an argument")
        # A shortcut for notebooks, which is looked up by name since recordings are built on trajectories.
        return importlib.import_module("vars_dyn.recording").to_dataset(field, self, **keywords)

    def described(self) -> dict[str, object]:
        """What notebooks and `repr` show: times, shapes, the certificate at the end, and the work."""
        times = self.times
        span = f"{len(times)} from {float(times[0]):.4g} to {float(times[-1]):.4g}" if len(times) else "0"
        field = {} if self.field is None else {"field": type(self.field).__name__}
        names = self.field.state_names if self.field is not None else [f"state_{k}" for k in range(len(self.states))]
        return {
            **field,
            "times": span,
            **{name: tuple(part.shape) for name, part in zip(names, self.states, strict=True)},
            "relative_gap": f"at most {largest(self.relative_gap)}",
            "evaluations": self.statistics.evaluations,
            **({} if self.stopped is None else {"stopped": self.stopped}),
        }

    def __repr__(self) -> str:
        return as_line("Trajectory", self.described())

    def _repr_html_(self) -> str:
        return as_table("Trajectory", self.described())


class IntegrationError(RuntimeError):
    """The integration cannot go on, for example at a non-finite state, a step-size underflow, or the step limit.

    Attributes:
        time: when it failed.
        signals: the flat indices of the signals at fault, the worst first.
        trajectory: the states up to there, at the times asked for (None from `stream`, which has yielded them).

    Examples:
        >>> P = vd.DenseDictionary(torch.tensor([[1.0, 0.6], [0.0, 0.8]], dtype=torch.float64))
        >>> field = vd.SparseRecurrent(P, torch.ones(2, dtype=torch.float64), lam=0.1)
        >>> times = torch.tensor([0.0, 100.0], dtype=torch.float64)
        >>> try:
        ...     vd.integrate(field, field.initial_state(), times, max_steps=3)
        ... except vd.IntegrationError as error:
        ...     print(error.time < 100, error.trajectory.times.tolist())
        True [0.0]
    """

    def __init__(self, message: str, time: float, signals: list[int]) -> None:
        super().__init__(message)
        self.time, self.signals = time, signals
        self.trajectory: Trajectory | None = None
        #: States of the segment that failed, up to the failure.
        self.partial: State | None = None


def start_of(field: Field, state: State, time: float = 0.0, step: float | None = None) -> Snapshot:
    """The snapshot of a run that begins at `time` in `state`: every signal live, nothing counted."""
    nothing = torch.full(field.signal_batch, math.nan, dtype=field.dtype, device=field.device)
    live = torch.ones(field.signal_batch, dtype=torch.bool, device=field.device)
    return Snapshot(time, state, step, live, nothing, nothing.clone(), Statistics())
