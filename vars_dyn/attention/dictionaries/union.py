"""The dictionary of VARS-SD with a convolution: features of the tokens beside templates on their grid."""

from __future__ import annotations

import copy
from typing import Self

from torch import Tensor

from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.dictionaries.features import FeatureDictionary
from vars_dyn.attention.dictionaries.grid import GridDictionary
from vars_dyn.attention.spectral import Eigenvalue, largest_eigenvalue
from vars_dyn.dictionaries import UnionDictionary

__all__ = ["TokenUnion"]


class TokenUnion(TokenDictionary, UnionDictionary):
    """P = [Phi, S] for each channel. A flat code holds m features, then templates x positions.

    Both parts must have the batch shape (B, heads, channels). This is not checked.
    """

    parts: tuple[FeatureDictionary, GridDictionary]

    def __init__(self, features: FeatureDictionary, static: GridDictionary) -> None:
        self.parts = (features, static)
        self.signal_shape, self.batch_shape = static.signal_shape, static.batch_shape
        self.code_shape = (features.code_size + static.code_size,)

    def differentiable_lipschitz(self, largest: Eigenvalue = largest_eigenvalue) -> Tensor:
        """The sum of the parts' values, a bound because |P|^2 <= |Phi|^2 + |S|^2; differentiable."""
        return self.parts[0].differentiable_lipschitz(largest) + self.parts[1].differentiable_lipschitz(largest)

    def row_sum(self) -> Tensor:
        """The sum of the parts' row-sum bounds; differentiable."""
        return self.parts[0].row_sum() + self.parts[1].row_sum()

    def select(self, index: Tensor) -> Self:
        twin = copy.copy(self)
        twin.parts = (self.parts[0].select(index), self.parts[1].select(index))
        twin.batch_shape = (len(index),)
        return twin
