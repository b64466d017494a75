"""One segment of an integration: it calls the solver, counts its work, and turns its failures into sentences."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration.plan import Plan
from vars_dyn.integration.results import IntegrationError, Snapshot, Statistics
from vars_dyn.integration.scale import Tolerance
from vars_dyn.integration.steppers.method import Settings, Solver, Time

__all__ = ["Segment", "failure"]

_REMEDIES = {
    "the state is not finite": "is the equilibrium stable, and is a fixed step below the stability limit over "
    "field.stiffness()? Try smaller steps, or scale the dictionary",
    "the derivative is not finite": "check the signals and the dictionary for overflow, or use float64",
    "the state runs away": "V rises, which it cannot; try smaller steps",
    "the gap is not a number": "check the signals and the dictionary for overflow, or use float64",
    "the state grows out of range": "is the equilibrium stable? Scale the dictionary, or stop earlier",
    "the step size underflows": "try float64, a larger rtol, or cap_steps=True",
    "the step limit is reached": "try a larger max_steps, a larger rtol, or a shorter time",
}


class Segment:
    """The way from a snapshot to the time `end`, with states wanted at the times `outputs`.

    Attributes:
        plan: the method and its settings.
        next_step: after `solve`, the step that an adaptive method would try next.
        statistics: after `solve`, the work done since the start of the run.
    """

    def __init__(self, plan: Plan, snapshot: Snapshot, outputs: Tensor, end: float, rows: Tensor) -> None:
        self.plan, self.start, self.outputs, self.end, self.rows = plan, snapshot, outputs, end, rows
        self.next_step = snapshot.step
        self.statistics = snapshot.statistics

    def solve(
        self,
        field: Field,
        state: State,
        solver: Solver | None = None,
        again: Solver | None = None,
        stops: Tensor | None = None,
    ) -> tuple[State, State]:
        """The states at the outputs and at the end; called again (to recompute), it takes the same steps.

        `solver` is the method's own by default. `again` takes the same steps without a gradient. `stops` are further
        times that the solver gives states at.
        """
        own = self.plan.method.odeint
        watch = _Watch(field, self.plan, self.start)
        ends = torch.tensor([self.start.time, self.end], dtype=torch.float64)
        times = torch.cat([ends, self.outputs, *([] if stops is None else [stops])]).unique()
        try:
            solution = self._call(solver or own, watch, state, times)
        except (_StopError, AssertionError):
            raise self._failure(field, state, watch, times, again or own) from None
        self._check_finite(solution, times, watch)
        self.statistics = watch.statistics()
        self.next_step = watch.proposed
        wanted = torch.searchsorted(times, self.outputs).to(solution[0].device)
        return tuple(part[wanted] for part in solution), tuple(part[-1] for part in solution)

    def _call(self, solver: Solver, watch: _Watch, state: State, times: Tensor) -> State:
        plan = self.plan
        settings = Settings(
            rtol=plan.rtol,
            atol=self.tolerance(state),
            norm=watch.norm,
            stiffness=plan.stiffness,
            end=self.end,
            first_step=self.start.step,
            longest=plan.cap,
            grid_step=plan.step,
        )
        return solver(watch, state, times.to(state[0].device), settings)

    def tolerance(self, state: State) -> Tolerance:
        """The absolute tolerance of every part of the segment's state: a number, or shaped like the part."""
        found: list[float | Tensor] = []
        for part, least in zip(state, self.plan.tolerance, strict=True):
            if isinstance(least, Tensor):
                own = least.flatten()[self.rows].to(part.device)
                # Written out, because broadcasting costs time at every step.
                each = part.numel() // len(own)
                least = own[:, None].expand(len(own), each).reshape(part.shape)
            found.append(least)
        return tuple(found)

    def _check_finite(self, solution: State, times: Tensor, watch: _Watch) -> None:
        if bool(torch.stack([torch.isfinite(part[-1]).all() for part in solution]).all()):
            return
        finite = torch.stack([torch.isfinite(part).flatten(1).all(1) for part in solution]).all(0)
        bad = int((~finite).nonzero()[0])
        rows = _rows(tuple(part[bad] for part in solution), watch.lead, torch.finfo(solution[0].dtype).max)
        error = self._error("the state is not finite", float(times[bad]), rows)
        error.partial = self._kept(solution, times[:bad])
        raise error

    def _failure(self, field: Field, state: State, watch: _Watch, times: Tensor, again: Solver) -> IntegrationError:
        """The error that says what went wrong, with the states up to there; taking the same steps again gives them."""
        largest = torch.finfo(state[0].dtype).max
        with torch.no_grad():
            if watch.attempts >= watch.left:
                what, rows = "the step limit is reached", watch.worst()
            elif rows := _rows(watch.last_state, watch.lead, largest):
                what = "the state is not finite"
            elif rows := _rows(watch.last_state, watch.lead, math.sqrt(largest) / 1e6):
                what = "the state grows out of range"
            elif rows := _rows(field.derivative(watch.last_time, watch.last_state), watch.lead, largest):
                what = "the derivative is not finite"
            elif not math.isfinite(self.plan.stiffness):
                what, rows = "the derivative is not finite", watch.worst()
            else:
                what, rows = "the step size underflows", watch.worst()
            error = self._error(what, watch.last_time, rows)
            kept = times[(times < watch.last_finite) | (times == times[0])]
            if len(kept) > 1:
                # Outputs do not change the steps: with the same start and options a method takes the same ones again.
                unlimited = _Watch(field, self.plan._replace(max_steps=2**62), self.start)
                error.partial = self._kept(self._call(again, unlimited, state, kept), kept)
        return error

    def _kept(self, solution: State, times: Tensor) -> State:
        """The rows of `solution`, given at `times`, that are at outputs."""
        keep = torch.isin(times, self.outputs).nonzero().squeeze(-1).to(solution[0].device)
        return tuple(part[keep] for part in solution)

    def _error(self, what: str, time: float, rows: list[int]) -> IntegrationError:
        return failure(what, time, [int(self.rows[row]) for row in rows], self.plan)


def failure(what: str, time: float, signals: list[int], plan: Plan) -> IntegrationError:
    """The error that says what happened, when, to which signals, and what may help."""
    named = f"signal {signals[0]}" if signals else "the batch"
    if len(signals) > 1:
        named += f" and {len(signals) - 1} more"
    counted = f" ({plan.max_steps} steps)" if what == "the step limit is reached" else ""
    text = f"{named}: {what}{counted} at t = {time:.6g} with {plan.method.name}; {_REMEDIES[what]}"
    return IntegrationError(text, time, signals)


class _StopError(Exception):
    """The watch raises it to leave the solver's loop."""


class _Watch:
    """The function that the solver calls: counts evaluations and steps, and knows the norm of the error."""

    def __init__(self, field: Field, plan: Plan, start: Snapshot) -> None:
        self.field, self.lead = field, field.signal_batch
        # Where the stiffness overflows the emphasis is infinite, and would turn the error zero of a signal into NaN.
        self.bounded = math.isfinite(plan.emphasis)
        self.emphasis = plan.emphasis if self.bounded else 1.0
        self.before = start.statistics
        self.left = plan.max_steps - start.statistics.accepted - start.statistics.rejected
        self.evaluations = self.attempts = self.rejected = 0
        self.proposed = start.step
        self.last_time, self.last_finite, self.last_state = start.time, -math.inf, start.state
        self._norms: Tensor | None = None
        self._prepared: Field | None = None
        self.adaptive = plan.method.adaptive
        if self.adaptive:
            # Set for adaptive methods only: torchdiffeq looks it up by name, and warns where a method does not call it.
            self.callback_reject_step = self._on_reject

    def __call__(self, t: Time, state: State) -> State:
        self.evaluations += 1
        if torch.is_grad_enabled():
            return self.field.derivative(t, state)
        if self._prepared is None:
            self._prepared = self.field.prepared()
        return self._prepared.derivative(t, state)

    def callback_step(self, t0: float | Tensor, state: State, dt: float | Tensor) -> None:
        if self.attempts >= self.left:
            raise _StopError
        self.last_finite, self.last_time, self.last_state = self.last_time, float(t0), state
        if self.adaptive:
            self.proposed = float(dt)
        self.attempts += 1

    def _on_reject(self, t0: float | Tensor, state: State, dt: float | Tensor) -> None:
        self.rejected += 1

    def norm(self, error: State) -> Tensor:
        """The largest over signals and parts of the RMS over a signal's entries, times the plan's emphasis.

        NaN where the emphasis is infinite, so that no step is taken.
        """
        flat = [part.detach().reshape(math.prod(self.lead), -1) for part in error]
        sizes = [torch.linalg.vector_norm(part, dim=1) * (self.emphasis / math.sqrt(part.shape[1])) for part in flat]
        self._norms = torch.stack(sizes).amax(0)
        return self._norms.max() if self.bounded else self._norms.new_tensor(math.nan)

    def worst(self) -> list[int]:
        """The signal whose error was the largest at the last attempt."""
        return [] if self._norms is None else [int(torch.nan_to_num(self._norms, nan=math.inf).argmax())]

    def statistics(self) -> Statistics:
        before = self.before
        return Statistics(
            before.evaluations + self.evaluations,
            before.accepted + self.attempts - self.rejected,
            before.rejected + self.rejected,
        )


def _rows(state: State, lead: tuple[int, ...], bound: float) -> list[int]:
    """The flat numbers of the signals that hold a NaN in `state`, or an entry of modulus above `bound`."""
    per_part = [(part.detach().abs() <= bound).reshape(math.prod(lead), -1).all(1) for part in state]
    return (~torch.stack(per_part).all(0)).nonzero().flatten().tolist()
