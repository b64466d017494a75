"""The contract of a dictionary: P as a linear map from codes to signals."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from vars_dyn import _checks, _scaling

__all__ = ["Dictionary", "Rounding"]


class Rounding(NamedTuple):
    """Bounds on the rounding errors of a dictionary's maps, with u the dtype's unit roundoff.

    The computed P a is off by at most `decode` u sum_i norms_i |a_i| in the Euclidean norm, and entry i of the computed
    P^T r by at most `encode` u norms_i |r|.

    Attributes:
        norms: an upper bound on the Euclidean norm of every atom; it broadcasts against codes.
        encode, decode: the number of roundings in one entry of P^T r and of P a.
        sparse: whether zero entries of a code add no rounding, so that P a has no more roundings than the code has
            non-zero entries.
    """

    norms: Tensor
    encode: int
    decode: int
    sparse: bool


class Dictionary(ABC):
    """A linear map P from codes a (trailing shape `code_shape`) to signals x (trailing shape `signal_shape`).

    A dictionary is a plain value: it holds tensors, which may require gradients, and no state. A subclass sets
    `signal_shape`, `code_shape` and, if it has one dictionary per batch element, `batch_shape`. It defines `_encode`,
    `_decode`, `_lipschitz`, `tensors` and `_assign`; `encode` and `decode` check their arguments. P is linear in its
    tensors: multiplying all of them by s gives s P. A dictionary for which this does not hold overrides `_largest` and
    `_scaled`.

    Attributes:
        signal_shape: event shape of a signal, such as (d,) or (C, H, W).
        code_shape: event shape of a code, such as (d',) or (M, H', W').
        batch_shape: leading shape of a batched dictionary, () for one that all signals share.

    Raises ValueError where signals or codes of another shape, dtype or device are mapped.

    Examples:
        >>> P: vd.Dictionary = vd.DenseDictionary(torch.ones(3, 5, dtype=torch.float64))
        >>> P.signal_shape, P.code_shape, P.batch_shape
        ((3,), (5,), ())
    """

    signal_shape: tuple[int, ...]
    code_shape: tuple[int, ...]
    batch_shape: tuple[int, ...] = ()

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that P depends on, in a fixed order."""

    @abstractmethod
    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        """Replace the tensors that it holds by `tensors`, ordered as in `tensors()`."""

    @abstractmethod
    def _encode(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _decode(self, a: Tensor) -> Tensor: ...

    @abstractmethod
    def _lipschitz(self) -> Tensor: ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of P's tensors."""
        return self.tensors()[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of P's tensors."""
        return self.tensors()[0].device

    @property
    def signal_size(self) -> int:
        """d, the number of entries of a signal."""
        return math.prod(self.signal_shape)

    @property
    def code_size(self) -> int:
        """d', the number of atoms (for a convolution: templates times positions)."""
        return math.prod(self.code_shape)

    def encode(self, x: Tensor | _checks.Numbers) -> Tensor:
        """P^T x, of shape (*any, *code_shape), for x of shape (*any, *signal_shape).

        A batched dictionary takes (*batch_shape, n, *signal_shape). Raises ValueError for any other shape and for a
        dtype or device that is not the dictionary's.
        """
        x = _checks.trailing("x", _checks.tensor("x", x), self.signal_shape, self.batch_shape)
        _checks.same_kind("x", x, self.tensors()[0], "the dictionary")
        return self._encode(x)

    def decode(self, a: Tensor | _checks.Numbers) -> Tensor:
        """P a, of shape (*any, *signal_shape), for a of shape (*any, *code_shape); the exact adjoint of `encode`.

        A batched dictionary takes (*batch_shape, n, *code_shape). Raises ValueError as `encode` does.
        """
        a = _checks.trailing("a", _checks.tensor("a", a), self.code_shape, self.batch_shape)
        _checks.same_kind("a", a, self.tensors()[0], "the dictionary")
        return self._decode(a)

    def encode_unchecked(self, x: Tensor) -> Tensor:
        """`encode` without checks, for loops that have checked x."""
        return self._encode(x)

    def decode_unchecked(self, a: Tensor) -> Tensor:
        """`decode` without checks, for loops that have checked a."""
        return self._decode(a)

    def gram(self, a: Tensor) -> Tensor:
        """G a = P^T P a, of the shape of a."""
        return self.encode(self.decode(a))

    def lipschitz(self) -> Tensor:
        """L, the largest eigenvalue of P^T P or a proven upper bound on it, of shape `batch_shape`.

        L is detached from the graph, because it only bounds steps and stiffness. It is computed in the dictionary's own
        dtype, under autocast too, and is infinite where it is beyond the dtype's largest number.
        """
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            exponent = self._exponent()
            if _scaling.within(exponent, self.dtype):
                return self._lipschitz()
            bound = self._scaled(-exponent)._lipschitz()
            own = _scaling.scaled(bound, 2 * exponent)
            # An L that is too small for the dtype must not become zero: steps of 1/L would have no bound.
            return torch.where(bound > 0, own.clamp(min=torch.finfo(own.dtype).tiny), own)

    def largest(self) -> Tensor:
        """The largest magnitude in P's tensors: one number, or one per element (of shape `batch_shape`)."""
        return self._largest()

    def scaled(self, exponent: Tensor) -> Self:
        """The dictionary P 2^exponent, for an integer tensor of the shape of `largest()`."""
        return self._scaled(exponent)

    def rounding(self) -> Rounding:
        """Bounds on the rounding errors of P and P^T, for tensors whose largest entry is about one."""
        return self._rounding()

    def _largest(self) -> Tensor:
        return torch.stack([_scaling.largest(t) for t in self.tensors()]).amax(0)

    def _exponent(self) -> Tensor:
        """The integer e with 2^(e-1) <= `largest()` < 2^e; 0 where that is zero."""
        return torch.frexp(self._largest()).exponent

    def _scaled(self, exponent: Tensor) -> Self:
        return self.with_tensors(tuple(_scaling.scaled(t, exponent) for t in self.tensors()))

    def _rounding(self) -> Rounding:
        """Takes the atoms' norms from the matrix where that is small, and the root of L elsewhere."""
        if math.prod(self.batch_shape) * self.signal_size * self.code_size <= 1 << 22:
            norms = atom_norms(self.matrix().detach(), -2)
            norms = norms.reshape(*self.batch_shape, *(1,) * bool(self.batch_shape), *self.code_shape)
        else:
            root = self.lipschitz().sqrt()
            norms = root.reshape(*self.batch_shape, *(1,) * bool(self.batch_shape), *(1 for _ in self.code_shape))
        return Rounding(norms, self.signal_size, self.code_size, sparse=True)

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """The same dictionary holding `tensors` (ordered as in `tensors()`)."""
        twin = copy.copy(self)
        twin._assign(tuple(tensors))
        return twin

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same dictionary on another device or in another floating-point dtype."""
        return self.with_tensors(tuple(t.to(device=device, dtype=dtype) for t in self.tensors()))

    def detach(self) -> Self:
        """The same dictionary, cut from the autograd graph."""
        return self.with_tensors(tuple(t.detach() for t in self.tensors()))

    def select(self, index: Tensor) -> Self:
        """The elements `index` of a batched dictionary, counted over its flattened batch.

        The result has batch_shape (len(index),). A dictionary without a batch returns itself.
        """
        return self

    def matrix(self) -> Tensor:
        """P written out, of shape (*batch_shape, d, d'), signals and codes flattened in row-major order.

        For tests and small problems: it holds d times d' numbers.
        """
        eye = torch.eye(self.code_size, dtype=self.dtype, device=self.device).reshape(-1, *self.code_shape)
        columns = self._decode(eye.expand(*self.batch_shape, *eye.shape))
        return columns.reshape(*self.batch_shape, self.code_size, self.signal_size).mT

    def __repr__(self) -> str:
        batch = f", batch_shape={self.batch_shape}" if self.batch_shape else ""
        return f"{type(self).__name__}(signal_shape={self.signal_shape}, code_shape={self.code_shape}{batch})"


def atom_norms(matrix: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Upper bounds on Euclidean norms along `dims`, which stay above zero where squares are too small for the dtype."""
    norms = matrix.square().sum(dims).sqrt()
    if bool((norms > 1e-100).all()):
        return norms
    entries = matrix.numel() // max(norms.numel(), 1)
    return torch.maximum(norms, math.sqrt(entries) * matrix.abs().amax(dims))


def rounded_up(bound: Tensor, terms: int) -> Tensor:
    """`bound`, raised by as much as rounding in an eigenvalue or a sum over `terms` entries may have lowered it."""
    return bound * (1 + 4 * terms * torch.finfo(bound.dtype).eps)


def largest_hermitian(matrices: Tensor) -> Tensor:
    """The largest eigenvalue of symmetric or Hermitian matrices (..., n, n), at least zero, up to rounding.

    Where LAPACK finds no eigenvalues, the result is the largest sum of magnitudes along a row, a bound by Gershgorin.
    """
    try:
        return torch.linalg.eigvalsh(matrices)[..., -1].clamp(min=0)
    except LinAlgError:
        return matrices.abs().sum(-1).amax(-1)
