"""VARS attention: sparse reconstruction of a layer's values from a dictionary of templates."""

from __future__ import annotations

from typing import Literal, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vars_dyn import _checks
from vars_dyn.attention.base import AttentionOptions, TokenMixer, refuse_mask
from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.dictionaries.features import feature_count
from vars_dyn.attention.dictionaries.tokens import grid_pair
from vars_dyn.attention.precision import full_precision
from vars_dyn.attention.recipes import Holder, Sizes, recipe_of
from vars_dyn.attention.reconstruct import plain, reconstruct
from vars_dyn.attention.reconstruct.values import Inputs, Metric, Reconstruction, Steps
from vars_dyn.attention.solving import Equilibrium, Ode, solver_of
from vars_dyn.attention.variants import DICTIONARIES, Variant, variant_of
from vars_dyn.integration.gradients import Mode
from vars_dyn.problems import SparseProblem

__all__ = ["VarsAttention"]


class VarsAttention(TokenMixer, Holder):
    """Attention as sparse reconstruction (Eq. 16-17): proj(P a), a from min 1/2 |P a - v|^2 + lam |a|_1 per channel v.

    The dictionary P is learned (VARS-S), made of random features of the layer's own tokens (VARS-D), or both (VARS-SD).
    Takes and gives (B, N, C). Everything between the projections is computed in float32 at least
    (on a GPU from factors in TF32 where the inputs are of half precision).

    Args:
        dim: C, divisible by `num_heads`.
        num_heads: number of heads; a dynamic dictionary is one per head.
        qkv_bias: whether the input projection has a bias.
        dictionary: "dynamic", "static" or "static+dynamic".
        grid_size: (H, W) of the image tokens that the layer is made for; None: a square. Another grid can be given with
            a call or by the surrounding model (`follow_grid`). Small kernels then move over that grid. Full-size
            templates, which require `grid_size`, are resized.
        lam: weight of the penalty; None: the variant's (0.3 in the paper's form).
        num_steps: iterations; None: the variant's (3 in the paper's form).
        solver: "ista" (the paper's k steps) or "fista" (with momentum), unrolled; "ode": Eq. 8-9 integrated to a time;
            "equilibrium": its certified end point; or an `Ode` or `Equilibrium` with its settings.
        gradient: how to differentiate through "ode" ("backprop", "checkpoint", "adjoint") or "equilibrium" (these, or
            "implicit"), by name or with settings (`vars_dyn.integration.gradients`); None: the solver's own. Unrolled
            steps are backpropagated through.
        variant: "paper", "released", or a `Variant`, which names every choice between the two.
        num_prefix_tokens: number of class and register tokens ahead of the image tokens, each of which has a row of its
            own in a static dictionary; None: all tokens that the grid leaves over, which share one row.
        feature_ratio: random features per head and head dimension.
        templates: templates per channel of a static dictionary.
        kernel_size: side of its kernels, odd.
        options: see `AttentionOptions`. attn_drop drops entries of the codes.

    Raises ValueError for arguments that do not fit, and for tokens that do not fill the grid.

    Examples:
        >>> layer = vd.VarsAttention(16, num_heads=2, dictionary="dynamic", lam=0.3, num_steps=3)
        >>> layer(torch.randn(3, 49, 16)).shape
        torch.Size([3, 49, 16])
    """

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
        checked = variant_of(variant, dictionary)
        recipe = recipe_of(dictionary, checked)
        super().__init__(dim, num_heads, qkv_bias, inputs=recipe.projections, **options)
        self.dictionary, self.variant = dictionary, checked
        self.grid_size = grid_pair(grid_size)
        self.lam = self.variant.lam if lam is None else _checks.number("lam", lam, nonnegative=True)
        self.num_steps = self.variant.num_steps if num_steps is None else _checks.count("num_steps", num_steps)
        self.solver = solver_of(solver, gradient)
        if not isinstance(self.solver, str):
            self.variant.check_problem()
        if num_prefix_tokens is not None:
            _checks.count("num_prefix_tokens", num_prefix_tokens, least=0)
        self.num_prefix_tokens = num_prefix_tokens
        features = feature_count(self.head_dim, feature_ratio)
        _checks.count("templates", templates)
        _checks.count("kernel_size", kernel_size)
        self.recipe = recipe(Sizes(dim, num_heads, features, templates, kernel_size, self.grid_size, num_prefix_tokens))
        self.recipe.add_to(self)
        if self.variant.learned_metric:
            atoms = self.recipe.atoms
            self.learned_k = nn.Parameter(torch.empty(atoms, atoms, **self.factory))
            self.learned_lam = nn.Parameter(torch.empty(1, **self.factory))
            self.learned_L = nn.Parameter(torch.empty(1, **self.factory))
        self.form: Literal["fastest", "plain"] = "fastest"
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the random features and the static dictionary anew; the learned metric starts as the identity."""
        self.recipe.reset(self)
        if self.variant.learned_metric:
            nn.init.eye_(self.learned_k)
            nn.init.ones_(self.learned_lam)
            nn.init.ones_(self.learned_L)
        if self.variant.bound == "stored":
            nn.init.zeros_(self.L)
            if not self.L.is_meta:
                self.update_bound(momentum=1.0)

    @torch.no_grad()
    def update_bound(self, momentum: float = 0.1) -> None:
        """Move the stored L towards that of the current dictionary, as the released code does every 100 steps."""
        present = self.recipe.norm_to_store(self)
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
        """Reconstruct. `grid_size` is the grid of x if it differs from the layer's. Masks raise ValueError."""
        refuse_mask(self, attn_mask, is_causal)
        y = self.merge_heads(self.heads(x, grid_size))
        if self.variant.output_filter:
            y = self.recipe.filtered(self, y, self.layout(y.shape[1], grid_size))
        return self.project(y)

    def heads(
        self, x: Float[Tensor, "b n dim"], grid_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b heads n c"]:
        """P a per head, before heads are merged, filtered and projected. An image with NaN tokens gives NaN."""
        if not torch.compiler.is_compiling():
            if x.shape[0] == 0:
                return self._no_heads(x, grid_size)
            if not isinstance(self.solver, str) and not bool((finite := self._finite(x)).all()):
                y = x.new_full((len(x), self.num_heads, x.shape[1], self.head_dim), torch.nan)
                return y.index_copy(0, finite.nonzero().flatten(), self.heads(x[finite], grid_size))
        inputs = self._inputs(x, grid_size)
        with full_precision(x):
            return reconstruct(inputs, self.steps, self.form).to(x.dtype)

    def _projected(self, x: Tensor) -> Tensor:
        return self.v(x) if self.inputs == "v" else self.qkv(x)

    def _inputs(self, x: Tensor, grid_size: tuple[int, int] | None) -> Inputs:
        *queries, value = self.split_heads(self._projected(x))
        layout = self.layout(x.shape[1], grid_size) if self.recipe.on_grid else None
        with full_precision(x):
            return self.recipe.inputs(self, self.q_norm(queries[0]) if queries else None, value, layout)

    def _no_heads(self, x: Tensor, grid_size: tuple[int, int] | None) -> Tensor:
        """`heads` for a batch without images. All parameters get a gradient of zero."""
        if self.recipe.on_grid:
            self.layout(x.shape[1], grid_size)
        *_, v = self.split_heads(self._projected(x))
        return sum((p.sum().to(v) for p in self.parameters()), v).to(x.dtype)

    @torch.no_grad()
    def _finite(self, x: Tensor) -> Tensor:
        """Which images have only finite numbers, so that a problem can be posed, (B,)."""
        return self._projected(x).isfinite().flatten(1).all(1)

    @property
    def steps(self) -> Steps:
        """How the layer finds codes, from its current settings."""
        metric = Metric(self.learned_k, self.learned_lam, self.learned_L) if self.variant.learned_metric else None
        stored = self.L if self.variant.bound == "stored" else None
        return Steps(self.lam, self.num_steps, self.solver, self.variant, metric, stored, self.attn_drop)

    def reconstruction(self, x: Float[Tensor, "b n dim"], grid_size: tuple[int, int] | None = None) -> Reconstruction:
        """The dictionary and the signals that the layer makes of tokens x."""
        inputs = self._inputs(x, grid_size)
        with full_precision(x):
            return inputs.reconstruction()

    def problem(self, x: Float[Tensor, "b n dim"], grid_size: tuple[int, int] | None = None) -> SparseProblem:
        """The sparse reconstruction that the layer approximates at tokens x: one LASSO per image, head and channel.

        Raises ValueError for a variant whose iteration solves no problem (gelu threshold, learned metric).
        """
        self.variant.check_problem()
        dictionary, signal = self.reconstruction(x, grid_size)
        return SparseProblem(dictionary, signal, self.lam)

    def solve(self, dictionary: TokenDictionary, signal: Tensor, observe: list[Tensor] | None = None) -> Tensor:
        """Codes (*batch_shape, n, d') of a reconstruction.

        `observe` gathers the start and every iterate of an unrolled solver, and the code of any other.
        """
        with full_precision(signal):
            return plain.codes(dictionary, signal, self.steps, observe)

    def decode(self, dictionary: TokenDictionary, code: Tensor) -> Float[Tensor, "b heads c n"]:
        """P a of a reconstruction's codes."""
        with full_precision(code):
            return self.by_head(dictionary.decode(code))

    def by_head(self, value: Tensor) -> Float[Tensor, "b heads c size"]:
        """Signals or codes of a reconstruction, in the same shape for every kind of dictionary."""
        return plain.by_head(value)

    def extra_repr(self) -> str:
        return f"dictionary={self.dictionary!r}, lam={self.lam}, num_steps={self.num_steps}, solver={self.solver}"
