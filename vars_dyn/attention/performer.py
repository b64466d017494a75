"""Performer attention: self-attention with its kernel estimated by positive random features."""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vars_dyn.attention.base import AttentionOptions, TokenMixer, refuse_mask
from vars_dyn.attention.dictionaries.features import feature_count
from vars_dyn.attention.precision import full_precision, working
from vars_dyn.dictionaries import random_features

__all__ = ["PerformerAttention"]


class PerformerAttention(TokenMixer):
    """Phi(Q) Phi(K)^T V with rows normalised to sum to one, in O(N) time (Choromanski et al., ICLR 2021).

    If Q = K, normalize=False and V is added, the heads' output is one Euler step of the paper's Eq. 15 from Z = V.

    Args:
        dim: C, divisible by `num_heads`.
        num_heads: number of heads.
        qkv_bias: whether the input projection has a bias.
        feature_ratio: random features per head and head dimension.
        normalize: divide each row of Phi(Q) Phi(K)^T by its sum.
        options: see `AttentionOptions`. attn_drop drops features of the queries, because no N x N matrix is formed.

    Raises ValueError for a `dim` that the heads do not divide.

    Examples:
        >>> layer = vd.PerformerAttention(16, num_heads=2)
        >>> layer(torch.randn(3, 49, 16)).shape
        torch.Size([3, 49, 16])
    """

    rand_matrix: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        feature_ratio: float = 2.0,
        normalize: bool = True,
        **options: Unpack[AttentionOptions],
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **options)
        self.normalize = normalize
        features = feature_count(self.head_dim, feature_ratio)
        self.register_buffer("rand_matrix", torch.empty(num_heads, self.head_dim, features, **self.factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the random matrix anew."""
        nn.init.normal_(self.rand_matrix)

    def forward(
        self,
        x: Float[Tensor, "b n dim"],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        grid_size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "b n dim"]:
        """Attend over all tokens. Masks raise ValueError; `grid_size` is not used."""
        refuse_mask(self, attn_mask, is_causal)
        return self.project(self.merge_heads(self.heads(x)))

    def heads(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b heads n c"]:
        """The heads' outputs, before they are merged and projected."""
        q, k, v = self.split_heads(self.qkv(x))
        with full_precision(x):
            queries, keys = self._features(self.q_norm(q)), self._features(self.k_norm(k))
            queries = self.attn_drop(queries)
            y = queries @ (keys.mT @ working(v))
            if self.normalize:
                y = y / (queries @ keys.sum(-2).unsqueeze(-1)).clamp(min=1e-12)
        return y.to(v.dtype)

    def _features(self, q: Tensor) -> Tensor:
        return random_features(working(q), working(self.rand_matrix).mT)

    @torch.no_grad()
    def attention_map(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b heads n"]:
        """The attention that each token receives from the average query: the attention matrix averaged over rows."""
        q, k, _ = self.split_heads(self.qkv(x))
        with full_precision(x):
            queries, keys = self._features(self.q_norm(q)), self._features(self.k_norm(k))
            if self.normalize:
                queries = queries / (queries @ keys.sum(-2).unsqueeze(-1)).clamp(min=1e-12)
            return (queries.mean(-2, keepdim=True) @ keys.mT).squeeze(-2)
