"""A dictionary whose rows and columns are multiplied by factors."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from vars_dyn.dictionaries.base import Dictionary, Rounding, rounded_up

__all__ = ["Reweighted"]


class Reweighted(Dictionary):
    """diag(rows) P diag(columns): every row of P, a neuron's, and every column, an atom's, times a factor.

    A factor of zero removes an atom from the problem: its code is zero at the minimum. Factors must be finite.

    Args:
        dictionary: P.
        rows: one factor per entry of a signal, of `signal_shape`.
        columns: one factor per atom, of `code_shape`.
    """

    def __init__(self, dictionary: Dictionary, rows: Tensor, columns: Tensor) -> None:
        self.dictionary = dictionary
        self._assign((*dictionary.tensors(), rows, columns))

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.dictionary.tensors(), self.rows, self.columns)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        *own, self.rows, self.columns = tensors
        self.dictionary = self.dictionary.with_tensors(tuple(own))
        self.signal_shape, self.code_shape = self.dictionary.signal_shape, self.dictionary.code_shape
        self.batch_shape = self.dictionary.batch_shape

    def _encode(self, x: Tensor) -> Tensor:
        return self.dictionary.encode_unchecked(x * self.rows) * self.columns

    def _decode(self, a: Tensor) -> Tensor:
        return self.dictionary.decode_unchecked(a * self.columns) * self.rows

    def _lipschitz(self) -> Tensor:
        """L max rows^2 max columns^2, a bound."""
        return rounded_up(self.dictionary.lipschitz() * self._most().square(), 4)

    def _most(self) -> Tensor:
        return (self.rows.abs().max() * self.columns.abs().max()).detach()

    def _largest(self) -> Tensor:
        return self.dictionary.largest() * self._most()

    def _scaled(self, exponent: Tensor) -> Self:
        return type(self)(self.dictionary.scaled(exponent), self.rows, self.columns)

    def _rounding(self) -> Rounding:
        inner = self.dictionary.rounding()
        norms = rounded_up(inner.norms * (self.rows.abs().max() * self.columns.abs()).detach(), 4)
        return Rounding(norms, inner.encode + 2, inner.decode + 2, inner.sparse)

    def select(self, index: Tensor) -> Self:
        return type(self)(self.dictionary.select(index), self.rows, self.columns)
