"""The public call: integrate a field to times or to equilibrium, with or without a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._compile import uncompiled
from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration.gradients import Adjoint, Mode, is_wanted, through_time
from vars_dyn.integration.plan import Options, refuse_hopeless
from vars_dyn.integration.results import IntegrationError, Monitor, Trajectory, start_of, verdict
from vars_dyn.integration.run import run_for
from vars_dyn.integration.segment import Segment
from vars_dyn.integration.steppers import method_for
from vars_dyn.integration.streaming import stream
from vars_dyn.integration.times import Spacing, checked_times, earliest_end, looks_at_gap
from vars_dyn.interventions import Intervention, with_interventions
from vars_dyn.noise import Noise

__all__ = ["integrate", "stream"]


@uncompiled
def integrate(
    field: Field,
    state: State,
    times: Tensor | _checks.Numbers,
    method: str = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    gap: float | None = None,
    gradient: str | Mode = "backprop",
    *,
    step: float | None = None,
    cap_steps: bool | None = None,
    check_every: float | None = None,
    max_steps: int = 1_000_000,
    interventions: Sequence[Intervention] | None = None,
    noise: Noise | None = None,
    monitor: Monitor | None = None,
) -> Trajectory:
    """Integrate a field from `state` at times[0] and return the states at `times`.

    Args:
        field: the right-hand side.
        state: the state at times[0], a tuple shaped like `field.initial_state()`.
        times: increasing, at least one; in membrane time constants.
        method: "dopri5" (`vars_dyn.integration.steppers.dopri5`), "rkc", the stabilised method for long ways to the
            equilibrium (`vars_dyn.integration.steppers.rkc`), "auto", which changes between these two on the way to
            the one that takes fewer evaluations (`vars_dyn.integration.steppers.auto`), or one of torchdiffeq's
            adaptive ("dopri8", "bosh3", "fehlberg2", "adaptive_heun") or fixed-step methods ("euler", "midpoint",
            "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams").
        rtol: relative tolerance of the adaptive methods. The error norm is the largest of the signals' RMS errors, so
            that idle signals do not dilute the error of a live one. It is multiplied by
            sqrt(field.stiffness() tau / 20) where that is above one (tau is the smaller time constant), because errors
            raise V in proportion to its curvature, and V must not rise.
        atol: absolute tolerance of the adaptive methods, for signals of size one. It is multiplied by each signal's
            size, max |x| (or lam where x is zero), so that (s x, s lam) gives s times the trajectory at any s. Where
            8 / alpha or 8 |P| / (alpha beta) is below one, the tolerance of z or u is multiplied by it too.
        gap: the relative gap at which a signal counts as settled. It then leaves the batch, and its state is carried on
            unchanged. None integrates all signals to the end.
        gradient: how to differentiate through the integration: "backprop", "checkpoint" or "adjoint", or one of them
            with its settings (`vars_dyn.integration.gradients`).
        step: the longest step of a fixed-step method; one past the method's stability limit is refused. By default the
            method steps from each of `times` to the next, in several steps where one would be past nine tenths of the
            limit. For an adaptive method it is the first step to try.
        cap_steps: whether steps are capped at the method's stability limit over `field.stiffness()`. By default they
            are where a gap or a gradient is wanted: without the cap, the error near an attractor stalls at about rtol.
        check_every: time between looks at the gap; by default one time constant, or ten capped steps if that is longer
            (for "rkc" and "auto" it doubles as time goes on, so that steps may grow).
        max_steps: the largest number of attempted steps.
        interventions: what is done to units on the way, such as `vars_dyn.Silence` (`vars_dyn.interventions`). States
            are those after what begins at their time. A signal settles only after the last start, stop and knot, at the
            problem of the units that are then free.
        noise: white noise, a `vars_dyn.Noise`. Its scheme then takes the place of `method`, with `step` or, by default,
            the largest power of two within a tenth of the stability limit; no gap can be asked for. Noise of strength
            zero changes nothing.
        monitor: a function that is called with the `vars_dyn.integration.Snapshot` at each of `times` after the first.
            If it returns a text, the run stops there: the trajectory ends, and has that text as `stopped`. The method
            is restarted at each of `times`.

    Returns:
        A `Trajectory`, always len(times) long.

    Raises:
        ValueError: for arguments that do not fit, for a gap on a field without a proved stable equilibrium (integrating
            such a field to a time warns), and for a field that is so stiff that `max_steps` cannot suffice by far.
        IntegrationError: when the integration cannot go on, for example at a state or a gap that is not a number, or at
            a runaway. It has the trajectory so far.

    With a gap, or a gradient through the steps, the method is restarted at every look, and a fixed-step Adams method
    loses its history there. Autocast is off inside: the solve runs in the field's own dtype. Where only the equilibrium
    is wanted, and not the path to it, `vars_dyn.equilibrium` is faster.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> field = vd.SparseRecurrent(P, x, lam=0.5)
        >>> times = torch.linspace(0, 100, 11, dtype=torch.float64)  # in membrane time constants
        >>> trajectory = vd.integrate(field, field.initial_state(), times, gap=1e-6)
        >>> z, u = trajectory.states
        >>> z.shape, [round(v, 3) for v in field.code((z[-1], u[-1])).tolist()]
        (torch.Size([11, 3]), [1.5, -0.5, 0.0])
    """
    options = Options(method, rtol, atol, gap, step, cap_steps, check_every, max_steps, noise)
    times = checked_times(times)
    field.checked(state)
    field = with_interventions(field, interventions)
    mode = through_time(gradient)
    differentiable = is_wanted(field, state)
    chosen = method_for(method)
    if differentiable and isinstance(mode, Adjoint) and not mode.fits(chosen):
        raise ValueError(f'method is "{method}", which has no adjoint; backprop or checkpoint is wanted, or dopri5')
    if differentiable and isinstance(mode, Adjoint) and options.is_noisy:
        raise ValueError('gradient is "adjoint", which noise has not; backprop or checkpoint is wanted')
    with torch.autocast(field.device.type, enabled=False):
        run = run_for(field, state, options, capped=differentiable if cap_steps is None else cap_steps)
    spacing = looks_at_gap(run.plan, field, check_every)
    if differentiable and gap is None:
        spacing = Spacing(mode.between_restarts(run.plan, float(times[-1] - times[0])))
    # A monitor may end the run at the second of the times.
    last = float(times[-1] if monitor is None else times[:2][-1])
    refuse_hopeless(run.plan, float(times[0]), earliest_end(run.plan, spacing, float(times[0]), last))
    snapshot = run.entered(start_of(field, state, float(times[0]), step if chosen.adaptive else None))
    reached = times if snapshot.live.numel() else times[:1]
    solve, rows = mode.solve if differentiable else Segment.solve, list[State]()
    with torch.set_grad_enabled(differentiable), torch.autocast(field.device.type, enabled=False):
        # A monitor sees every time; without one the way is carried at once.
        for part in reached.split(len(reached) if monitor is None else 1):
            try:
                found, snapshot = run.carry(snapshot, part, spacing, solve)
            except IntegrationError as error:
                rows.extend([] if error.partial is None else [error.partial])
                error.trajectory = error.trajectory if monitor is None else run.trajectory(times, rows, snapshot)
                raise
            rows.extend(found)
            reason = verdict(monitor, run.left(snapshot)) if float(part[0]) > float(times[0]) else None
            if reason is not None:
                done = sum(len(parts[0]) for parts in rows)
                return run.trajectory(times[:done], rows, snapshot)._replace(stopped=reason)
        missing = len(times) - sum(len(parts[0]) for parts in rows)
        rows.append(tuple(part.expand(missing, *part.shape) for part in snapshot.state))
        return run.trajectory(times, rows, snapshot)
