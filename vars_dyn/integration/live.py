"""Which signals are live: only these are integrated, and each settles once its gap is reached."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration.plan import Plan
from vars_dyn.integration.results import IntegrationError, Snapshot
from vars_dyn.integration.segment import Segment, failure
from vars_dyn.integration.times import Cut
from vars_dyn.problems import SparseProblem

__all__ = ["SegmentSolver", "advance"]

#: Gives a segment's states at its outputs and at its end: `Segment.solve`, or a gradient mode's `solve`.
SegmentSolver = Callable[[Segment, Field, State], tuple[State, State]]


def advance(plan: Plan, field: Field, snapshot: Snapshot, cut: Cut, solve: SegmentSolver) -> tuple[State, Snapshot]:
    """Carry a flat field from the snapshot to the cut's end; returns the states at its outputs and the new snapshot."""
    moving_rows = snapshot.live.reshape(len(snapshot.live), -1).any(-1)
    if not bool(moving_rows.any()):
        return tuple(p.expand(len(cut.outputs), *p.shape) for p in snapshot.state), snapshot._replace(time=cut.end)
    index = None if bool(moving_rows.all()) else moving_rows.nonzero().squeeze(-1)
    rows = _Rows(index, snapshot.live if index is None else snapshot.live[index])
    moving = (field if index is None else field.select(index)).during(snapshot.time, cut.end)
    state = tuple(rows.take(part) for part in snapshot.state)
    numbers = torch.arange(snapshot.live.numel(), device=state[0].device).reshape(snapshot.live.shape)
    segment = Segment(plan, snapshot._replace(state=state), cut.outputs, cut.end, rows.take(numbers).flatten())
    try:
        states, last = solve(segment, moving, state)
    except IntegrationError as error:
        if error.partial is not None:
            error.partial = rows.put(snapshot.state, error.partial)
        raise
    states = rows.put(snapshot.state, states)
    last = tuple(part[0] for part in rows.put(snapshot.state, tuple(part[None] for part in last)))
    held = field.held(cut.end, last)
    if held is not last:
        if len(cut.outputs) and float(cut.outputs[-1]) == cut.end:
            states = tuple(torch.cat([part[:-1], end[None]]) for part, end in zip(states, held, strict=True))
        last = held
    after = snapshot._replace(time=cut.end, state=last, step=segment.next_step, statistics=segment.statistics)
    if plan.gap is None:
        return states, after
    # While x moves or interventions are to come, the gap is that to the problem of the moment, and no signal settles.
    goal, problem = plan.gap, plan.problem
    if problem is None or snapshot.time < plan.settles_from:
        if not field.moves:
            return states, after
        moving = (field if index is None else field.select(index)).detach().at(cut.end)
        goal, problem = -math.inf, _of_the_moment(field, cut.end)
        if problem is None:
            return states, after
    certified = _certified(goal, problem, moving, after, rows)
    if lost := (certified.live & certified.relative_gap.isnan()).flatten().nonzero().flatten().tolist():
        lost_gap = failure("the gap is not a number", cut.end, lost, plan)
        lost_gap.partial = states
        raise lost_gap
    return states, certified


def _of_the_moment(field: Field, time: float) -> SparseProblem | None:
    """The problem at a time; None where there is none, as where an intervention breaks the symmetry of the synapses."""
    with torch.no_grad(), contextlib.suppress(ValueError):
        return field.detach().at(time).problem()
    return None


@dataclass(frozen=True)
class _Rows:
    """The rows that are integrated (None for all), and which of the signals in them are live."""

    index: Tensor | None
    live: Tensor

    def take(self, value: Tensor) -> Tensor:
        return value if self.index is None else value[self.index]

    def put(self, base: State, moved: State) -> State:
        """Time-first states of all signals: `moved` where they are live, `base` where they have settled."""
        placed = []
        for part, new in zip(base, moved, strict=True):
            if not bool(self.live.all()):
                mask = self.live.reshape(*self.live.shape, *(1,) * (part.ndim - self.live.ndim))
                new = torch.where(mask, new, self.take(part))
            placed.append(
                new if self.index is None else part.expand(len(new), *part.shape).index_copy(1, self.index, new)
            )
        return tuple(placed)


def _certified(goal: float, problem: SparseProblem, moving: Field, after: Snapshot, rows: _Rows) -> Snapshot:
    """The snapshot with new gaps for the signals that moved; those within `goal` become settled."""
    with torch.no_grad():
        own = problem if rows.index is None else problem.select(rows.index)
        found = own.relative_gap(moving.detach().unknowns(tuple(rows.take(p.detach()) for p in after.state)))
        found = torch.where(rows.live, found, rows.take(after.relative_gap))
        gap = found if rows.index is None else after.relative_gap.index_copy(0, rows.index, found)
        settled = after.live & (gap <= goal)
        settled_at = torch.where(settled, after.time, after.settled_at)
    return after._replace(relative_gap=gap, live=after.live & ~settled, settled_at=settled_at)
