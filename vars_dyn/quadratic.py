"""Problems 1/2 a.Q a - b.a + lam |a|_1 with Q given, written as sparse reconstruction: Q = R^T R, signal R^-T b."""

from __future__ import annotations

import torch
from torch import Tensor

from vars_dyn import _scaling
from vars_dyn.dictionaries.base import Dictionary, Rounding, rounded_up
from vars_dyn.dictionaries.dense import largest_eigenvalue
from vars_dyn.problems import SparseProblem

__all__ = ["identity_problem", "matrix_problem"]


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


class ShapedMatrix(Dictionary):
    """A square matrix, or one per batch element, that acts on flattened codes; signals are flat."""

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

    def _scaled(self, exponent: Tensor) -> ShapedMatrix:
        return self.with_tensors((_scaling.scaled(self.weight, exponent[..., None, None]),))

    def select(self, index: Tensor) -> ShapedMatrix:
        return self.with_tensors((self.weight.flatten(0, -3)[index],)) if self.batch_shape else self


def identity_problem(
    scale: float | Tensor, b: Tensor, shape: tuple[int, ...], lam: float | Tensor, nonnegative: bool = False
) -> SparseProblem:
    """The problem with Q = scale I, scale > 0, codes of event shape `shape`."""
    root = torch.as_tensor(scale, dtype=b.dtype, device=b.device).sqrt()
    return SparseProblem(ScaledIdentity(root, shape), b / root, lam, nonnegative=nonnegative)


def matrix_problem(
    q: Tensor, b: Tensor, shape: tuple[int, ...], lam: float | Tensor, nonnegative: bool = False
) -> SparseProblem:
    """The problem with positive definite Q of shape (*batch, n, n); b has the shape of the codes, (..., *shape)."""
    lower = torch.linalg.cholesky(q)
    flat = b.flatten(-len(shape))
    rows = flat if flat.ndim > 1 else flat[None]
    x = torch.linalg.solve_triangular(lower, rows.mT, upper=False).mT
    return SparseProblem(ShapedMatrix(lower.mT, shape), x.reshape(flat.shape), lam, nonnegative=nonnegative)
