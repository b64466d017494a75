"""Integrate a field to times or to equilibrium, whole or as a resumable stream."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._compile import uncompiled
from vars_dyn.dynamics.base import Field, State, half_square
from vars_dyn.integration import gradients
from vars_dyn.integration.plan import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    METHODS,
    MILD_CURVATURE,
    STABILISED_METHODS,
    UNSAFE_METHODS,
    Plan,
)
from vars_dyn.integration.results import IntegrationError, Snapshot, Trajectory, start_of
from vars_dyn.integration.scale import field_times, power_of, state_times, tolerances
from vars_dyn.integration.segment import Segment, failure
from vars_dyn.integration.times import checked_times
from vars_dyn.problems import SparseProblem

__all__ = ["integrate", "stream"]

#: A V that has risen by this many times its size is a runaway; a tolerance of a tenth was seen to raise it by one.
_RUNAWAY = 10.0


@uncompiled
def integrate(
    field: Field,
    state: State,
    times: Tensor,
    method: str = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    gap: float | None = None,
    gradient: str | gradients.Mode = "backprop",
    *,
    step: float | None = None,
    cap_steps: bool | None = None,
    check_every: float | None = None,
    max_steps: int = 1_000_000,
) -> Trajectory:
    """Integrate a field from `state` at times[0] and return the states at `times`.

    Args:
        field: the right-hand side.
        state: the state at times[0], a tuple shaped like `field.initial_state()`.
        times: increasing, at least one; in membrane time constants.
        method: "dopri5" (`vars_dyn.integration.steppers.dopri5`), "rkc", the stabilised method for long ways to the equilibrium
            (`vars_dyn.integration.steppers.rkc`), "auto", which changes between these two on the way to the one that takes fewer
            evaluations (`vars_dyn.integration.steppers.auto`), or one of torchdiffeq's adaptive ("dopri8", "bosh3", "fehlberg2",
            "adaptive_heun") or fixed-step methods ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams",
            "implicit_adams").
        rtol: relative tolerance of the adaptive methods. The error norm is the largest over signals of each one's RMS,
            so idle signals do not dilute a live one's error, times sqrt(field.stiffness() tau / 20) where that is above
            one (tau the smaller time constant): V weighs errors by its curvature, and must not rise by them.
        atol: absolute tolerance, likewise, for signals of size one: it is multiplied by each signal's size, max |x| (or
            lam where x is zero), so that (s x, s lam) gives s times the trajectory at any s. Where 8 / alpha or
            8 |P| / (alpha beta) is below one, z or u is measured by so much less.
        gap: the relative gap at which a signal counts as settled and leaves the batch, its state carried on unchanged;
            None integrates all signals to the end.
        gradient: how to differentiate through the integration: "backprop", "checkpoint" or "adjoint", or one of them
            with its settings (`vars_dyn.integration.gradients`).
        step: step of a fixed-step method, at most; one past the method's stability limit is refused. By default it
            steps from each of `times` to the next, in several steps where one would be past nine tenths of the limit.
            For an adaptive method, the first step to try.
        cap_steps: whether no step may exceed the method's stability limit over `field.stiffness()`. By default where a
            gap or a gradient is wanted: uncapped, the error near an attractor stalls at about rtol.
        check_every: time between looks at the gap; by default one time constant, or ten capped steps if that is longer
            (for "rkc" and "auto" doubling as time goes on, so that its steps may grow).
        max_steps: attempted steps at most.

    Returns:
        A `Trajectory`, always len(times) long.

    Raises:
        ValueError: for arguments that do not fit, and for a gap on a field of which no stable equilibrium is proved
            (integrating that to a time warns).
        IntegrationError: with the trajectory so far, when the integration cannot go on: at a state or a gap that is
            not a number, or a runaway, too.

    With a gap, or a gradient through the steps, the method is restarted at every look; a fixed-step Adams method loses
    its history there. Autocast is off inside: the solve runs in the field's own dtype. To find the equilibrium only,
    `vars_dyn.equilibrium` is faster; integrate for the path that leads there.
    """
    times = checked_times(times)
    field.checked(state)
    mode = gradients.through_time(gradient)
    differentiable = gradients.is_wanted(field, state)
    if differentiable and isinstance(mode, gradients.Adjoint) and method in STABILISED_METHODS:
        raise ValueError(f'method is "{method}", which has no adjoint; backprop or checkpoint is wanted, or dopri5')
    capped = differentiable if cap_steps is None else cap_steps
    with torch.autocast(field.x.device.type, enabled=False):
        power = power_of(field, state)
        near = field_times(field, power)
        plan = _plan(near, method, rtol, atol, gap, step, capped, max_steps)
    spacing = _spacing(plan, field, check_every) if gap is not None else _Spacing(math.inf)
    if differentiable and gap is None:
        spacing = _Spacing(mode.segment(plan, float(times[-1] - times[0])))
    start = start_of(field, state_times(state, power), float(times[0]), None if method in FIXED_METHODS else step)
    flat, snapshot = _flatten(near, start)
    start_state = snapshot.state
    rows = [tuple(part[None] for part in start_state)]
    with torch.set_grad_enabled(differentiable), torch.autocast(field.x.device.type, enabled=False):
        try:
            for end, inside in _segments(start.time, times[1:] if len(start.live.flatten()) else times[:0], spacing):
                states, snapshot = _advance(plan, flat, snapshot, inside, end, mode if differentiable else _PLAIN)
                rows.append(states)
                if not bool(snapshot.live.any()):
                    break
            _check_range(plan, rows, snapshot.time, power)
            _check_end(plan, flat, start_state, snapshot)
        except IntegrationError as error:
            rows.extend([] if error.partial is None else [error.partial])
            error.trajectory = _trajectory(field, times, rows, snapshot, power)
            raise
        missing = len(times) - sum(len(parts[0]) for parts in rows)
        rows.append(tuple(part.expand(missing, *part.shape) for part in snapshot.state))
        return _trajectory(field, times, rows, snapshot, power)


_PLAIN = gradients.Backprop()


def stream(
    field: Field,
    snapshot: Snapshot,
    times: Tensor,
    *,
    method: str = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    gap: float | None = None,
    chunk: int = 64,
    step: float | None = None,
    cap_steps: bool | None = None,
    check_every: float | None = None,
    max_steps: int = 1_000_000,
) -> Iterator[tuple[Tensor, State, Snapshot]]:
    """Integrate in chunks of `chunk` times, yielding (times, states, snapshot at the chunk's end) for each.

    The memory needed does not depend on len(times). The method is restarted at each chunk's end, and at each look at
    the gap, from what the snapshot holds and from nothing else: a run that goes on from a stored snapshot takes the
    very steps that it would have taken. `times` are those after `snapshot.time` (a first one equal to it yields the
    state there as part of the first chunk). It ends early once all signals have settled, with a chunk that is shorter,
    and empty where that was before its first time. Other arguments, and what is raised, are as for `integrate`, an
    error's trajectory being that of its chunk; there is no gradient.
    """
    _checks.count("chunk", chunk)
    field.checked(snapshot.state)
    times = checked_times(times)
    if float(times[0]) < snapshot.time:
        raise ValueError(f"times begin at {float(times[0])}, before the snapshot's time {snapshot.time}")
    field = field.detach()
    power = power_of(field, snapshot.state)
    plan = _plan(field_times(field, power), method, rtol, atol, gap, step, bool(cap_steps), max_steps)
    spacing = _spacing(plan, field, check_every) if gap is not None else _Spacing(math.inf)
    return _stream(field, snapshot, times, plan, spacing, chunk, power)


def _stream(
    field: Field, snapshot: Snapshot, times: Tensor, plan: Plan, spacing: _Spacing, chunk: int, power: int
) -> Iterator[tuple[Tensor, State, Snapshot]]:
    flat, current = _flatten(field_times(field, power), snapshot._replace(state=state_times(snapshot.state, power)))
    for first in range(0, len(times), chunk):
        part = times[first : first + chunk]
        rows: list[State] = []
        begun = current.state
        if float(part[0]) == current.time:
            rows.append(tuple(p[None] for p in current.state))
        try:
            with torch.no_grad():
                for end, inside in _segments(current.time, part[len(rows) :], spacing):
                    states, current = _advance(plan, flat, current, inside, end, _PLAIN)
                    rows.append(states)
                    if not bool(current.live.any()):
                        break
                _check_range(plan, rows, current.time, power)
                _check_end(plan, flat, begun, current)
        except IntegrationError as error:
            rows.extend([] if error.partial is None else [error.partial])
            error.trajectory = _trajectory(field, part, rows, current, power)
            raise
        joined = state_times(tuple(torch.cat(parts) for parts in zip(*rows, strict=True)), -power)
        count = len(joined[0])
        yield part[:count], _shaped(field, joined, count), _unflatten(field, current, power)
        if not bool(current.live.any()):
            return


def _plan(
    field: Field,
    method: str,
    rtol: float,
    atol: float,
    gap: float | None,
    step: float | None,
    cap_steps: bool,
    max_steps: int,
) -> Plan:
    _checks.choice("method", method, METHODS)
    _checks.number("rtol", rtol, positive=True)
    _checks.number("atol", atol, positive=True)
    _checks.count("max_steps", max_steps)
    if step is not None:
        _checks.number("step", step, positive=True)
    _checks.full_precision("x", field.x)
    reason = field.instability()
    problem = None
    if gap is not None:
        _checks.number("gap", gap, positive=True)
        if reason:
            raise ValueError(f"gap is {gap}, but {reason}")
        with torch.no_grad():
            problem = field.detach().problem().flat()
    elif reason:
        warnings.warn(reason, stacklevel=3)
    stiffness = float(field.stiffness().max())
    # What "auto" caps are its steps of dopri5.
    limit = {**ADAPTIVE_METHODS, **FIXED_METHODS, "auto": ADAPTIVE_METHODS["dopri5"]}.get(method, math.inf)
    cap = limit / stiffness if (cap_steps or gap is not None) else math.inf
    if method in UNSAFE_METHODS and not cap_steps:
        cap = UNSAFE_METHODS[method] * limit / stiffness
    if method in FIXED_METHODS:
        longest = limit / float(field.decay().max())
        if step is not None and step > longest * (1 + 1e-9):
            raise ValueError(
                f"step is {step:.6g}, which {method} is not stable at: its limit over the field's fastest decay is "
                f"{longest:.6g}; a step of at most that is wanted, or none, for steps that end at the times asked for"
            )
        step = 0.9 * longest if step is None else step
    fastest = min(
        (_checks.plain(v) for name, v in field.constants.items() if name.startswith("tau")),
        default=1.0,
    )
    emphasis = math.sqrt(max(1.0, stiffness * fastest / MILD_CURVATURE))
    return Plan(
        method=method,
        rtol=float(rtol),
        atol=float(atol),
        tolerance=tolerances(field.flat(), float(atol)),
        cap=cap,
        stiffness=stiffness,
        emphasis=emphasis,
        step=step,
        gap=gap,
        problem=problem,
        max_steps=max_steps,
        stable=not reason,
    )


class _Spacing(NamedTuple):
    """The time between restarts: even, or doubling whenever the time since zero has, so that long steps stay
    possible.
    """

    every: float
    doubles: bool = False

    def after(self, time: float) -> float:
        """The next restart after `time`, a whole multiple of the spacing there, wherever a run is taken up again."""
        if not math.isfinite(self.every):
            return math.inf
        every = self.every
        if self.doubles:
            every *= 2.0 ** max(0, math.floor(math.log2(max(abs(time) / (8 * every), 1.0)) + 1e-9))
        cut = (math.floor(time / every * (1 + 1e-12)) + 1) * every
        return cut if cut > time else math.inf


def _spacing(plan: Plan, field: Field, check_every: float | None) -> _Spacing:
    if check_every is not None:
        return _Spacing(float(_checks.number("check_every", check_every, positive=True)))
    constant = _checks.plain(field.constants.get("tau_u", field.constants.get("tau_z", 1.0)))
    if plan.method in STABILISED_METHODS:
        return _Spacing(constant, doubles=True)
    return _Spacing(max(constant, 10 * plan.cap if plan.method in ADAPTIVE_METHODS else 0.0))


class _Cut(NamedTuple):
    """A segment's end and the outputs on it."""

    end: float
    outputs: Tensor


def _segments(start: float, outputs: Tensor, spacing: _Spacing) -> Iterator[_Cut]:
    """Cut the way from `start` past all `outputs` where `spacing` says."""
    time, first = start, 0
    while first < len(outputs):
        end = min(float(outputs[-1]), spacing.after(time))
        inside = int(torch.searchsorted(outputs, end, right=True))
        yield _Cut(end, outputs[first:inside])
        time, first = end, inside


def _flatten(field: Field, snapshot: Snapshot) -> tuple[Field, Snapshot]:
    flat = field.flat()
    return flat, _reshaped(snapshot, flat.signal_batch, field.event_shapes)


def _unflatten(field: Field, snapshot: Snapshot, power: int) -> Snapshot:
    own = snapshot._replace(state=state_times(snapshot.state, -power))
    return _reshaped(own, field.signal_batch, field.event_shapes)


def _reshaped(snapshot: Snapshot, batch: tuple[int, ...], events: tuple[tuple[int, ...], ...]) -> Snapshot:
    state = tuple(part.reshape(*batch, *event) for part, event in zip(snapshot.state, events, strict=True))
    live, gap, settled = (t.reshape(batch) for t in (snapshot.live, snapshot.relative_gap, snapshot.settled_at))
    return snapshot._replace(state=state, live=live, relative_gap=gap, settled_at=settled)


def _shaped(field: Field, states: State, count: int) -> State:
    batch = field.signal_batch
    return tuple(part.reshape(count, *batch, *event) for part, event in zip(states, field.event_shapes, strict=True))


def _check_range(plan: Plan, rows: list[State], time: float, power: int) -> None:
    """IntegrationError where states that were scaled down are beyond the dtype once they are scaled back."""
    if power < 0:
        parts = [part.detach() for row in rows for part in row if part.numel()]
        largest = max((float(part.abs().max()) for part in parts), default=0.0)
        if parts and math.frexp(largest)[1] - power > math.frexp(torch.finfo(parts[0].dtype).max)[1]:
            raise failure("the state grows out of range", time, [], plan)


def _check_end(plan: Plan, field: Field, start: State, snapshot: Snapshot) -> None:
    """IntegrationError where V, which never rises, is far above where it began: fixed steps have nothing else that
    would notice a runaway, and stability limits are known for linear fields.
    """
    if plan.method not in FIXED_METHODS or not plan.stable:
        return
    with torch.no_grad():
        first, last = (field.lyapunov(tuple(part.detach() for part in state)) for state in (start, snapshot.state))
        event = field.dictionary.signal_shape
        allowed = first + _RUNAWAY * (first.abs() + half_square(field.x, event))
        rows = (~(last <= allowed)).flatten().nonzero().flatten().tolist()
    if rows:
        raise failure("the state runs away", snapshot.time, rows, plan)


def _trajectory(field: Field, times: Tensor, rows: list[State], snapshot: Snapshot, power: int) -> Trajectory:
    joined = tuple(torch.cat(parts) for parts in zip(*(rows or [_none_of(snapshot.state)]), strict=True))
    count = len(joined[0])
    states = _shaped(field, state_times(joined, -power), count)
    snapshot = _unflatten(field, snapshot, power)
    gap = snapshot.relative_gap
    if count and bool(gap.isnan().any()) and field.instability() is None:
        with torch.no_grad():
            fixed = field.detach()
            gap = fixed.problem().relative_gap(fixed.code(tuple(part[-1].detach() for part in states)))
    return Trajectory(times[:count], states, snapshot.statistics, gap, snapshot.settled_at)


def _none_of(state: State) -> State:
    """States at no time."""
    return tuple(part.new_zeros(0, *part.shape) for part in state)


def _advance(
    plan: Plan,
    field: Field,
    snapshot: Snapshot,
    outputs: Tensor,
    end: float,
    mode: gradients.Backprop | gradients.Checkpoint | gradients.Adjoint,
) -> tuple[State, Snapshot]:
    """Carry a flat field from the snapshot to time `end`; returns the states at `outputs` and the new snapshot."""
    moving_rows = snapshot.live.reshape(len(snapshot.live), -1).any(-1)
    if not bool(moving_rows.any()):
        return tuple(p.expand(len(outputs), *p.shape) for p in snapshot.state), snapshot._replace(time=end)
    index = None if bool(moving_rows.all()) else moving_rows.nonzero().squeeze(-1)
    part_of = _Part(index, snapshot.live if index is None else snapshot.live[index])
    moving = field if index is None else field.select(index)
    state = tuple(part_of.take(part) for part in snapshot.state)
    numbers = torch.arange(snapshot.live.numel(), device=state[0].device).reshape(snapshot.live.shape)
    taken = part_of.take(numbers).flatten()
    segment = Segment(plan, snapshot._replace(state=state), outputs, end, taken)
    try:
        states, last = mode.solve(segment, moving, state)
    except IntegrationError as error:
        if error.partial is not None:
            error.partial = part_of.put(snapshot.state, error.partial)
        raise
    states = part_of.put(snapshot.state, states)
    last = tuple(part[0] for part in part_of.put(snapshot.state, tuple(part[None] for part in last)))
    after = snapshot._replace(time=end, state=last, step=segment.next_step, statistics=segment.statistics)
    if plan.problem is None or plan.gap is None:
        return states, after
    certified = _certified(plan.gap, plan.problem, moving, after, part_of)
    if lost := (certified.live & certified.relative_gap.isnan()).flatten().nonzero().flatten().tolist():
        lost_gap = failure("the gap is not a number", end, lost, plan)
        lost_gap.partial = states
        raise lost_gap
    return states, certified


@dataclass(frozen=True)
class _Part:
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


def _certified(goal: float, problem: SparseProblem, moving: Field, after: Snapshot, part: _Part) -> Snapshot:
    """The snapshot with the gaps of the signals that moved, those within `goal` settled."""
    with torch.no_grad():
        own = problem if part.index is None else problem.select(part.index)
        found = own.relative_gap(moving.detach().code(tuple(part.take(p.detach()) for p in after.state)))
        found = torch.where(part.live, found, part.take(after.relative_gap))
        gap = found if part.index is None else after.relative_gap.index_copy(0, part.index, found)
        settled = after.live & (gap <= goal)
        settled_at = torch.where(settled, after.time, after.settled_at)
    return after._replace(relative_gap=gap, live=after.live & ~settled, settled_at=settled_at)
