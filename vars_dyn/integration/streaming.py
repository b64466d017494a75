"""Integrate in chunks, as a stream that can be resumed from any of its snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration.plan import Options, refuse_hopeless
from vars_dyn.integration.results import Snapshot
from vars_dyn.integration.run import Run, run_for
from vars_dyn.integration.segment import Segment
from vars_dyn.integration.times import Spacing, checked_times, earliest_end, looks_at_gap
from vars_dyn.interventions import Intervention, with_interventions
from vars_dyn.noise import Noise

__all__ = ["stream"]


def stream(
    field: Field,
    snapshot: Snapshot,
    times: Tensor | _checks.Numbers,
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
    interventions: Sequence[Intervention] | None = None,
    noise: Noise | None = None,
) -> Iterator[tuple[Tensor, State, Snapshot]]:
    """Integrate in chunks of `chunk` times, yielding (times, states, snapshot at the chunk's end) for each.

    The memory needed does not depend on len(times). The method is restarted at each chunk's end, and at each look at
    the gap, from what the snapshot holds and from nothing else. So a run that resumes from a stored snapshot takes the
    same steps as one that was not interrupted. `times` are those after `snapshot.time`; a first time that is equal to
    it yields the state there as part of the first chunk. The stream ends early once all signals have settled: its last
    chunk is then shorter, or empty if they settled before its first time. There is no gradient. Other arguments, and
    what is raised, are as for `integrate`, but an error has the trajectory of its own chunk only. A caller that wants
    to stop a run, as a monitor does, leaves the loop over the stream.
    """
    options = Options(method, rtol, atol, gap, step, cap_steps, check_every, max_steps, noise)
    field = with_interventions(field, interventions)
    _checks.count("chunk", chunk)
    field.checked(snapshot.state)
    times = checked_times(times)
    if float(times[0]) < snapshot.time:
        raise ValueError(f"times begin at {float(times[0])}, before the snapshot's time {snapshot.time}")
    run = run_for(field.detach(), snapshot.state, options, capped=bool(cap_steps))
    spacing, last = looks_at_gap(run.plan, field, check_every), float(times[:chunk][-1])
    if bool(snapshot.live.any()):
        refuse_hopeless(run.plan, snapshot.time, earliest_end(run.plan, spacing, snapshot.time, last))
    return _chunks(run, snapshot, times, spacing, chunk)


def _chunks(
    run: Run, snapshot: Snapshot, times: Tensor, spacing: Spacing, chunk: int
) -> Iterator[tuple[Tensor, State, Snapshot]]:
    current = run.entered(snapshot)
    for part in times.split(chunk):
        with torch.no_grad():
            rows, current = run.carry(current, part, spacing, Segment.solve)
        states = run.states(rows)
        yield part[: len(states[0])], states, run.left(current)
        if not bool(current.live.any()):
            return
