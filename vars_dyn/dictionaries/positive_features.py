"""The dictionary of linear attention: positive random features of the tokens themselves."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.dense import DenseDictionary

__all__ = ["RandomFeatureDictionary", "random_features"]


def random_features(
    tokens: Float[Tensor, "*batch n c"], projection: Float[Tensor, "*heads m c"], *, normalize_tokens: bool = True
) -> Float[Tensor, "*batch n m"]:
    """Positive random features exp(w.q - |q|^2 / 2) / sqrt(m), whose inner products estimate exp(q.q').

    `tokens` q of shape (*batch, N, C) are L2-normalised first unless `normalize_tokens` is False. `projection` holds
    the m vectors w, drawn from N(0, I), in a matrix (m, C), or in one such matrix per head, (heads, m, C). Choromanski
    et al., "Rethinking attention with Performers", ICLR 2021, Lemma 1.
    """
    if normalize_tokens:
        tokens = torch.nn.functional.normalize(tokens, dim=-1)
    exponent = tokens @ projection.mT - tokens.square().sum(-1, keepdim=True) / 2
    return exponent.exp() / math.sqrt(projection.shape[-2])


class RandomFeatureDictionary(DenseDictionary):
    """Phi(X): one dictionary per batch element, made from its tokens X of shape (*batch, N, C).

    A signal is one channel over the N tokens, (*batch, n, N), and an atom is one of the m random features over the
    tokens, L2-normalised over tokens unless `normalize_atoms` is False. `weight` = Phi has shape (*batch, N, m).
    Tokens are L2-normalised first unless `normalize_tokens` is False.
    Once made it is a dense dictionary: gradients reach the tokens and the projection through `weight`.

    Raises ValueError for tokens and a projection that do not fit.

    Examples:
        >>> phi = vd.RandomFeatureDictionary(torch.randn(2, 49, 8), torch.randn(16, 8))
        >>> phi.weight.shape, phi.signal_shape, phi.code_shape, phi.batch_shape
        (torch.Size([2, 49, 16]), (49,), (16,), (2,))
    """

    def __init__(
        self,
        tokens: Float[Tensor, "*batch n c"],
        projection: Float[Tensor, "*heads m c"],
        *,
        normalize_tokens: bool = True,
        normalize_atoms: bool = True,
    ) -> None:
        _checks.floating_tensor("tokens", tokens)
        _checks.floating_tensor("projection", projection)
        if tokens.ndim < 2 or projection.ndim < 2 or tokens.shape[-1] != projection.shape[-1]:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)} and projection {tuple(projection.shape)}; "
                "(*batch, N, C) and (*heads, m, C) are wanted"
            )
        _checks.same_kind("projection", projection, tokens, "tokens")
        features = random_features(tokens, projection, normalize_tokens=normalize_tokens)
        if normalize_atoms:
            features = torch.nn.functional.normalize(features, dim=-2)
        super().__init__(features)
