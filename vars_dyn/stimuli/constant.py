"""A stimulus that does not move."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus

__all__ = ["Constant"]


class Constant(Stimulus):
    """x(t) = value: a still signal, as a part of what is composed.

    Args:
        value: the signal, of any shape.
    """

    def __init__(self, value: Float[Tensor, "*shape"] | _checks.Numbers) -> None:
        self.value = _checks.floating_tensor("value", value)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def moves(self) -> bool:
        return False

    @property
    def duration(self) -> float:
        return 0.0

    def _at(self, t: float) -> Tensor:
        return self.value

    def size(self) -> Tensor:
        return self.value.detach().abs()

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.value,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.value,) = tensors

    def stored(self) -> tuple[Tensor, ...]:
        return (self.value,)

    def parameters(self) -> dict[str, Any]:
        return {"stimulus": "Constant", "shape": list(self.shape)}
