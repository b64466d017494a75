"""A run: a field in the form that is integrated, flat and scaled near one, and the way back to what the user gave."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vars_dyn.dynamics.base import Field, State, half_square
from vars_dyn.integration.live import SegmentSolver, advance
from vars_dyn.integration.plan import Options, Plan, plan_for
from vars_dyn.integration.results import IntegrationError, Snapshot, Trajectory
from vars_dyn.integration.scale import field_times, power_of, state_times
from vars_dyn.integration.segment import failure
from vars_dyn.integration.times import Spacing, cuts

__all__ = ["Run", "run_for"]

#: A V that has risen by this many times its size is a runaway. A tolerance of 0.1 was seen to raise it by one.
_RUNAWAY = 10.0


@dataclass(frozen=True)
class Run:
    """A field and how to integrate it.

    Attributes:
        field: as the user gave it.
        flat: the same field with one dimension of signals, and with x and lam times two to the `power`.
        power: the exponent of two that brings the largest number near one.
        plan: the method and its settings, for `flat`.
    """

    field: Field
    flat: Field
    power: int
    plan: Plan

    def entered(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot of the field, turned into one of `flat`."""
        scaled = snapshot._replace(state=state_times(snapshot.state, self.power))
        return _reshaped(scaled, self.flat.signal_batch, self.field.event_shapes)

    def left(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot of `flat`, turned into one of the field."""
        own = snapshot._replace(state=state_times(snapshot.state, -self.power))
        return _reshaped(own, self.field.signal_batch, self.field.event_shapes)

    def states(self, rows: list[State]) -> State:
        """The rows, of `flat` and with time first, as the field's states at all their times."""
        joined = state_times(tuple(torch.cat(parts) for parts in zip(*rows, strict=True)), -self.power)
        batch, shapes = self.field.signal_batch, self.field.event_shapes
        return tuple(part.reshape(len(part), *batch, *event) for part, event in zip(joined, shapes, strict=True))

    def carry(
        self, snapshot: Snapshot, times: Tensor, spacing: Spacing, solve: SegmentSolver
    ) -> tuple[list[State], Snapshot]:
        """Integrate from a snapshot of `flat` past all `times`; returns rows of states there and the last snapshot.

        The run ends early once all signals have settled. An IntegrationError carries the trajectory up to there.
        """
        snapshot = snapshot._replace(state=self.flat.held(snapshot.time, snapshot.state))
        begun, rows = snapshot, list[State]()
        if float(times[0]) == snapshot.time:
            rows.append(tuple(part[None] for part in begun.state))
        try:
            for cut in cuts(snapshot.time, times[len(rows) :], spacing, self.flat.boundaries):
                states, snapshot = advance(self.plan, self.flat, snapshot, cut, solve)
                rows.append(states)
                if not bool(snapshot.live.any()):
                    break
            self._check_range(rows, snapshot.time)
            self._check_end(begun, snapshot)
        except IntegrationError as error:
            rows.extend([] if error.partial is None else [error.partial])
            error.trajectory = self.trajectory(times, rows, snapshot)
            raise
        return rows, snapshot

    def trajectory(self, times: Tensor, rows: list[State], snapshot: Snapshot) -> Trajectory:
        """The trajectory that the rows make up; they are the states at the first of `times`."""
        states = self.states(rows or [tuple(part.new_zeros(0, *part.shape) for part in snapshot.state)])
        count = len(states[0])
        snapshot = self.left(snapshot)
        gap = snapshot.relative_gap
        if count and bool(gap.isnan().any()):
            with torch.no_grad(), contextlib.suppress(ValueError):
                fixed = self.field.detach().at(float(times[count - 1]))
                if fixed.instability() is None:
                    gap = fixed.problem().relative_gap(fixed.unknowns(tuple(part[-1].detach() for part in states)))
        return Trajectory(times[:count], states, snapshot.statistics, gap, snapshot.settled_at, field=self.field)

    def _check_range(self, rows: list[State], time: float) -> None:
        """IntegrationError where states that were scaled down are beyond the dtype once they are scaled back."""
        if self.power < 0:
            parts = [part.detach() for row in rows for part in row if part.numel()]
            largest = max((float(part.abs().max()) for part in parts), default=0.0)
            if parts and math.frexp(largest)[1] - self.power > math.frexp(torch.finfo(parts[0].dtype).max)[1]:
                raise failure("the state grows out of range", time, [], self.plan)

    def _check_end(self, start: Snapshot, snapshot: Snapshot) -> None:
        """IntegrationError where V, which never rises, is far above its start.

        With fixed steps nothing else would notice a runaway, and stability limits are known for linear fields only.
        Where x moves, V may rise.
        """
        jumps = any(start.time < boundary <= snapshot.time for boundary in self.flat.boundaries)
        still = self.plan.stable and not self.flat.moves and not jumps
        if self.plan.method.adaptive or not still or self.plan.forcing is not None:
            return
        field = self.flat.during(start.time, snapshot.time)
        with torch.no_grad():
            first, last = (
                field.lyapunov(tuple(part.detach() for part in state)) for state in (start.state, snapshot.state)
            )
            allowed = first + _RUNAWAY * (first.abs() + half_square(self.flat.x, self.flat.dictionary.signal_shape))
            rows = (~(last <= allowed)).flatten().nonzero().flatten().tolist()
        if rows:
            raise failure("the state runs away", snapshot.time, rows, self.plan)


def run_for(field: Field, state: State, options: Options, capped: bool) -> Run:
    """The run of a field from `state`; `capped` and what is raised are as for `plan_for`."""
    power = power_of(field, state)
    near = field_times(field, power)
    return Run(field, near.flat(), power, plan_for(near, options, capped, power))


def _reshaped(snapshot: Snapshot, batch: tuple[int, ...], events: tuple[tuple[int, ...], ...]) -> Snapshot:
    state = tuple(part.reshape(*batch, *event) for part, event in zip(snapshot.state, events, strict=True))
    live, gap, settled = (t.reshape(batch) for t in (snapshot.live, snapshot.relative_gap, snapshot.settled_at))
    return snapshot._replace(state=state, live=live, relative_gap=gap, settled_at=settled)
