"""VARS attention: sparse reconstruction of a layer's values from a dictionary of templates."""

from __future__ import annotations

import math
from typing import NamedTuple, Self, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vars_dyn import _checks
from vars_dyn.attention.base import AttentionOptions, TokenBatchNorm, TokenMixer, refuse_mask
from vars_dyn.attention.dictionaries.features import FeatureDictionary, feature_count
from vars_dyn.attention.dictionaries.grid import GridDictionary, TokenConvDictionary, TokenFourierDictionary
from vars_dyn.attention.dictionaries.resize import resize_half_spectrum, resize_token_rows
from vars_dyn.attention.dictionaries.tokens import grid_pair
from vars_dyn.attention.dictionaries.union import TokenUnion
from vars_dyn.attention.precision import full_precision, working
from vars_dyn.attention.reconstruct.cpu_features import reconstruct
from vars_dyn.attention.reconstruct.cpu_grid import reconstruct_on_grid
from vars_dyn.attention.solving import Equilibrium, Ode, solver_of
from vars_dyn.attention.unrolled import GATES, UNROLLED, Map
from vars_dyn.attention.variants import DICTIONARIES, Variant, variant_of
from vars_dyn.dictionaries import random_features
from vars_dyn.integration.gradients import Mode
from vars_dyn.problems import SparseProblem

__all__ = ["Reconstruction", "TokenBatchNorm", "VarsAttention"]

LayerDictionary = FeatureDictionary | GridDictionary | TokenUnion


class Reconstruction(NamedTuple):
    """What a layer reconstructs: signals (*batch_shape, n, N) of a batched dictionary whose signals are token vectors.

    The batch is (B, heads) with n = channels for a dynamic dictionary, (B, heads, channels) with n = 1 otherwise.
    """

    dictionary: LayerDictionary
    signal: Tensor


class VarsAttention(TokenMixer):
    """Attention as sparse reconstruction (Eq. 16-17): proj(P a), a from min 1/2 |P a - v|^2 + lam |a|_1 per channel v.

    The dictionary P is learned (VARS-S), made of random features of the layer's own tokens (VARS-D), or both (VARS-SD).
    Takes and gives (B, N, C). Everything between the projections is computed in float32 at least
    (on a GPU from factors in TF32 where the inputs are of half precision).

    Args:
        dim: C, divisible by `num_heads`.
        num_heads: number of heads; a dynamic dictionary is one per head.
        qkv_bias: whether the input projection has a bias.
        dictionary: "dynamic", "static" or "static+dynamic".
        grid_size: (H, W) of the image tokens that the layer is made for; None: a square. Other grids are fine where
            they are told, with a call or by the model around (`follow_grid`): small kernels move over them, full-size
            templates are interpolated from `grid_size`, which they want.
        lam: weight of the penalty; None: the variant's (0.3 in the paper's form).
        num_steps: iterations; None: the variant's (3 in the paper's form).
        solver: "ista" (the paper's k steps) or "fista" (with momentum), unrolled; "ode": Eq. 8-9 integrated to a time;
            "equilibrium": its certified end point; or an `Ode` or `Equilibrium` with its settings.
        gradient: how to differentiate through "ode" ("backprop", "checkpoint", "adjoint") or "equilibrium" (these, or
            "implicit"), by name or with settings (`vars_dyn.integration.gradients`); None: the solver's own. Unrolled steps are
            backpropagated through.
        variant: "paper", "released", or a `Variant`, which names every choice between the two.
        num_prefix_tokens: class and register tokens ahead of the image tokens, each a further row of a static
            dictionary; None: what the grid leaves over, and all share one row.
        feature_ratio: random features per head and head dimension.
        templates: templates per channel of a static dictionary.
        kernel_size: side of its kernels, odd.
        options: see `AttentionOptions`. attn_drop drops entries of the codes.
    """

    rand_matrix: Tensor
    kernel: nn.Parameter
    rows: nn.Parameter
    L: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        dictionary: str = "dynamic",
        grid_size: int | tuple[int, int] | None = None,
        lam: float | None = None,
        num_steps: int | None = None,
        solver: str | Ode | Equilibrium = "ista",
        gradient: str | Mode | None = None,
        variant: str | Variant = "paper",
        num_prefix_tokens: int | None = None,
        feature_ratio: float = 2.0,
        templates: int = 5,
        kernel_size: int = 3,
        **options: Unpack[AttentionOptions],
    ) -> None:
        _checks.choice("dictionary", dictionary, DICTIONARIES)
        super().__init__(dim, num_heads, qkv_bias, inputs="v" if dictionary == "static" else "qv", **options)
        self.dictionary, self.variant = dictionary, variant_of(variant, dictionary)
        self.grid_size = grid_pair(grid_size)
        self.lam = self.variant.lam if lam is None else _checks.number("lam", lam, nonnegative=True)
        self.num_steps = self.variant.num_steps if num_steps is None else _checks.count("num_steps", num_steps)
        self.solver = solver_of(solver, gradient)
        if not isinstance(self.solver, str):
            self._check_problem()
        if num_prefix_tokens is not None:
            _checks.count("num_prefix_tokens", num_prefix_tokens, least=0)
        self.num_prefix_tokens = num_prefix_tokens
        self.features = feature_count(self.head_dim, feature_ratio)
        if dictionary != "static":
            self.register_buffer("rand_matrix", self._empty(num_heads, self.head_dim, self.features))
        _checks.count("templates", templates)
        _checks.count("kernel_size", kernel_size)
        if dictionary != "dynamic":
            self._add_static(templates, kernel_size)
        if self.variant.learned_metric:
            atoms = self.features * (1 if dictionary == "dynamic" else 2)
            self.learned_k = nn.Parameter(self._empty(atoms, atoms))
            self.learned_lam = nn.Parameter(self._empty(1))
            self.learned_L = nn.Parameter(self._empty(1))
        self.reset_parameters()

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, **self.factory)

    def _add_static(self, templates: int, kernel_size: int) -> None:
        rows = 1 if self.num_prefix_tokens is None else self.num_prefix_tokens
        if self.variant.static == "conv":
            if kernel_size % 2 == 0:
                raise ValueError(f"kernel_size is {kernel_size}; an odd number is wanted")
            self.kernel = nn.Parameter(self._empty(self.dim, templates, kernel_size, kernel_size))
        elif self.grid_size is None:
            raise ValueError("grid_size is None; templates as large as the grid want grid_size=(height, width)")
        elif self.dictionary == "static":
            height, width = self.trained_grid = self.grid_size
            self.kernel = nn.Parameter(self._empty(self.dim, templates, 1, height, width // 2 + 1, 2))
            if self.variant.output_filter:
                self.kernel2 = nn.Parameter(self._empty(self.dim, 1, 1, height, width // 2 + 1, 2))
                self.norm1 = TokenBatchNorm(self.dim, **self.factory)
            if self.variant.bound == "stored":
                self.register_buffer("L", self._empty(self.dim))
        else:
            self.trained_grid = self.grid_size
            self.kernel = nn.Parameter(self._empty(1, self.num_heads, rows + math.prod(self.grid_size), self.features))
        if rows and not (self.dictionary == "static+dynamic" and self.variant.static == "full"):
            self.rows = nn.Parameter(self._empty(self.dim, rows, templates))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the random features and the static dictionary anew; the learned metric starts as the identity."""
        if hasattr(self, "rand_matrix"):
            nn.init.normal_(self.rand_matrix)
        if hasattr(self, "kernel"):
            nn.init.normal_(self.kernel)
            if self.dictionary == "static" and self.variant.static == "full":
                size = self.kernel.square().sum((2, 3, 4, 5), keepdim=True) * 2 / math.prod(self.trained_grid)
                self.kernel.div_(size.sqrt())
        if hasattr(self, "rows"):
            nn.init.normal_(self.rows, std=self.rows.shape[-1] ** -0.5)
        if hasattr(self, "kernel2"):
            nn.init.normal_(self.kernel2, std=0.02)
        if hasattr(self, "learned_k"):
            nn.init.eye_(self.learned_k)
            nn.init.ones_(self.learned_lam)
            nn.init.ones_(self.learned_L)
        if hasattr(self, "L"):
            nn.init.zeros_(self.L)
            if not self.L.is_meta:
                self.update_bound(momentum=1.0)

    @torch.no_grad()
    def update_bound(self, momentum: float = 0.1) -> None:
        """Move the stored L towards the present dictionary's, as the released code does every 100 training steps."""
        if self.variant.bound != "stored":
            raise ValueError(f"variant.bound is {self.variant.bound!r}; only 'stored' has an L to update")
        static = self._static((self.dim,), self.num_prefix_tokens or 0, self.trained_grid)
        present = static.squared_norm()
        if self.variant.half_spectrum_gram and isinstance(static, TokenFourierDictionary):
            present = static.half_spectrum_squared_norm()
        self.L.lerp_(present.to(self.L), momentum)

    @classmethod
    def on_grid(cls, grid_size: tuple[int, int], num_prefix_tokens: int) -> type[Self]:
        return cls.configured(grid_size=grid_size, num_prefix_tokens=num_prefix_tokens)

    @property
    def own_norm(self) -> bool:
        return self.variant.output_filter

    def forward(
        self,
        x: Float[Tensor, "b n dim"],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        grid_size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "b n dim"]:
        """Reconstruct; `grid_size` is this input's grid where it differs from the layer's. Masks raise ValueError."""
        refuse_mask(self, attn_mask, is_causal)
        y = self.merge_heads(self.heads(x, grid_size))
        if self.variant.output_filter:
            y = self.norm1(self._filter(y, grid_size))
        return self.project(y)

    def heads(
        self, x: Float[Tensor, "b n dim"], grid_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b heads n c"]:
        """P a per head, before heads are merged, filtered and projected; NaN for an image whose tokens are."""
        if not torch.compiler.is_compiling():
            if x.shape[0] == 0:
                return self._no_heads(x, grid_size)
            if not isinstance(self.solver, str) and not bool((finite := self._finite(x)).all()):
                y = x.new_full((len(x), self.num_heads, x.shape[1], self.head_dim), torch.nan)
                return y.index_copy(0, finite.nonzero().flatten(), self.heads(x[finite], grid_size))
        if self._written_out():
            y = self._on_image(x, grid_size) if self.dictionary == "static" else self._on_tokens(x, grid_size)
            return y.to(x.dtype)
        return self._decoded(*self.reconstruction(x, grid_size)).to(x.dtype)

    def _no_heads(self, x: Tensor, grid_size: tuple[int, int] | None) -> Tensor:
        """`heads` of a batch without images; what it depends on has a gradient, of zero."""
        if self.dictionary != "dynamic":
            self.layout(x.shape[1], grid_size)
        *_, v = self.split_heads(self.v(x) if self.dictionary == "static" else self.qkv(x))
        return sum((p.sum().to(v) for p in self.parameters()), v).to(x.dtype)

    @torch.no_grad()
    def _finite(self, x: Tensor) -> Tensor:
        """For which images a problem can be posed at all, (B,)."""
        return (self.v(x) if self.dictionary == "static" else self.qkv(x)).isfinite().flatten(1).all(1)

    def _written_out(self) -> bool:
        """Whether `_on_image` (small kernels) or `_on_tokens` (matrices) computes this layer, by the paper's steps."""
        static = {"dynamic": self.variant.static, "static": "conv", "static+dynamic": "full"}[self.dictionary]
        drops = self.training and self.attn_drop.p > 0
        return (
            self.variant.static == static
            and self.variant.has_paper_steps
            and self.solver == "ista"
            and bool(self.lam > 0)
            and not drops
        )

    def _on_tokens(self, x: Tensor, grid_size: tuple[int, int] | None) -> Tensor:
        q, v = self.split_heads(self.qkv(x))
        with full_precision(x):
            static = None if self.dictionary == "dynamic" else self._matrix(*self.layout(x.shape[1], grid_size))
            steps = float(self.lam), self.num_steps
            return reconstruct(self.q_norm(q), self.rand_matrix, static, v, steps, self._decoded)

    def _on_image(self, x: Tensor, grid_size: tuple[int, int] | None) -> Tensor:
        v = self.v(x)
        prefix, grid = self.layout(x.shape[1], grid_size)
        with full_precision(x):
            one = self._static((self.dim,), prefix, grid)
            if not isinstance(one, TokenConvDictionary):
                raise TypeError(f"the static dictionary is a {type(one).__name__}; small kernels are wanted here")
            given = working(v), one.kernel, one.rows, self._norm(one), grid
            (y,) = self.split_heads(reconstruct_on_grid(*given, (float(self.lam), self.num_steps)))
            return y

    def _decoded(self, dictionary: LayerDictionary, signal: Tensor) -> Tensor:
        return self.decode(dictionary, self.attn_drop(self.solve(dictionary, signal))).mT

    def decode(self, dictionary: LayerDictionary, code: Tensor) -> Float[Tensor, "b heads c n"]:
        """P a of a reconstruction's codes."""
        with full_precision(code):
            return self.by_head(dictionary.decode(code))

    def by_head(self, value: Tensor) -> Float[Tensor, "b heads c size"]:
        """Signals or codes of a reconstruction with one shape for every kind of dictionary."""
        return value if self.dictionary == "dynamic" or value.ndim == 4 else value.squeeze(-2)

    def reconstruction(self, x: Float[Tensor, "b n dim"], grid_size: tuple[int, int] | None = None) -> Reconstruction:
        """The dictionary and the signals that the layer makes of tokens x."""
        *query, v = self.split_heads(self.v(x) if self.dictionary == "static" else self.qkv(x))
        with full_precision(x):
            return self._reconstruction(query, working(v).mT, grid_size)

    def _reconstruction(self, query: list[Tensor], signal: Tensor, grid_size: tuple[int, int] | None) -> Reconstruction:
        if self.dictionary == "dynamic":
            return Reconstruction(FeatureDictionary(self._features(query[0])), signal)
        prefix, grid = self.layout(signal.shape[-1], grid_size)
        if self.dictionary == "static":
            return Reconstruction(self._static(signal.shape[:-1], prefix, grid), signal.unsqueeze(-2))
        features = self._features(query[0])
        if self.variant.static == "full":
            return Reconstruction(FeatureDictionary(features, self._matrix(prefix, grid)), signal)
        static = self._static(signal.shape[:-1], prefix, grid)
        dynamic = FeatureDictionary(features, channels=self.head_dim)
        return Reconstruction(TokenUnion(dynamic, static), signal.unsqueeze(-2))

    def problem(self, x: Float[Tensor, "b n dim"], grid_size: tuple[int, int] | None = None) -> SparseProblem:
        """The sparse reconstruction that the layer approximates at tokens x: one LASSO per image, head and channel.

        Raises ValueError for a variant whose iteration solves no problem (gelu threshold, learned metric).
        """
        self._check_problem()
        dictionary, signal = self.reconstruction(x, grid_size)
        return SparseProblem(dictionary, signal, self.lam)

    def _check_problem(self) -> None:
        if self.variant.threshold != "soft" or self.variant.learned_metric:
            raise ValueError(
                f"variant.threshold is {self.variant.threshold!r} and variant.learned_metric "
                f"{self.variant.learned_metric}; only a soft threshold with the plain Gram matrix solves a problem"
            )

    def solve(self, dictionary: LayerDictionary, signal: Tensor, observe: list[Tensor] | None = None) -> Tensor:
        """Codes (*batch_shape, n, d') of a reconstruction.

        `observe` gathers the start and every iterate of an unrolled solver, and the code of any other.
        """
        with full_precision(signal):
            if not isinstance(self.solver, str):
                code = self.solver(SparseProblem(dictionary, signal, self.lam))
                if observe is not None:
                    observe.append(code)
                return code
            gate = GATES[self.variant.threshold]
            lam: Tensor | float = self.lam
            norm = self._norm(dictionary)[..., None, None]
            if self.variant.learned_metric:
                lam, norm = working(self.learned_lam) * lam, norm / working(self.learned_L)
            b = dictionary.encode(signal)
            start = gate(b, lam) if self.variant.start == "threshold" else b
            if observe is not None:
                observe.append(start)
            watch = None if observe is None else observe.append
            return UNROLLED[self.solver](self._gram(dictionary), b, start, lam, norm, self.num_steps, gate, watch)

    def _gram(self, dictionary: LayerDictionary) -> Map:
        """The map a -> G a of the iteration."""
        if self.variant.half_spectrum_gram and isinstance(dictionary, TokenFourierDictionary):
            return dictionary.half_spectrum_gram
        if self.variant.learned_metric and isinstance(dictionary, FeatureDictionary):
            metric = working(self.learned_k)
            matrix = (metric @ dictionary.gram_matrix() @ metric).mT
            return lambda a: a @ matrix
        return dictionary.gram

    def _norm(self, dictionary: LayerDictionary) -> Tensor:
        """L of the step, of shape `batch_shape`."""
        if self.variant.bound == "stored" and isinstance(dictionary, GridDictionary):
            return dictionary.per_element(working(self.L))
        norm = dictionary.squared_norm() if self.variant.bound == "spectral" else dictionary.row_sum()
        norm = norm if self.variant.differentiate_bound else norm.detach()
        return norm + 1 if self.variant.bound == "row_sum_plus_one" else norm

    def _features(self, q: Tensor) -> Tensor:
        features = random_features(working(self.q_norm(q)), working(self.rand_matrix).mT)
        return F.normalize(features, dim=-2) if self.variant.normalize_atoms else features

    def _prefix_rows(self, rows: Tensor, prefix: int) -> Tensor:
        return rows.expand(*rows.shape[:-2], prefix, -1) if self.num_prefix_tokens is None else rows

    def _matrix(self, prefix: int, grid: tuple[int, int]) -> Tensor:
        """The free static matrix (heads, N, m) on a grid."""
        kernel = working(self.kernel)[0]
        own = kernel.shape[-2] - math.prod(self.trained_grid)
        rows, image = resize_token_rows(kernel, own, self.trained_grid, grid).split([own, math.prod(grid)], dim=-2)
        matrix = torch.cat([self._prefix_rows(rows, prefix), image], -2)
        return F.normalize(matrix, dim=-2) if self.variant.normalize_atoms else matrix

    def _static(
        self, batch_shape: tuple[int, ...], prefix: int, grid: tuple[int, int]
    ) -> TokenConvDictionary | TokenFourierDictionary:
        rows = self._prefix_rows(working(self.rows), prefix) if hasattr(self, "rows") else None
        kernel = working(self.kernel)
        if self.variant.static == "full":
            kernel = resize_half_spectrum(kernel, self.trained_grid, grid)
            return TokenFourierDictionary(kernel, rows, grid, batch_shape)
        if self.variant.normalize_atoms:
            kernel = kernel / kernel.flatten(-2).norm(dim=-1)[..., None, None]
        return TokenConvDictionary(kernel, rows, grid, batch_shape)

    def _filter(self, y: Tensor, grid_size: tuple[int, int] | None) -> Tensor:
        """The second global filter on the image tokens of y (B, N, C); prefix tokens pass."""
        prefix, grid = self.layout(y.shape[1], grid_size)
        if y.shape[0] == 0 and not torch.compiler.is_compiling():
            return y  # no FFT takes a batch without images
        with full_precision(y):
            kernel = resize_half_spectrum(working(self.kernel2), self.trained_grid, grid)
            spectrum = torch.view_as_complex(kernel)[:, 0, 0]
            image = working(y[:, prefix:]).mT.unflatten(-1, grid)
            image = torch.fft.irfft2(spectrum * torch.fft.rfft2(image), s=grid).flatten(-2).mT.to(y.dtype)
        return torch.cat([y[:, :prefix], image], 1) if prefix else image

    def extra_repr(self) -> str:
        return f"dictionary={self.dictionary!r}, lam={self.lam}, num_steps={self.num_steps}, solver={self.solver}"
