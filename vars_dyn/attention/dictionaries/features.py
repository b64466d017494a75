"""The dynamic dictionary of a layer: random features of its own tokens, with the Gram matrix kept."""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.spectral import Eigenvalue, largest_eigenvalue
from vars_dyn.dictionaries import DenseDictionary
from vars_dyn.dictionaries.base import Dictionary, Rounding, atom_norms, rounded_up

__all__ = ["FeatureDictionary", "feature_count"]

#: The most features of a head. With more, its Gram matrix would take terabytes.
_MOST_FEATURES = 2**20


def feature_count(head_dim: int, feature_ratio: float) -> int:
    """m, the number of random features of a head."""
    _checks.number("feature_ratio", feature_ratio, positive=True)
    if head_dim * feature_ratio > _MOST_FEATURES:
        raise ValueError(
            f"feature_ratio is {feature_ratio} and a head has {head_dim} channels; at most {_MOST_FEATURES} features "
            "per head are wanted"
        )
    return max(1, round(head_dim * feature_ratio))


class FeatureDictionary(TokenDictionary, DenseDictionary):
    """P = [Phi, S]: features Phi(X) of shape (*batch, N, m) and an optional static matrix S (*tail, N, m').

    A layer applies G many times, so the Gram matrix of all atoms is formed only once. Its block of S alone is formed
    once for all images. No matrix is N x N.

    With `channels`, each batch element stands for that many elements: one per channel, each with one signal. Then
    batch_shape is (*batch, channels), so that the dictionary can be joined with one that differs between channels.
    """

    def __init__(
        self,
        features: Float[Tensor, "*batch n m"],
        static: Float[Tensor, "*tail n k"] | None = None,
        channels: int | None = None,
    ) -> None:
        self.channels = channels
        self._assign((features,) if static is None else (features, static))

    def tensors(self) -> tuple[Tensor, ...]:
        return self._parts

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        self._parts = tensors
        features, *static = tensors
        self.weight = torch.cat([features, static[0].expand(*features.shape[:-1], -1)], -1) if static else features
        *batch, n, m = self.weight.shape
        self.batch_shape = (*batch, self.channels) if self.channels else tuple(batch)
        self.signal_shape, self.code_shape = (n,), (m,)
        self._gram: Tensor | None = None

    def _encode(self, x: Tensor) -> Tensor:
        if not self.channels:
            return x @ self.weight
        return (x.flatten(-3, -2) @ self.weight).unflatten(-2, x.shape[-3:-1])

    def _decode(self, a: Tensor) -> Tensor:
        if not self.channels:
            return a @ self.weight.mT
        return (a.flatten(-3, -2) @ self.weight.mT).unflatten(-2, a.shape[-3:-1])

    def gram_matrix(self) -> Tensor:
        """G = P^T P, (*batch, m, m)."""
        if self._gram is None:
            if len(self._parts) == 1:
                self._gram = self.weight.mT @ self.weight
            else:
                features, static = self._parts
                own, cross = features.mT @ features, features.mT @ static
                fixed = (static.mT @ static).expand(*own.shape[:-2], -1, -1)
                self._gram = torch.cat([torch.cat([own, cross], -1), torch.cat([cross.mT, fixed], -1)], -2)
        return self._gram

    def gram(self, a: Tensor) -> Tensor:
        if self.channels:
            return super().gram(a)
        return a @ self.gram_matrix()

    def differentiable_lipschitz(self, largest: Eigenvalue = largest_eigenvalue) -> Tensor:
        """The largest eigenvalue of G, of shape `batch_shape`; differentiable. It is NaN if G is not finite."""
        return self._per_element(largest(self.gram_matrix()))

    def row_sum(self) -> Tensor:
        """max_i sum_j |G_ij|, a bound on `differentiable_lipschitz` without eigenvalues; differentiable."""
        return self._per_element(self.gram_matrix().abs().sum(-1).amax(-1))

    def _per_element(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1).expand(self.batch_shape) if self.channels else value

    def _lipschitz(self) -> Tensor:
        return rounded_up(self.differentiable_lipschitz().clamp(min=0), sum(self.weight.shape[-2:]))

    def _largest(self) -> Tensor:
        return Dictionary._largest(self)

    def _scaled(self, exponent: Tensor) -> Self:
        return Dictionary._scaled(self, exponent)

    def _rounding(self) -> Rounding:
        norms = atom_norms(self.weight.detach(), -2)[..., None, :]
        return Rounding(norms[..., None, :, :] if self.channels else norms, self.signal_size, self.code_size, True)

    def select(self, index: Tensor) -> Self:
        if not self.batch_shape:
            return self
        elements = math.prod(self.batch_shape) // (self.channels or 1)
        index = index // (self.channels or 1)
        batch = self.weight.shape[:-2]
        parts = [t.expand(*batch, *t.shape[-2:]).reshape(elements, *t.shape[-2:])[index] for t in self._parts]
        twin = copy.copy(self)
        twin.channels = None
        twin._assign(tuple(parts))
        return twin
