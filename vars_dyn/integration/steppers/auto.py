"""The method that changes between "dopri5" and "rkc", to the one that needs fewer evaluations per time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.steppers.base import Stepper, march
from vars_dyn.integration.steppers.dopri5 import DOPRI5, Dopri5, dopri5_for
from vars_dyn.integration.steppers.method import Method, Replay, Settings, Watched
from vars_dyn.integration.steppers.rkc import REACH, Rkc, rkc_for, stages_for

__all__ = ["AUTO", "Switch"]

#: From this h rho on, stability may hold back "dopri5", so "rkc" is tried. It is below the limit of "dopri5", 3.3,
#: because rho is only a bound.
_STIFF = 2.0
#: A first step of h rho above this comes from "rkc", because "dopri5" takes no steps that long.
_BEYOND = 5.0
#: Evaluations to a step of "dopri5".
_STAGES = 6
#: Stiff steps of "dopri5" in a row before a trial of "rkc", doubled after each trial that fails; and steps of "rkc" in
#: a row that must cost more before the trial counts as failed.
_PATIENCE, _STRIKES = 3, 3


class Switch:
    """Decides which method goes on: "rkc" is tried where steps are stiff, and stays while it costs less."""

    def __init__(self, dopri5: Dopri5, rkc: Rkc) -> None:
        self.dopri5, self.rkc = dopri5, rkc
        self.patience, self.stiff, self.strikes = _PATIENCE, 0, 0
        self.left = math.inf  # the last step of "dopri5", the longest it is known to take

    def begin(self, first_step: float | None) -> Stepper:
        """The method to begin with, if the first step has this length."""
        if first_step is None or first_step * self.rkc.rho <= _BEYOND:
            return self.dopri5
        self.left = _BEYOND / self.rkc.rho
        return self.rkc

    def follow(self, stepper: Stepper, step: float, proposed: float) -> tuple[Stepper, float]:
        """The method and the step to go on with, after a step of length `step` with the next length `proposed`."""
        if stepper is self.dopri5:
            self.stiff = self.stiff + 1 if step * self.rkc.rho > _STIFF else 0
            if self.stiff < self.patience:
                return stepper, proposed
            self.left, self.strikes = proposed, 0
            return self.rkc, proposed
        dear = stages_for(proposed * self.rkc.rho) / proposed > _STAGES / self.left
        self.strikes = self.strikes + 1 if dear else 0
        if self.strikes < _STRIKES:
            return stepper, proposed
        self.patience, self.stiff = 2 * self.patience, 0
        return self.dopri5, self.left


@dataclass(frozen=True)
class _Auto(Method):
    def odeint(self, func: Watched, y0: State, t: Tensor, settings: Settings) -> State:
        switch, first = Switch(dopri5_for(settings), rkc_for(settings)), settings.first_step
        return march(func, y0, t, switch.begin(first), end=settings.end, first_step=first, follow=switch.follow)


#: A cap limits only the steps of "dopri5", because those of "rkc" are stable at any length.
AUTO = _Auto("auto", DOPRI5.limit, stabilised=True, replay=Replay.RESTARTS, reach=REACH)
