"""DeiT (Touvron et al., ICML 2021) with a choice of attention and of patch embedding, on timm's VisionTransformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from models.attention import resolve_attention
from models.protocol import default_cfg
from models.stem import patch_embedding, stem_overlay
from vars_dyn.attention import follow_grid

__all__ = ["VarsVisionTransformer"]


class VarsVisionTransformer(VisionTransformer):
    """timm's VisionTransformer, whose attention layers know the token grid of the present image.

    Args:
        attention: a kind ("softmax", "performer", "crate", "vars_s", ...), an attention class, or its plain data.
        stem: "conv", RVT's convolutional patch embedding (the paper's modified baselines), or "patch", the original.
        options: arguments of VisionTransformer.

    Raises ValueError for arguments that do not fit.

    Examples:
        >>> network = models.VarsVisionTransformer(
        ...     img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=10, attention="vars_d"
        ... )
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, *, attention: str | Mapping[str, Any] | type[nn.Module] = "softmax", stem: str = "conv", **options: Any
    ) -> None:
        embed_layer = patch_embedding(stem)
        sizes = PatchEmbed(options.get("img_size", 224), options.get("patch_size", 16), 1, 1)
        prefix = int(options.get("class_token", True)) + options.get("reg_tokens", 0)
        attn_layer = resolve_attention(attention, sizes.grid_size, prefix)
        super().__init__(embed_layer=embed_layer, attn_layer=attn_layer, **options)
        follow_grid(self)


default_cfgs = generate_default_cfgs(
    {
        "vars_deit_tiny": default_cfg(fixed_input_size=True),
        "vars_deit_small": default_cfg(fixed_input_size=True),
        "vars_deit_base": default_cfg(fixed_input_size=True),
        "vars_deit_micro": default_cfg(input_size=(3, 32, 32), num_classes=10, fixed_input_size=True),
    }
)


def _create(name: str, pretrained: bool, **options: Any) -> VarsVisionTransformer:
    feature_cfg = {"out_indices": 3, "feature_cls": "getter"}
    overlay = stem_overlay(options)
    return build_model_with_cfg(
        VarsVisionTransformer,
        name,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=feature_cfg,
        **options,
    )


@register_model
def vars_deit_tiny(pretrained: bool = False, **kwargs: Any) -> VarsVisionTransformer:
    """DeiT-Ti: 12 blocks of width 192."""
    sizes = {"embed_dim": 192, "depth": 12, "num_heads": 3}
    return _create("vars_deit_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def vars_deit_small(pretrained: bool = False, **kwargs: Any) -> VarsVisionTransformer:
    """DeiT-S: 12 blocks of width 384."""
    sizes = {"embed_dim": 384, "depth": 12, "num_heads": 6}
    return _create("vars_deit_small", pretrained, **{**sizes, **kwargs})


@register_model
def vars_deit_base(pretrained: bool = False, **kwargs: Any) -> VarsVisionTransformer:
    """DeiT-B: 12 blocks of width 768."""
    sizes = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    return _create("vars_deit_base", pretrained, **{**sizes, **kwargs})


@register_model
def vars_deit_micro(pretrained: bool = False, **kwargs: Any) -> VarsVisionTransformer:
    """A small DeiT for images of 28 to 64 pixels: patches of 4 pixels, 4 blocks of width 96."""
    sizes = {"embed_dim": 96, "depth": 4, "num_heads": 3, "img_size": 32, "patch_size": 4, "num_classes": 10}
    return _create("vars_deit_micro", pretrained, **{**sizes, **kwargs})
