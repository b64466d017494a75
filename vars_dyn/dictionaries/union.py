"""Several dictionaries side by side."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor

from vars_dyn.dictionaries.base import Dictionary, Rounding
from vars_dyn.dictionaries.dense import largest_eigenvalue

__all__ = ["UnionDictionary"]

#: Up to this many numbers in P the bound of a union is computed from the matrix, and beyond as the sum of the bounds.
_MATRIX_LIMIT = 1 << 22


class UnionDictionary(Dictionary):
    """P = [P1; P2; ...]: the atoms of all parts, P a = P1 a1 + P2 a2 + ...

    Codes are flat, (*any, d1' + d2' + ...), with each part's code flattened in row-major order. Signals have the shape
    of the first part's signals. Signals of the other parts must have as many entries, and are reshaped: so a
    convolution on a grid and a matrix on its N = H W tokens can be joined. Parts may be shared or batched; all batched
    ones have the same batch shape. L is exact where P is small enough to be written out. Elsewhere it is the sum of the
    parts' bounds, since |P|^2 <= sum |Pi|^2.

    Raises ValueError for parts whose signals or batches do not fit.

    Examples:
        >>> parts = torch.eye(3, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
        >>> P = vd.UnionDictionary(*(vd.DenseDictionary(part) for part in parts))
        >>> P.signal_shape, P.code_shape
        ((3,), (5,))
    """

    def __init__(self, *parts: Dictionary) -> None:
        if not parts:
            raise ValueError("a union of no dictionaries came; at least one is wanted")
        for part in parts[1:]:
            if part.signal_size != parts[0].signal_size:
                raise ValueError(
                    f"the parts have signals of shape {parts[0].signal_shape} and {part.signal_shape}; "
                    "the same number of entries is wanted"
                )
            if (part.dtype, part.device) != (parts[0].dtype, parts[0].device):
                raise ValueError(
                    f"the parts are {parts[0].dtype} on {parts[0].device} and {part.dtype} on {part.device}; "
                    "one dtype and one device are wanted"
                )
        batches = {part.batch_shape for part in parts if part.batch_shape}
        if len(batches) > 1:
            raise ValueError(f"the parts have batch shapes {sorted(batches)}; one batch shape is wanted")
        self.parts = parts
        self.signal_shape = parts[0].signal_shape
        self.code_shape = (sum(part.code_size for part in parts),)
        self.batch_shape = batches.pop() if batches else ()

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for part in self.parts for t in part.tensors())

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        rest, parts = tensors, []
        for part in self.parts:
            n = len(part.tensors())
            parts.append(part.with_tensors(rest[:n]))
            rest = rest[n:]
        self.parts = tuple(parts)
        self.batch_shape = next((part.batch_shape for part in parts if part.batch_shape), ())

    def _largest(self) -> Tensor:
        parts = [part.largest() for part in self.parts]
        if any(part.shape != parts[0].shape for part in parts):
            # A part that all elements share can only be scaled for all of them together.
            parts = [part.amax() for part in parts if part.numel()]
        return torch.stack(parts).amax(0)

    def _scaled(self, exponent: Tensor) -> Self:
        twin = copy.copy(self)
        twin.parts = tuple(
            part.scaled(exponent if exponent.ndim else exponent.expand(part.largest().shape)) for part in self.parts
        )
        return twin

    def _rounding(self) -> Rounding:
        parts = [part.rounding() for part in self.parts]
        one = (1,) * bool(self.batch_shape)
        norms = []
        for part, own in zip(self.parts, parts, strict=True):
            flat = own.norms.expand(*part.batch_shape, *(1,) * bool(part.batch_shape), *part.code_shape)
            norms.append(flat.flatten(-len(part.code_shape)).expand(*self.batch_shape, *one, part.code_size))
        encode, decode = max(own.encode for own in parts), sum(own.decode for own in parts)
        return Rounding(torch.cat(norms, -1), encode, decode, all(own.sparse for own in parts))

    def select(self, index: Tensor) -> Self:
        if not self.batch_shape:
            return self
        twin = copy.copy(self)
        twin.parts = tuple(part.select(index) for part in self.parts)
        twin.batch_shape = (len(index),)
        return twin

    def split(self, a: Tensor) -> tuple[Tensor, ...]:
        """The parts' own codes, each of shape (*any, *part.code_shape), of a union code (*any, d')."""
        pieces = a.split([part.code_size for part in self.parts], dim=-1)
        return tuple(p.reshape(*a.shape[:-1], *part.code_shape) for p, part in zip(pieces, self.parts, strict=True))

    def _encode(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.ndim - len(self.signal_shape)]
        codes = [part.encode_unchecked(x.reshape(*lead, *part.signal_shape)) for part in self.parts]
        return torch.cat(
            [code.reshape(*lead, part.code_size) for code, part in zip(codes, self.parts, strict=True)], -1
        )

    def _decode(self, a: Tensor) -> Tensor:
        lead = a.shape[:-1]
        signals = [
            part.decode_unchecked(code).reshape(*lead, *self.signal_shape)
            for part, code in zip(self.parts, self.split(a), strict=True)
        ]
        return torch.stack(signals).sum(0)

    def _lipschitz(self) -> Tensor:
        if self.signal_size * self.code_size <= _MATRIX_LIMIT:
            return largest_eigenvalue(self.matrix())
        bound = torch.stack([part.lipschitz().expand(self.batch_shape) for part in self.parts]).sum(0)
        return bound * (1 + 4 * len(self.parts) * torch.finfo(bound.dtype).eps)
