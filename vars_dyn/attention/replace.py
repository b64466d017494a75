"""Swap the attention of a vision transformer."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vars_dyn import _checks
from vars_dyn.attention import interfaces
from vars_dyn.attention.base import TokenMixer
from vars_dyn.attention.dictionaries.tokens import grid_pair
from vars_dyn.attention.kinds import KINDS, attention_class
from vars_dyn.attention.token_grid import TokenGrid, follow_grid, grid_of

__all__ = ["Replacement", "replace_attention"]

_logger = logging.getLogger(__name__)

#: What other attention layers do and a replacement cannot, by the attribute that shows it.
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
#: The names of classes and of modules that attend.
_CLASSES, _NAMES = re.compile(r"attention|attn", re.IGNORECASE), ("attn", "token_mixer", "self_att", "attention")
_HOLDERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
#: The attributes in which a module keeps its hooks.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


@dataclass(frozen=True)
class Replacement:
    """What `replace_attention` did, kept as the model's `attention_report`.

    Attributes:
        kind: the kind of the new attention.
        replaced: names of the layers that it replaced.
        left: names of the attention layers that were left alone, and why.

    Examples:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> vit = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0)
        >>> report = va.replace_attention(vit, "performer").attention_report
        >>> report.kind, report.replaced, report.left
        ('performer', ('blocks.0.attn', 'blocks.1.attn'), {})
    """

    kind: str
    replaced: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        told = "; ".join(f"{name}, {why}" for name, why in self.left.items()) or "none"
        return f"{self.kind} came in place of {len(self.replaced)} attention layers; left alone: {told}"


def replace_attention(model: nn.Module, kind: str, **kwargs: Any) -> nn.Module:
    """Put attention of a `kind` in place of every self-attention layer of a transformer; returns the same model.

    The model is timm's, torchvision's (or any with `nn.MultiheadAttention`), or a ViT of Hugging Face's transformers.

    The new layers keep the weights of values and output projections, those of queries and keys if they have them, and
    norms. They also keep device, dtype, training mode, hooks, and which parameters are frozen. An input projection that
    changes its width loses its hooks, and some attention layers may not be replaced. Both are logged as warnings.
    `model.attention_report`, a `Replacement`, lists what happened. The layers are told the token grid of every pass
    (`follow_grid`).

    Args:
        model: any model whose attention layers are timm's (timm.layers.Attention), this package's,
            `nn.MultiheadAttention` used as self-attention, or those of Hugging Face's ViT, DeiT, DINOv2, ViT-MAE,
            ViT-MSN or I-JEPA. Cross-attention is left alone.
        kind: "softmax", "performer", "crate", "vars_s", "vars_d" or "vars_sd".
        kwargs: arguments of the attention class, such as lam=0.1 or variant="released".

    Raises:
        ValueError: the kind is unknown, the model has no such layers (the message says what its attention does
            instead), or the model is itself an attention layer and cannot be replaced in place. The model is then
            unchanged.

    Examples:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=10)
        >>> _ = vd.replace_attention(vit, "vars_d", lam=0.1)
        >>> vit.attention_report.replaced
        ('blocks.0.attn',)
        >>> vit(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    _checks.choice("kind", kind, tuple(KINDS))
    if _is_ours_or_timms(model) or interfaces.is_foreign(model):
        raise ValueError(
            f"model is a {type(model).__name__} layer itself, which cannot be replaced in place; give the model that "
            "holds it, such as torch.nn.Sequential(layer)"
        )
    found = {name: layer for name, layer in model.named_modules() if _replaceable(model, name, layer)}
    left = _left_alone(model, found)
    if not found:
        why = next(iter(left.values()), None)
        does = f"whose {why}" if why else "which has no attention layers"
        raise ValueError(f"model is {type(model).__name__}, {does}; its attention cannot be replaced")
    cls = attention_class(kind, **kwargs)
    new: dict[str, TokenMixer] = {}
    around: dict[str, interfaces.Interface] = {}
    for name, layer in found.items():
        target = _on_grid(cls, kwargs, model, name, layer)
        if interfaces.is_foreign(layer):
            around[name] = interfaces.as_softmax(model, name)
            new[name] = around[name].layer = _converted(around[name].layer, target)
            _keep_hooks(layer, around[name])
        else:
            new[name] = _converted(layer, target)
            _keep_hooks(layer, new[name])
    for name, layer in new.items():
        parent, _, child = name.rpartition(".")
        if name in around:
            interfaces.take_over(model, name)
        setattr(model.get_submodule(parent), child, around.get(name, layer))
    for name, old in found.items():
        lost = [f"{name}.{each}" for each in ("qkv", "v") if _hooked_in_vain(getattr(old, each, None), new[name])]
        if lost:
            _logger.warning("hooks of %s are gone, as another projection came in its place", lost[0])
    report = Replacement(kind, tuple(found), left)
    model.attention_report = report  # type: ignore[assignment]
    _logger.log(logging.WARNING if left else logging.INFO, "%s", report)
    follow_grid(model)
    _whole_in_traces()
    for layer in new.values():
        # A layer in a model must be told its grid. Only a layer that stands alone assumes that its grid is a square.
        layer.token_grid = layer.token_grid or TokenGrid()
    return model


def _whole_in_traces() -> None:
    """Let timm's tools for torch.fx take the layers whole, as their choices by shape cannot be traced."""
    from timm.models import register_notrace_module  # deferred: timm takes a second to import

    register_notrace_module(TokenMixer)
    register_notrace_module(interfaces.Interface)


def _is_ours_or_timms(layer: nn.Module) -> bool:
    """Whether this is exactly timm's Attention, or a layer of this package."""
    from timm.layers.attention import Attention  # deferred: timm takes a second to import

    return isinstance(layer, TokenMixer) or type(layer) is Attention


def _replaceable(model: nn.Module, name: str, layer: nn.Module) -> bool:
    if interfaces.is_foreign(layer):
        return interfaces.what_hinders(model, name) is None
    return _is_ours_or_timms(layer) and not _more(layer)


def _more(layer: Any) -> str | None:
    """What keeps a layer of timm's or of this package's class from being replaced; None if nothing does."""
    if isinstance(layer, TokenMixer):
        return None
    if getattr(layer, "gate", None) is not None:  # older versions of timm have no gates
        return _REFUSALS["gate"]
    if layer.proj.out_features != layer.proj.in_features:
        return f"projects {layer.proj.in_features} channels onto {layer.proj.out_features}"
    if type(layer.qkv) is not nn.Linear or "weight" not in layer.qkv._parameters:
        return f"has a {type(layer.qkv).__name__} for its input projection, where a plain Linear is wanted"
    return None


def _left_alone(model: nn.Module, found: dict[str, nn.Module]) -> dict[str, str]:
    """The names of the attention layers of `model` that are not in `found`, and why each is not.

    If one attention layer holds another, only the innermost one with parameters counts.
    """
    named = {
        name: layer
        for name, layer in model.named_modules()
        if name not in found and _attends(name, layer) and any(True for _ in layer.parameters())
    }
    inner = [*named, *found]
    return {
        name: f"{type(layer).__name__} {_why(model, name, layer)}"
        for name, layer in named.items()
        if not any(other.startswith(f"{name}." if name else "") and other != name for other in inner)
        and not any(name.startswith(f"{other}.") for other in found)
    }


def _attends(name: str, layer: nn.Module) -> bool:
    called = name.rpartition(".")[2]
    heads = getattr(layer, "num_heads", None)
    return (
        bool(_CLASSES.search(type(layer).__name__))
        or (called.startswith(_NAMES) and any(True for _ in layer.children()) and not isinstance(layer, _HOLDERS))
        or (isinstance(heads, int) and hasattr(layer, "head_dim"))
    )


def _why(model: nn.Module, name: str, layer: nn.Module) -> str:
    if interfaces.is_foreign(layer):
        return str(interfaces.what_hinders(model, name))
    if _is_ours_or_timms(layer):
        return str(_more(layer))
    for attribute, why in _REFUSALS.items():
        if getattr(layer, attribute, None) is not None:
            return why
    return "is not timm's Attention (a fused qkv and a proj of the model's width)"


def _on_grid(
    cls: type[TokenMixer], kwargs: dict[str, Any], model: nn.Module, name: str, layer: Any
) -> type[TokenMixer]:
    """The class with the grid and prefix tokens of the model as defaults, if the model has them and `kwargs` do not."""
    grid, prefix = grid_of(model, name)
    if getattr(layer, "grid_size", None) is not None:
        grid, prefix = layer.grid_size, layer.num_prefix_tokens
    if grid is None or prefix is None:
        return cls
    return cls.on_grid(grid_pair(kwargs.get("grid_size")) or grid, kwargs.get("num_prefix_tokens", prefix))


def _converted(old: Any, cls: type[TokenMixer]) -> TokenMixer:
    """The new layer. It takes over the modules that both layers have, with their hooks, modes and flags."""
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
    ).train(old.training)
    target, have = (new.v if hasattr(new, "v") else new.qkv), getattr(old, "inputs", "qkv")
    if have == new.inputs:
        setattr(new, "v" if hasattr(new, "v") else "qkv", projection)
    else:
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                kept = getattr(projection, name)
                parameter.copy_(_rows(kept, have, new.inputs, parameter))
                parameter.requires_grad_(kept.requires_grad)
        target.train(projection.training)
    for name in ("proj", "proj_drop", "attn_drop", "norm", "q_norm", "k_norm"):
        if hasattr(new, name) and hasattr(old, name):
            setattr(new, name, getattr(old, name))
    return new


def _keep_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give `new` the dictionaries of hooks of `old` themselves, so that the handles of hooks can still remove them."""
    for name in _HOOKS:
        new.__dict__[name] = old.__dict__[name]


def _hooked_in_vain(projection: nn.Module | None, new: nn.Module) -> bool:
    """Whether a projection has hooks and is not part of the new layer."""
    hooked = projection is not None and any(projection.__dict__.get(name) for name in _HOOKS)
    return hooked and not any(module is projection for module in new.modules())


def _rows(weight: Tensor, have: str, want: str, fresh: Tensor) -> Tensor:
    """The rows of a projection onto `want`, letters of "qkv", from `weight`, a projection onto `have`.

    Keys that `weight` lacks take the rows of its queries. Whatever else it lacks is taken from `fresh`.
    """
    parts = dict(zip(have, weight.chunk(len(have)), strict=True))
    own = dict(zip(want, fresh.chunk(len(want)), strict=True))
    parts.setdefault("k", parts.get("q", own.get("k", fresh)))
    return torch.cat([parts.get(part, own[part]) for part in want])


def _norms(layer: nn.Module | None) -> bool:
    return layer is not None and not isinstance(layer, nn.Identity)


def _like(norm: nn.Module) -> Any:
    """A constructor of norms with the class and epsilon of `norm`."""
    epsilon = {"eps": norm.eps} if hasattr(norm, "eps") else {}
    return lambda width, **factory: type(norm)(width, **epsilon, **factory)
