"""The two arguments of `reconstruct`: what a layer reconstructs, and by which steps.

Queries and values are (B, heads, N, c) in the layer's own dtype. Everything else is float32 or wider.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.dictionaries.features import FeatureDictionary
from vars_dyn.attention.dictionaries.grid import TokenConvDictionary, TokenFourierDictionary
from vars_dyn.attention.dictionaries.tokens import Grid
from vars_dyn.attention.dictionaries.union import TokenUnion
from vars_dyn.attention.precision import working
from vars_dyn.attention.solving import Equilibrium, Ode
from vars_dyn.attention.variants import Variant
from vars_dyn.dictionaries import random_features

__all__ = ["FeatureInputs", "GridInputs", "Inputs", "Metric", "Reconstruction", "Steps", "UnionInputs"]


class Reconstruction(NamedTuple):
    """A batched dictionary over tokens, and the signals (*batch_shape, n, N) that are reconstructed with it.

    A dynamic dictionary has batch_shape (B, heads) and n = channels. The others have (B, heads, channels) and n = 1.
    """

    dictionary: TokenDictionary
    signal: Tensor


class FeatureInputs(NamedTuple):
    """Values, and P = [Phi, S] with random features Phi of the queries.

    Attributes:
        queries: (B, heads, N, c).
        projection: the random vectors, (heads, c, m).
        static: S of shape (heads, N, m'), or None. It is normalised if the variant normalises atoms.
        values: (B, heads, N, c).
        normalize: whether features are L2-normalised over tokens.
    """

    queries: Tensor
    projection: Tensor
    static: Tensor | None
    values: Tensor
    normalize: bool = True

    def working(self) -> FeatureInputs:
        """The same in float32 at least."""
        queries, projection, values = working(self.queries), working(self.projection), working(self.values)
        return self._replace(queries=queries, projection=projection, values=values)

    def features(self) -> Tensor:
        """Phi, (B, heads, N, m)."""
        features = random_features(working(self.queries), working(self.projection).mT)
        return F.normalize(features, dim=-2) if self.normalize else features

    def reconstruction(self) -> Reconstruction:
        """One dictionary per image and head, with a signal for each channel."""
        return Reconstruction(FeatureDictionary(self.features(), self.static), working(self.values).mT)


class GridInputs(NamedTuple):
    """Values, and templates per channel on a token grid.

    Attributes:
        kernel: small kernels (C, T, kh, kw), normalised if the variant normalises atoms, or half-spectra
            (C, T, 1, H, W // 2 + 1, 2).
        rows: R of the prefix tokens, (C, p, T), or None.
        grid: (H, W).
        values: (B, heads, N, c), with C = heads c.
    """

    kernel: Tensor
    rows: Tensor | None
    grid: Grid
    values: Tensor

    def working(self) -> GridInputs:
        """The same in float32 at least."""
        return self._replace(values=working(self.values))

    @property
    def small(self) -> bool:
        """Whether the kernels are small ones rather than half-spectra."""
        return self.kernel.ndim == 4

    def dictionary(self, batch_shape: tuple[int, ...]) -> TokenConvDictionary | TokenFourierDictionary:
        """The dictionary with this batch shape, which ends with (C,) or with (heads, c)."""
        kind = TokenConvDictionary if self.small else TokenFourierDictionary
        return kind(self.kernel, self.rows, self.grid, batch_shape)

    def reconstruction(self) -> Reconstruction:
        """One dictionary per image, head and channel, with one signal."""
        signal = working(self.values).mT
        return Reconstruction(self.dictionary(signal.shape[:-1]), signal.unsqueeze(-2))


class UnionInputs(NamedTuple):
    """Values, and features of the queries beside templates on a grid. Both parts hold the same values."""

    features: FeatureInputs
    grid: GridInputs

    def working(self) -> UnionInputs:
        """The same in float32 at least."""
        return UnionInputs(self.features.working(), self.grid.working())

    def reconstruction(self) -> Reconstruction:
        """One dictionary per image, head and channel, with one signal."""
        dynamic = FeatureDictionary(self.features.features(), channels=self.features.values.shape[-1])
        static, signal = self.grid.reconstruction()
        if not isinstance(static, TokenConvDictionary | TokenFourierDictionary):
            raise TypeError(f"the static part is a {type(static).__name__}; a dictionary on a grid is wanted")
        return Reconstruction(TokenUnion(dynamic, static), signal)


Inputs = FeatureInputs | GridInputs | UnionInputs


class Metric(NamedTuple):
    """The learned metric of the released code, as in LISTA.

    `matrix` is K in K G K. The penalty's weight is multiplied by `lam`, and L is divided by `lipschitz`.
    """

    matrix: Tensor
    lam: Tensor
    lipschitz: Tensor


class Steps(NamedTuple):
    """How codes are found. The defaults are the paper's.

    Attributes:
        lam: weight of the penalty.
        num_steps: iterations of an unrolled solver.
        solver: a name of `UNROLLED`, or an `Ode` or `Equilibrium`.
        variant: the threshold, the start and the bound of an unrolled solver.
        metric: the learned metric, for `variant.learned_metric`.
        stored: L of each channel, (C,), for `variant.bound` "stored".
        drop: dropout of the codes, or None.
    """

    lam: Tensor | float
    num_steps: int
    solver: str | Ode | Equilibrium = "ista"
    variant: Variant = Variant()
    metric: Metric | None = None
    stored: Tensor | None = None
    drop: nn.Dropout | None = None


def are_the_papers(steps: Steps) -> bool:
    """Whether these are the paper's steps, which have faster forms than the plain one."""
    drops = steps.drop is not None and steps.drop.training and steps.drop.p > 0
    # The written-out derivatives treat lam as a constant.
    learned = isinstance(steps.lam, Tensor) and steps.lam.requires_grad
    return steps.solver == "ista" and steps.variant.has_paper_steps and not (drops or learned) and bool(steps.lam > 0)
