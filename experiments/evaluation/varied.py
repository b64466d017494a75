"""A trained model whose VARS layers are solved in another way than in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

from torch import nn

from experiments.settings import Ode
from vars_dyn.attention import VarsAttention, solving, unrolled

__all__ = ["SOLVERS", "LayerSettings", "layers_of", "varied"]

SOLVERS = (*unrolled.UNROLLED, "ode", "equilibrium")


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
