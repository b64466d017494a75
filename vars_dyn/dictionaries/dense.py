"""A dictionary given as a matrix, or as one matrix per batch element."""

from __future__ import annotations

from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks, _scaling
from vars_dyn.dictionaries.base import Dictionary, Rounding, atom_norms, largest_hermitian, rounded_up

__all__ = ["DenseDictionary", "largest_eigenvalue"]


class DenseDictionary(Dictionary):
    """P as a matrix `weight` of shape (d, d'), or (*batch, d, d') with one matrix per batch element.

    encode(x) = x @ weight and decode(a) = a @ weight.mT. A batched weight takes signals (*batch, n, d).
    Raises ValueError for a weight that is not a finite floating tensor of at least two dimensions, or is empty.

    Examples:
        >>> P = vd.DenseDictionary(torch.tensor([[1.0, 0.6], [0.0, 0.8]], dtype=torch.float64))
        >>> P.encode(torch.tensor([1.0, 1.0], dtype=torch.float64)).tolist()  # P^T x
        [1.0, 1.4]
        >>> P.decode(torch.tensor([1.0, 1.0], dtype=torch.float64)).tolist()  # P a
        [1.6, 0.8]
        >>> round(P.lipschitz().item(), 6)  # the largest eigenvalue of P^T P, rounded up
        1.6
    """

    def __init__(self, weight: Float[Tensor, "*batch d m"] | _checks.Numbers) -> None:
        weight = _checks.floating_tensor("weight", weight)
        if weight.ndim < 2 or not all(weight.shape[-2:]):
            raise ValueError(f"weight has shape {tuple(weight.shape)}; (*batch, d, d') with d, d' >= 1 is wanted")
        self._assign((weight,))

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.weight,) = tensors
        *batch, d, atoms = self.weight.shape
        self.batch_shape, self.signal_shape, self.code_shape = tuple(batch), (d,), (atoms,)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def _encode(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def _decode(self, a: Tensor) -> Tensor:
        return a @ self.weight.mT

    def _lipschitz(self) -> Tensor:
        return largest_eigenvalue(self.weight)

    def _largest(self) -> Tensor:
        return _scaling.largest(self.weight, 2)

    def _scaled(self, exponent: Tensor) -> Self:
        return self.with_tensors((_scaling.scaled(self.weight, exponent[..., None, None]),))

    def _rounding(self) -> Rounding:
        norms = atom_norms(self.weight.detach(), -2)
        return Rounding(norms[..., None, :] if self.batch_shape else norms, self.signal_size, self.code_size, True)

    def select(self, index: Tensor) -> Self:
        if not self.batch_shape:
            return self
        return self.with_tensors((self.weight.flatten(0, -3)[index],))

    def matrix(self) -> Tensor:
        return self.weight


def largest_eigenvalue(weight: Tensor) -> Tensor:
    """The largest eigenvalue of W^T W for each matrix (..., d, d'), raised so that rounding does not put it too low."""
    wide = weight if weight.shape[-2] <= weight.shape[-1] else weight.mT
    work = wide if wide.dtype in (torch.float32, torch.float64) else wide.float()
    top = largest_hermitian(work @ work.mT)
    return rounded_up(top, sum(weight.shape[-2:])).to(weight.dtype)
