"""The models' constructor argument `attention`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import register_notrace_module
from torch import nn

from vars_dyn.attention import KINDS, Ode, attention_class
from vars_dyn.attention.base import TokenBatchNorm, TokenMixer

__all__ = ["resolve_attention"]

# torch.fx takes these modules whole, as it cannot trace their choices by shape.
register_notrace_module(TokenMixer)
register_notrace_module(TokenBatchNorm)


def resolve_attention(
    attention: str | Mapping[str, Any] | type[nn.Module],
    grid_size: tuple[int, int],
    num_prefix_tokens: int = 0,
    extra: Mapping[str, type[nn.Module]] | None = None,
) -> type[nn.Module]:
    """The class for `attention`, with the model's grid as defaults.

    `attention` is a kind ("softmax", "vars_d", ...), a class, or a mapping such as {"kind": "vars_d", "lam": 0.1}. The
    mapping is the plain data of a class, as config.json has it in the folder of a published model; "ode" there holds
    the settings of an `Ode`.

    The defaults are `grid_size` and `num_prefix_tokens`. A class keeps its own options, such as those of
    `VarsAttention.configured(dictionary="dynamic", num_steps=5)`. `extra` holds kinds that only this model has. Raises
    ValueError for an unknown kind.
    """
    extra = extra or {}
    if isinstance(attention, Mapping):
        attention = _from_plain_data(attention)
    if isinstance(attention, str):
        if attention not in KINDS and attention not in extra:
            raise ValueError(f"attention is {attention!r}; one of {', '.join([*KINDS, *extra])}, or a class, is wanted")
        attention = extra[attention] if attention in extra else attention_class(attention)
    on_grid = getattr(attention, "on_grid", None)
    return on_grid(grid_size, num_prefix_tokens) if on_grid else attention


def _from_plain_data(attention: Mapping[str, Any]) -> str | type[nn.Module]:
    options = {name: value for name, value in attention.items() if name not in ("kind", "ode")}
    kind = attention.get("kind")
    if not isinstance(kind, str):
        raise ValueError(f"attention is {dict(attention)}; a mapping with a kind, one of {', '.join(KINDS)}, is wanted")
    if attention.get("ode") is not None:
        options["solver"] = Ode(**attention["ode"])
    return attention_class(kind, **options) if options else kind
