"""A trained model whose VARS layers are solved in another way than in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

from torch import nn

from experiments.settings import Ode
from vars_dyn.attention import VarsAttention, solving, unrolled

__all__ = ["SOLVERS", "LayerSettings", "layers_of", "solved_otherwise", "varied"]

SOLVERS = (*unrolled.UNROLLED, "ode", "equilibrium")


#: How many unrolled steps stand for an equilibrium.
_MANY = 50


class LayerSettings(NamedTuple):
    """The settings of all VARS layers of a model that a measurement can vary."""

    threshold: Literal["soft", "gelu"]
    solver: str
    num_steps: int
    lam: float

    @property
    def possible(self) -> bool:
        """Whether there is such a layer. The ODE and its equilibrium want a threshold that belongs to a penalty."""
        return self.threshold == "soft" or self.solver in unrolled.UNROLLED

    @property
    def measured(self) -> LayerSettings:
        """The settings to measure in place of these. The ODE and its equilibrium take no number of steps."""
        return self if self.solver in unrolled.UNROLLED else self._replace(num_steps=0)


def layers_of(model: nn.Module) -> list[VarsAttention]:
    """The VARS layers of a model. Raises ValueError if it has none."""
    found = [layer for layer in model.modules() if isinstance(layer, VarsAttention)]
    if not found:
        raise ValueError("the model has no VARS attention, whose solver could be varied")
    return found


def solved_otherwise(model: nn.Module) -> tuple[Literal["implicit", "unrolled"], AbstractContextManager[None]] | None:
    """Another way to differentiate the model's VARS layers, by name, and a context in which they are solved in it.

    "implicit" solves layers that take steps, or run for a time, to the certified equilibrium and differentiates that;
    "unrolled" takes many steps where the layers have an equilibrium. None: no layer solves a problem.
    """
    found = [layer for layer in model.modules() if isinstance(layer, VarsAttention) and layer.variant.solves_problem]
    if not found:
        return None
    if all(isinstance(layer.solver, solving.Equilibrium) for layer in found):
        return "unrolled", _solved(found, "ista", _MANY)
    return "implicit", _solved(found, solving.Equilibrium(), None)


@contextmanager
def _solved(
    layers: Sequence[VarsAttention], solver: str | solving.Equilibrium, num_steps: int | None
) -> Iterator[None]:
    before = [(layer.solver, layer.num_steps) for layer in layers]
    try:
        for layer in layers:
            layer.solver, layer.num_steps = solver, num_steps or layer.num_steps
        yield
    finally:
        for layer, (own, steps) in zip(layers, before, strict=True):
            layer.solver, layer.num_steps = own, steps


@contextmanager
def varied(model: nn.Module, own: LayerSettings, ode: Ode | None = None) -> Iterator[None]:
    """Give all VARS layers of the model the settings `own`, and restore their own settings at the end."""
    found = layers_of(model)
    names = ("variant", "solver", "num_steps", "lam")
    before = [{name: getattr(layer, name) for name in names} for layer in found]
    solver = solving.Ode(**vars(ode or Ode())) if own.solver == "ode" else solving.solver_of(own.solver, None)
    if own.solver not in unrolled.UNROLLED and any(layer.variant.learned_metric for layer in found):
        raise ValueError(f"solver is {own.solver!r}, but the model has a learned metric; ista or fista is wanted")
    try:
        for layer in found:
            layer.variant, layer.solver = replace(layer.variant, threshold=own.threshold), solver
            layer.num_steps, layer.lam = own.num_steps, own.lam
        yield
    finally:
        for layer, values in zip(found, before, strict=True):
            for name, value in values.items():
                setattr(layer, name, value)
