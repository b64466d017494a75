"""Softmax self-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vars_dyn.attention.base import TokenMixer

__all__ = ["SoftmaxAttention"]


class SoftmaxAttention(TokenMixer):
    """Multi-head softmax self-attention by PyTorch's fused kernel (Vaswani et al., 2017).

    The arguments are those of `TokenMixer`. Tokens are (B, N, C). Parameters have the names of timm's Attention.

    Raises ValueError for a `dim` that the heads do not divide.

    Examples:
        >>> layer = vd.SoftmaxAttention(16, num_heads=2)
        >>> layer(torch.randn(3, 49, 16)).shape
        torch.Size([3, 49, 16])
    """

    def forward(
        self,
        x: Float[Tensor, "b n dim"],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        grid_size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "b n dim"]:
        """Attend. `attn_mask` and `is_causal` are as in scaled_dot_product_attention; `grid_size` is not used."""
        return self.project(self.merge_heads(self.heads(x, attn_mask, is_causal)))

    def heads(
        self, x: Float[Tensor, "b n dim"], attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Float[Tensor, "b heads n c"]:
        """The heads' outputs, before they are merged and projected."""
        q, k, v = self.split_heads(self.qkv(x))
        drop = self.attn_drop.p if self.training else 0.0
        q, k = self.q_norm(q), self.k_norm(k)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=drop, is_causal=is_causal)

    @torch.no_grad()
    def attention_map(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b heads n"]:
        """The attention that each token receives from the average query: the attention matrix averaged over rows."""
        q, k, _ = self.split_heads(self.qkv(x))
        scores = self.q_norm(q) @ self.k_norm(k).mT * self.head_dim**-0.5
        return scores.softmax(-1).mean(-2)
