"""A dictionary whose Gram matrix is a quadratic form that was given."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from vars_dyn import _scaling
from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.dictionaries.dense import largest_eigenvalue

__all__ = ["FactoredForm"]


class FactoredForm(Dictionary):
    """P = R for a quadratic form Q = R^T R, given by its factor R of shape (n, n), or (*batch, n, n).

    Codes have n entries in any shape, and R acts on flattened codes; signals are flat, (*any, n).
    """

    def __init__(self, weight: Tensor, code_shape: tuple[int, ...]) -> None:
        self.code_shape = code_shape
        self._assign((weight,))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.weight,) = tensors
        self.signal_shape, self.batch_shape = (self.weight.shape[-2],), tuple(self.weight.shape[:-2])

    def _encode(self, x: Tensor) -> Tensor:
        return (x @ self.weight).reshape(*x.shape[:-1], *self.code_shape)

    def _decode(self, a: Tensor) -> Tensor:
        return a.flatten(-len(self.code_shape)) @ self.weight.mT

    def _lipschitz(self) -> Tensor:
        return largest_eigenvalue(self.weight)

    def _largest(self) -> Tensor:
        return _scaling.largest(self.weight, 2)

    def _scaled(self, exponent: Tensor) -> Self:
        return self.with_tensors((_scaling.scaled(self.weight, exponent[..., None, None]),))

    def select(self, index: Tensor) -> Self:
        return self.with_tensors((self.weight.flatten(0, -3)[index],)) if self.batch_shape else self
