"""A dictionary that scales every entry of the signal alike."""

from __future__ import annotations

from torch import Tensor

from vars_dyn.dictionaries.base import Dictionary, Rounding, rounded_up

__all__ = ["ScaledIdentity"]


class ScaledIdentity(Dictionary):
    """P a = scale a, with codes shaped like signals."""

    def __init__(self, scale: Tensor, shape: tuple[int, ...]) -> None:
        self.scale, self.signal_shape, self.code_shape = scale, shape, shape

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.scale,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.scale,) = tensors

    def _encode(self, x: Tensor) -> Tensor:
        return self.scale * x

    def _decode(self, a: Tensor) -> Tensor:
        return self.scale * a

    def _lipschitz(self) -> Tensor:
        return rounded_up(self.scale.square(), 1)

    def _rounding(self) -> Rounding:
        return Rounding(self.scale.detach().abs().expand((1,) * len(self.code_shape)), 1, 1, sparse=True)
