"""Subspace attention: the attention of CRATE, a white-box transformer."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vars_dyn.attention.base import AttentionOptions
from vars_dyn.attention.softmax import SoftmaxAttention

__all__ = ["SubspaceAttention"]


class SubspaceAttention(SoftmaxAttention):
    """Multi-head subspace self-attention, the compression half of CRATE (Yu et al., NeurIPS 2023, Eq. 9-12).

    Each head projects the tokens onto one subspace, W = U_h^T Z, and gives softmax(W W^T / sqrt(head_dim)) W. So
    queries, keys and values are one and the same, and the layer has a third of softmax attention's input projection.
    As in the authors' code, a learned projection takes the place of U_h on the way back. CRATE's other half, a step of
    ISTA in place of the MLP, is not part of an attention layer and is not here.

    The arguments and errors are those of `TokenMixer`: ValueError where `dim` is not divisible by `num_heads`. Tokens
    are (B, N, C). No norm of queries and keys is made (`qk_norm`).

    Examples:
        >>> layer = va.SubspaceAttention(16, num_heads=2)
        >>> layer(torch.randn(3, 49, 16)).shape
        torch.Size([3, 49, 16])
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = False, **options: Unpack[AttentionOptions]
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, inputs="v", **options)

    def heads(
        self, x: Float[Tensor, "b n dim"], attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Float[Tensor, "b heads n c"]:
        """The heads' outputs, before they are merged and projected."""
        (w,) = self.split_heads(self.v(x))
        drop = self.attn_drop.p if self.training else 0.0
        return F.scaled_dot_product_attention(w, w, w, attn_mask=attn_mask, dropout_p=drop, is_causal=is_causal)

    @torch.no_grad()
    def attention_map(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b heads n"]:
        """The attention that each token receives from the average query: the attention matrix averaged over rows."""
        (w,) = self.split_heads(self.v(x))
        return (w @ w.mT * self.head_dim**-0.5).softmax(-1).mean(-2)
