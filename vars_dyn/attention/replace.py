"""Swap the attention of a timm vision transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vars_dyn import _checks
from vars_dyn.attention.base import TokenMixer
from vars_dyn.attention.kinds import KINDS, attention_class

__all__ = ["replace_attention"]

#: What other attention layers do that would be lost, by the attribute that shows it.
_REFUSALS = {
    "relative_position_bias_table": "adds a relative position bias to its attention matrix",
    "rel_pos": "adds a relative position bias to its attention matrix",
    "rel_pos_h": "adds a relative position bias to its attention matrix",
    "attention_biases": "adds a position bias to its attention matrix",
    "rotate_half": "rotates queries and keys by their position",
    "lambda_q1": "subtracts two attention matrices",
    "proj_l": "mixes attention matrices across heads",
    "temperature": "attends over channels, not tokens",
    "gate": "gates its output",
}


def replace_attention(model: nn.Module, kind: str, **kwargs: Any) -> nn.Module:
    """Put attention of a `kind` in place of every self-attention layer of a timm transformer; returns the same model.

    Weights that carry over are kept: values and output projections always, queries (and keys) where the new attention
    has them, and norms. Device, dtype and training mode are kept too.

    Args:
        model: any model whose attention layers have timm's interface (timm.layers.Attention), or this package's.
        kind: "softmax", "performer", "vars_s", "vars_d" or "vars_sd".
        kwargs: arguments of the attention class, such as lam=0.1 or variant="released".

    Raises:
        ValueError: unknown kind, or a model without such layers; the message says what its attention does instead. The
            model is then unchanged.
    """
    _checks.choice("kind", kind, tuple(KINDS))
    found = [(name, layer) for name, layer in model.named_modules() if _is_plain(layer)]
    if not found:
        raise ValueError(f"model is {type(model).__name__}, {_why_none(model)}; its attention cannot be replaced")
    cls = attention_class(kind, **kwargs)
    new = [(name, _converted(layer, _on_grid(cls, model, layer))) for name, layer in found]
    for name, layer in new:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return model


def _is_plain(layer: nn.Module) -> bool:
    """Whether this is exactly timm's Attention, with nothing beside it, or a layer of this package."""
    from timm.layers.attention import Attention  # timm takes a second to import, and only this function needs it

    if isinstance(layer, TokenMixer):
        return True
    gated = getattr(layer, "gate", None) is not None  # older versions of timm have no gates
    return type(layer) is Attention and not gated and layer.proj.out_features == layer.proj.in_features


def _why_none(model: nn.Module) -> str:
    for name, layer in model.named_modules():
        if not name.rpartition(".")[2].startswith(("attn", "token_mixer")) or not list(layer.parameters()):
            continue
        for attribute, why in _REFUSALS.items():
            if getattr(layer, attribute, None) is not None:
                return f"whose {type(layer).__name__} {why}"
        return f"whose {type(layer).__name__} is not timm's Attention (a fused qkv and a proj of the model's width)"
    return "which has no attention layers"


def _on_grid(cls: type[TokenMixer], model: Any, layer: Any) -> type[TokenMixer]:
    """The class told the grid and the prefix tokens of the model, where the model says them."""
    if getattr(layer, "grid_size", None) is not None:
        return cls.on_grid(layer.grid_size, layer.num_prefix_tokens)
    grid: Any = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    prefix = getattr(model, "num_prefix_tokens", None)
    return cls.on_grid(tuple(grid), prefix) if grid is not None and prefix is not None else cls


def _converted(old: Any, cls: type[TokenMixer]) -> TokenMixer:
    projection = old.v if hasattr(old, "v") else old.qkv
    norm = next((m for m in (getattr(old, name, None) for name in ("norm", "q_norm")) if _norms(m)), None)
    new = cls(
        old.proj.in_features,
        num_heads=old.num_heads,
        qkv_bias=projection.bias is not None,
        qk_norm=_norms(getattr(old, "q_norm", None)),
        scale_norm=_norms(getattr(old, "norm", None)),
        proj_bias=old.proj.bias is not None,
        attn_drop=old.attn_drop.p,
        proj_drop=old.proj_drop.p,
        norm_layer=None if norm is None else _like(norm),
        device=projection.weight.device,
        dtype=projection.weight.dtype,
    )
    with torch.no_grad():
        target = new.v if hasattr(new, "v") else new.qkv
        for name, parameter in target.named_parameters():
            parameter.copy_(_rows(getattr(projection, name), getattr(old, "inputs", "qkv"), new.inputs, parameter))
    for name in ("proj", "norm", "q_norm", "k_norm"):
        if hasattr(new, name) and hasattr(old, name):
            getattr(new, name).load_state_dict(getattr(old, name).state_dict())
    return new.train(old.training)


def _rows(weight: Tensor, have: str, want: str, fresh: Tensor) -> Tensor:
    """The rows of a projection onto `have` (of q, k, v) for one onto `want`; keys default to the queries'."""
    parts = dict(zip(have, weight.chunk(len(have)), strict=True))
    own = dict(zip(want, fresh.chunk(len(want)), strict=True))
    parts.setdefault("k", parts.get("q", own.get("k", fresh)))
    return torch.cat([parts.get(part, own[part]) for part in want])


def _norms(layer: nn.Module | None) -> bool:
    return layer is not None and not isinstance(layer, nn.Identity)


def _like(norm: nn.Module) -> Any:
    """A constructor of norms of the kind and epsilon of `norm`."""
    epsilon = {"eps": norm.eps} if hasattr(norm, "eps") else {}
    return lambda width, **factory: type(norm)(width, **epsilon, **factory)
