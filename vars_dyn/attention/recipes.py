"""How each kind of VARS layer makes its dictionary: the tensors it learns or draws, their start, and P from them.

A recipe holds only sizes. Its tensors belong to the layer, so that `state_dict` names them without a prefix.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vars_dyn.attention.base import TokenBatchNorm
from vars_dyn.attention.dictionaries.grid import TokenFourierDictionary
from vars_dyn.attention.dictionaries.resize import resize_half_spectrum, resize_token_rows
from vars_dyn.attention.dictionaries.tokens import Grid
from vars_dyn.attention.precision import full_precision, working
from vars_dyn.attention.reconstruct.values import FeatureInputs, GridInputs, Inputs, UnionInputs
from vars_dyn.attention.variants import Variant

__all__ = ["Holder", "Layout", "Recipe", "Sizes", "recipe_of"]

#: The number of prefix tokens of a call, and its grid.
Layout = tuple[int, Grid]


class Sizes(NamedTuple):
    """The sizes of a layer. `features` counts features per head, `templates` counts templates per channel."""

    dim: int
    num_heads: int
    features: int
    templates: int
    kernel_size: int
    grid_size: Grid | None
    num_prefix_tokens: int | None


class Holder(nn.Module):
    """Base of the layer to which a recipe adds tensors. A layer has only those attributes that its recipe adds."""

    rand_matrix: Tensor
    kernel: nn.Parameter
    rows: nn.Parameter
    kernel2: nn.Parameter
    norm1: TokenBatchNorm
    L: Tensor
    variant: Variant
    factory: dict[str, Any]


class Recipe(ABC):
    """How to make one kind of dictionary. A subclass names its tensors and builds the dictionary from them.

    Attributes:
        projections: what the input projection gives: "qv" for queries and values, "v" for values alone.
        on_grid: whether the dictionary needs the grid of the tokens.
    """

    projections: ClassVar[str] = "qv"
    on_grid: ClassVar[bool] = True

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @property
    def atoms(self) -> int:
        """The number of atoms d'. Raises ValueError if it depends on the grid."""
        raise ValueError(f"the number of atoms of a {type(self).__name__} depends on the grid")

    @abstractmethod
    def add_to(self, layer: Holder) -> None:
        """Register the tensors on the layer, without values."""

    @abstractmethod
    def reset(self, layer: Holder) -> None:
        """Draw the tensors anew."""

    @abstractmethod
    def inputs(self, layer: Holder, query: Tensor | None, value: Tensor, layout: Layout | None) -> Inputs:
        """The inputs of the reconstruction, from normalised queries and values (B, heads, N, c).

        `query` is None unless `projections` has "q". `layout` is given if `on_grid`.
        """

    def norm_to_store(self, layer: Holder) -> Tensor:
        """The current L of each channel, for a variant that stores it."""
        raise ValueError(f"variant.bound is {layer.variant.bound!r}; only 'stored' has an L to update")

    def filtered(self, layer: Holder, y: Tensor, layout: Layout) -> Tensor:
        """The heads' merged output y (B, N, C) after the output filter, for a variant that has one."""
        raise ValueError("variant.output_filter is False; there is no filter to apply")


class DynamicRecipe(Recipe):
    """Random features of the layer's own tokens (VARS-D)."""

    on_grid = False

    @property
    def atoms(self) -> int:
        """The features."""
        return self.sizes.features

    def add_to(self, layer: Holder) -> None:
        """The random vectors of each head."""
        _add_random_vectors(layer, self.sizes)

    def reset(self, layer: Holder) -> None:
        """Draw the random vectors."""
        nn.init.normal_(layer.rand_matrix)

    def inputs(self, layer: Holder, query: Tensor | None, value: Tensor, layout: Layout | None) -> FeatureInputs:
        """Features of the queries."""
        return _features(layer, query, value)


class ConvRecipe(Recipe):
    """Small kernels per channel (VARS-S in the paper's form)."""

    projections = "v"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        if sizes.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {sizes.kernel_size}; an odd number is wanted")

    def add_to(self, layer: Holder) -> None:
        """The kernels, and the rows of prefix tokens."""
        side = self.sizes.kernel_size
        _add(layer, "kernel", self.sizes.dim, self.sizes.templates, side, side)
        _add_rows(layer, self.sizes)

    def reset(self, layer: Holder) -> None:
        """Draw both."""
        nn.init.normal_(layer.kernel)
        _reset_rows(layer, self.sizes)

    def inputs(self, layer: Holder, query: Tensor | None, value: Tensor, layout: Layout | None) -> GridInputs:
        """Templates on the grid."""
        prefix, grid = _known(layout)
        rows, kernel = _rows(layer, self.sizes, prefix), working(layer.kernel)
        if layer.variant.normalize_atoms:
            kernel = kernel / kernel.flatten(-2).norm(dim=-1)[..., None, None]
        return GridInputs(kernel, rows, grid, value)


class FourierRecipe(Recipe):
    """Templates per channel as large as the token grid, by FFT (VARS-S in the released form)."""

    projections = "v"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.trained_grid = _trained_grid(sizes)

    def add_to(self, layer: Holder) -> None:
        """The templates' half-spectra. The output filter, its norm, the stored L and rows are added if wanted."""
        height, width = self.trained_grid
        spectrum = (1, height, width // 2 + 1, 2)
        _add(layer, "kernel", self.sizes.dim, self.sizes.templates, *spectrum)
        if layer.variant.output_filter:
            _add(layer, "kernel2", self.sizes.dim, 1, *spectrum)
            layer.norm1 = TokenBatchNorm(self.sizes.dim, **layer.factory)
        if layer.variant.bound == "stored":
            layer.register_buffer("L", torch.empty(self.sizes.dim, **layer.factory))
        _add_rows(layer, self.sizes)

    def reset(self, layer: Holder) -> None:
        """Draw them, with templates of about unit norm. The stored L becomes that of the templates."""
        nn.init.normal_(layer.kernel)
        size = layer.kernel.square().sum((2, 3, 4, 5), keepdim=True) * 2 / math.prod(self.trained_grid)
        layer.kernel.div_(size.sqrt())
        _reset_rows(layer, self.sizes)
        if layer.variant.output_filter:
            nn.init.normal_(layer.kernel2, std=0.02)

    def inputs(self, layer: Holder, query: Tensor | None, value: Tensor, layout: Layout | None) -> GridInputs:
        """Templates on the grid of `layout`, resized from the trained grid."""
        prefix, grid = _known(layout)
        rows = _rows(layer, self.sizes, prefix)
        return GridInputs(resize_half_spectrum(working(layer.kernel), self.trained_grid, grid), rows, grid, value)

    def norm_to_store(self, layer: Holder) -> Tensor:
        """L on the trained grid, for the Gram map that the variant's iteration uses."""
        if layer.variant.bound != "stored":
            return super().norm_to_store(layer)
        rows = _rows(layer, self.sizes, self.sizes.num_prefix_tokens or 0)
        dictionary = TokenFourierDictionary(working(layer.kernel), rows, self.trained_grid, (self.sizes.dim,))
        if layer.variant.half_spectrum_gram:
            return dictionary.half_spectrum_lipschitz()
        return dictionary.differentiable_lipschitz()

    def filtered(self, layer: Holder, y: Tensor, layout: Layout) -> Tensor:
        """y after a second global filter on its image tokens, and then batch norm on all tokens."""
        prefix, grid = layout
        if y.shape[0] == 0 and not torch.compiler.is_compiling():
            return layer.norm1(y)  # FFTs refuse a batch without images
        with full_precision(y):
            kernel = resize_half_spectrum(working(layer.kernel2), self.trained_grid, grid)
            spectrum = torch.view_as_complex(kernel)[:, 0, 0]
            image = working(y[:, prefix:]).mT.unflatten(-1, grid)
            image = torch.fft.irfft2(spectrum * torch.fft.rfft2(image), s=grid).flatten(-2).mT.to(y.dtype)
        return layer.norm1(torch.cat([y[:, :prefix], image], 1) if prefix else image)


class UnionRecipe(Recipe):
    """Features of the tokens beside small kernels (VARS-SD in the paper's form)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.static = ConvRecipe(sizes)

    def add_to(self, layer: Holder) -> None:
        """The tensors of both parts."""
        _add_random_vectors(layer, self.sizes)
        self.static.add_to(layer)

    def reset(self, layer: Holder) -> None:
        """Draw them."""
        nn.init.normal_(layer.rand_matrix)
        self.static.reset(layer)

    def inputs(self, layer: Holder, query: Tensor | None, value: Tensor, layout: Layout | None) -> UnionInputs:
        """Both parts."""
        features = _features(layer, query, value)
        return UnionInputs(features, self.static.inputs(layer, None, value, layout))


class MatrixRecipe(Recipe):
    """Features of the tokens beside a free matrix per head (VARS-SD in the released form)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.trained_grid = _trained_grid(sizes)

    @property
    def atoms(self) -> int:
        """As many columns as features."""
        return 2 * self.sizes.features

    def add_to(self, layer: Holder) -> None:
        """The random vectors, and the matrix, whose first rows are those of prefix tokens."""
        _add_random_vectors(layer, self.sizes)
        tokens = _prefix_rows(self.sizes) + math.prod(self.trained_grid)
        _add(layer, "kernel", 1, self.sizes.num_heads, tokens, self.sizes.features)

    def reset(self, layer: Holder) -> None:
        """Draw both."""
        nn.init.normal_(layer.rand_matrix)
        nn.init.normal_(layer.kernel)

    def inputs(self, layer: Holder, query: Tensor | None, value: Tensor, layout: Layout | None) -> FeatureInputs:
        """Features of the queries and the matrix (heads, N, m) on the grid."""
        prefix, grid = _known(layout)
        kernel = working(layer.kernel)[0]
        own = kernel.shape[-2] - math.prod(self.trained_grid)
        rows, image = resize_token_rows(kernel, own, self.trained_grid, grid).split([own, math.prod(grid)], dim=-2)
        matrix = torch.cat([_repeated(rows, self.sizes, prefix), image], -2)
        static = F.normalize(matrix, dim=-2) if layer.variant.normalize_atoms else matrix
        return _features(layer, query, value, static)


_RECIPES: dict[tuple[str, str], type[Recipe]] = {
    ("dynamic", "conv"): DynamicRecipe,
    ("dynamic", "full"): DynamicRecipe,
    ("static", "conv"): ConvRecipe,
    ("static", "full"): FourierRecipe,
    ("static+dynamic", "conv"): UnionRecipe,
    ("static+dynamic", "full"): MatrixRecipe,
}


def recipe_of(dictionary: str, variant: Variant) -> type[Recipe]:
    """The recipe of a kind of dictionary in a variant."""
    return _RECIPES[dictionary, variant.static]


def _trained_grid(sizes: Sizes) -> Grid:
    if sizes.grid_size is None:
        raise ValueError("grid_size is None; templates as large as the grid want grid_size=(height, width)")
    return sizes.grid_size


def _known(layout: Layout | None) -> Layout:
    if layout is None:
        raise ValueError("layout is None; a static dictionary wants the grid of its tokens")
    return layout


def _add(layer: Holder, name: str, *shape: int) -> None:
    layer.register_parameter(name, nn.Parameter(torch.empty(*shape, **layer.factory)))


def _add_random_vectors(layer: Holder, sizes: Sizes) -> None:
    shape = (sizes.num_heads, sizes.dim // sizes.num_heads, sizes.features)
    layer.register_buffer("rand_matrix", torch.empty(*shape, **layer.factory))


def _features(layer: Holder, query: Tensor | None, value: Tensor, static: Tensor | None = None) -> FeatureInputs:
    if query is None:
        raise ValueError("query is None; a dynamic dictionary is made of queries")
    return FeatureInputs(query, layer.rand_matrix, static, value, layer.variant.normalize_atoms)


def _prefix_rows(sizes: Sizes) -> int:
    """The number of rows for prefix tokens: one for each, or one that all share if their number is open."""
    return 1 if sizes.num_prefix_tokens is None else sizes.num_prefix_tokens


def _add_rows(layer: Holder, sizes: Sizes) -> None:
    if _prefix_rows(sizes):
        _add(layer, "rows", sizes.dim, _prefix_rows(sizes), sizes.templates)


def _reset_rows(layer: Holder, sizes: Sizes) -> None:
    if _prefix_rows(sizes):
        nn.init.normal_(layer.rows, std=sizes.templates**-0.5)


def _rows(layer: Holder, sizes: Sizes, prefix: int) -> Tensor | None:
    """R (C, p, T) for p = `prefix` prefix tokens, or None."""
    return _repeated(working(layer.rows), sizes, prefix) if _prefix_rows(sizes) else None


def _repeated(rows: Tensor, sizes: Sizes, prefix: int) -> Tensor:
    """The rows of `prefix` prefix tokens. If their number is open, the row that they share is repeated for each."""
    return rows.expand(*rows.shape[:-2], prefix, -1) if sizes.num_prefix_tokens is None else rows
