"""What a method of integration is: one value that says what it can do, and solves one segment."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.scale import Tolerance

__all__ = ["Function", "Method", "Piece", "Replay", "Settings", "Solver", "Time", "Watched"]

#: A time: this package's integrators pass numbers, torchdiffeq's tensors.
Time = float | Tensor
#: A right-hand side: from time and state to the state's derivative.
Function = Callable[[Time, State], State]


@runtime_checkable
class Watched(Protocol):
    """The function to integrate, in the form that torchdiffeq's solvers take too: it is told of every step.

    This package's integrators pass times and steps as numbers, torchdiffeq's as tensors.
    """

    def __call__(self, t: Time, state: State) -> State: ...
    def callback_step(self, t0: Time, state: State, dt: Time) -> None: ...
    def callback_reject_step(self, t0: Time, state: State, dt: Time) -> None: ...


class Settings(NamedTuple):
    """What one segment asks of its method.

    Attributes:
        rtol: relative tolerance of a step's error.
        atol: absolute tolerance of every part of the state.
        norm: the size of an error relative to what is tolerated.
        stiffness: a bound on the modulus of the Jacobian's eigenvalues.
        end: the time that the last step is to end on.
        first_step: the step to try first; None to let the method choose.
        longest: the longest adaptive step allowed.
        grid_step: the longest fixed step allowed; None to step from each time to the next.
    """

    rtol: float
    atol: Tolerance
    norm: Callable[[State], Tensor]
    stiffness: float
    end: float
    first_step: float | None
    longest: float
    grid_step: float | None


#: Takes the function, the state, the times and the settings; returns the states at the times.
Solver = Callable[[Watched, State, Tensor, Settings], State]


class Replay(enum.Enum):
    """How a backward pass can take a method's steps again."""

    #: From any step's beginning, because a step needs the state there and nothing else.
    STEPS = enum.auto()
    #: From restarts only, because a step depends on the one before, or its last stage is not the derivative at its end.
    RESTARTS = enum.auto()
    #: From the segment's beginning only, because steps depend on a history.
    WHOLE = enum.auto()


class Piece(NamedTuple):
    """A run of steps to take again.

    Attributes:
        first_step: the length that was tried first for the first step.
        ends: the time at which each step ended.
        times: the times that the whole segment gave states at.
    """

    first_step: float
    ends: Sequence[float]
    times: Tensor


@dataclass(frozen=True)
class Method(ABC):
    """A method of integration. `vars_dyn.integration.steppers.REGISTRY` holds one value of this type for every name.

    Outside that package `name` is only printed: what other code needs to know is one of the other attributes.
    A method must be restartable from time, state and next step alone, or recording cannot resume a run with the same
    result.

    Attributes:
        name: what `vars_dyn.integrate` calls it.
        limit: the largest h rho at which the method, as implemented, damps y' = -rho y; infinity where it takes as many
            stages as the stiffness asks for.
        reach: the largest h rho of any step that it takes; None where `limit` is that.
        adaptive: whether it controls its error. If not, it steps along a grid.
        implicit: whether it solves an equation at every step, to the tolerance, whether or not it is adaptive.
        stabilised: whether it takes long steps however stiff the field is, so that looks at the gap may lie far apart.
        interpolating: whether it gives states inside a step as accurately as at its end. If not, it ends a step on
            every time asked for.
        always_capped: the share of `limit` at which its steps are capped even where no cap is asked for, because its
            error estimate does not notice growth; None for no such cap.
        in_torchdiffeq: whether torchdiffeq has the method under this name, which is what the continuous adjoint runs.
        replay: how a backward pass can take its steps again.
    """

    name: str
    limit: float
    adaptive: bool = True
    implicit: bool = False
    stabilised: bool = False
    interpolating: bool = True
    always_capped: float | None = None
    in_torchdiffeq: bool = False
    replay: Replay = Replay.STEPS
    reach: float | None = None

    @property
    def uses_tolerance(self) -> bool:
        """Whether rtol and atol change its result."""
        return self.adaptive or self.implicit

    @abstractmethod
    def odeint(self, func: Watched, y0: State, t: Tensor, settings: Settings) -> State:
        """The states at the increasing times `t`, from y0 at t[0]; every part has time first.

        Differentiable in y0 and in whatever `func` depends on. It calls `func.callback_step` before every step, and an
        adaptive method calls `func.callback_reject_step` for a step that it rejects. Where the step underflows it
        raises AssertionError, as torchdiffeq does.
        """

    def retake(self, func: Function, y0: State, t: Tensor, settings: Settings, piece: Piece) -> State:
        """The states at the times `t`, by the steps of `piece`, to the same bits; for `Replay.STEPS` only."""
        raise NotImplementedError(f"{self.name} takes no single steps again")
