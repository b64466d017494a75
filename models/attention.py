"""The models' constructor argument `attention`."""

from __future__ import annotations

from collections.abc import Mapping

from timm.models import register_notrace_module
from torch import nn

from vars_dyn.attention import KINDS, attention_class
from vars_dyn.attention.base import TokenBatchNorm, TokenMixer

__all__ = ["resolve_attention"]

# torch.fx takes these modules whole, as it cannot trace their choices by shape.
register_notrace_module(TokenMixer)
register_notrace_module(TokenBatchNorm)


def resolve_attention(
    attention: str | type[nn.Module],
    grid_size: tuple[int, int],
    num_prefix_tokens: int = 0,
    extra: Mapping[str, type[nn.Module]] | None = None,
) -> type[nn.Module]:
    """The class for `attention`, a kind ("softmax", "vars_d", ...) or a class, with the model's grid as defaults.

    The defaults are `grid_size` and `num_prefix_tokens`. A class keeps its own options, such as those of
    `VarsAttention.configured(dictionary="dynamic", num_steps=5)`. `extra` holds kinds that only this model has. Raises
    ValueError for an unknown kind.
    """
    extra = extra or {}
    if isinstance(attention, str):
        if attention not in KINDS and attention not in extra:
            raise ValueError(f"attention is {attention!r}; one of {', '.join([*KINDS, *extra])}, or a class, is wanted")
        attention = extra[attention] if attention in extra else attention_class(attention)
    on_grid = getattr(attention, "on_grid", None)
    return on_grid(grid_size, num_prefix_tokens) if on_grid else attention
