"""GFNet (Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021) with a choice of token mixer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, resample_abs_pos_embed, trunc_normal_
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_function,
    register_notrace_module,
)
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from models.attention import resolve_attention
from models.protocol import default_cfg, new_head, pooling
from models.stem import patch_embedding, stem_overlay
from vars_dyn.attention.base import with_defaults
from vars_dyn.attention.dictionaries.resize import resize_half_spectrum
from vars_dyn.attention.dictionaries.tokens import Grid, grid_pair
from vars_dyn.attention.precision import full_precision, working
from vars_dyn.attention.token_grid import OnTokenGrid

__all__ = ["GlobalFilter", "GlobalFilterNetwork"]


@register_notrace_module
class GlobalFilter(OnTokenGrid, nn.Module):
    """GFNet's own token mixer: a learned depth-wise circular convolution as large as the token grid, by FFT.

    It can be used as an attention class, but it has no heads and no projection, and takes no dropout. `grid_size` is
    the grid that it is made for. On another grid the filter is interpolated.

    Examples:
        >>> models.GlobalFilter(8, grid_size=(4, 4))(torch.randn(2, 16, 8)).shape
        torch.Size([2, 16, 8])
    """

    def __init__(
        self, dim: int, grid_size: Grid = (14, 14), device: Any = None, dtype: Any = None, **unused: Any
    ) -> None:
        super().__init__()
        self.trained_grid = self.grid_size = grid_pair(grid_size) or (14, 14)
        self.num_prefix_tokens = 0
        height, width = self.trained_grid
        self.complex_weight = nn.Parameter(torch.empty(height, width // 2 + 1, dim, 2, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def on_grid(cls, grid_size: Grid, num_prefix_tokens: int) -> type[GlobalFilter]:
        """The class with this grid; a class token has no place on a grid, so prefix tokens raise ValueError."""
        if num_prefix_tokens:
            raise ValueError(f"num_prefix_tokens is {num_prefix_tokens}; a global filter works on grid tokens only")
        return with_defaults(cls, grid_size=grid_size)

    def reset_parameters(self) -> None:
        """Draw the filter anew."""
        nn.init.normal_(self.complex_weight, std=0.02)

    def forward(self, x: Tensor, grid_size: Grid | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C), N = H W of `grid_size`."""
        _, grid = self.layout(x.shape[1], grid_size)
        if x.shape[0] == 0 and not torch.compiler.is_compiling():
            return x + self.complex_weight.sum().to(x)  # FFTs refuse a batch without images
        with full_precision(x):
            weight = working(self.complex_weight).permute(2, 0, 1, 3)
            weight = torch.view_as_complex(resize_half_spectrum(weight, self.trained_grid, grid).contiguous())
            image = working(x).mT.unflatten(-1, grid)
            image = torch.fft.irfft2(weight * torch.fft.rfft2(image), s=grid)
        return image.flatten(-2).mT.to(x.dtype)


class Block(nn.Module):
    """GFNet's block: token mixer and MLP in one residual branch."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attn_layer: type[nn.Module],
        mlp_ratio: float,
        drops: dict[str, float],
        drop_path: float,
        factory: dict[str, Any],
    ) -> None:
        super().__init__()
        norm_layer: Any = partial(nn.LayerNorm, eps=1e-6, **factory)
        self.norm1 = norm_layer(dim)
        self.attn = attn_layer(dim, num_heads=num_heads, qkv_bias=True, **drops, **factory)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), drop=drops["proj_drop"], **factory)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, grid_size: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return x + self.drop_path(self.mlp(self.norm2(self.attn(self.norm1(x), grid_size=grid_size))))


@register_notrace_function
def positions_on(positions: Tensor, height: int, width: int, trained: Grid) -> Tensor:
    """Learned positions (1, N, C) of the grid `trained`, interpolated on (height, width); torch.fx takes it whole."""
    if (height, width) == trained:
        return positions
    return resample_abs_pos_embed(positions, [height, width], list(trained), num_prefix_tokens=0)


class GlobalFilterNetwork(nn.Module):
    """GFNet: patch embedding, learned positions, blocks, average pooling; no class token.

    Any image size works at run time: positions and global filters are interpolated from those of `img_size`.

    Args:
        img_size, patch_size, in_chans, num_classes, device, dtype: as in timm's VisionTransformer.
        drop_rate, proj_drop_rate, attn_drop_rate, drop_path_rate: as there.
        global_pool: "avg", or "" for none.
        embed_dim: width.
        depth: number of blocks.
        num_heads: heads of an attention that has them.
        mlp_ratio: hidden width of the MLP over the width.
        attention: "global_filter" (GFNet's own), a kind of attention, an attention class, or its plain data.
        stem: "conv", RVT's convolutional patch embedding (as in the paper's modified baselines), or "patch", the
            original one.

    Raises ValueError for arguments that do not fit.

    Examples:
        >>> network = models.GlobalFilterNetwork(img_size=32, patch_size=8, embed_dim=16, depth=1, num_classes=10)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        img_size: int | Grid = 224,
        patch_size: int | Grid = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        attention: str | Mapping[str, Any] | type[nn.Module] = "global_filter",
        stem: str = "conv",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.num_classes, self.global_pool = num_classes, pooling(global_pool)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 0
        self.passes_grid = True
        self.grad_checkpointing = False
        embed = patch_embedding(stem)
        self.patch_embed = embed(
            img_size, patch_size, in_chans, embed_dim, flatten=False, strict_img_size=False, **factory
        )
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches, embed_dim, **factory))
        self.pos_drop = nn.Dropout(drop_rate)
        attn_layer = resolve_attention(attention, self.patch_embed.grid_size, extra={"global_filter": GlobalFilter})
        drops = {"proj_drop": proj_drop_rate, "attn_drop": attn_drop_rate}
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, attn_layer, mlp_ratio, drops, rate, factory) for rate in rates
        )
        reduction = self.patch_embed.feat_ratio()
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": embed_dim, "reduction": reduction} for i in range(depth)
        ]
        self.norm: nn.Module = nn.LayerNorm(embed_dim, eps=1e-6, **factory)
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Linear(embed_dim, num_classes, **factory) if num_classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw positions and linear layers from a truncated normal of deviation 0.02, biases zero, as GFNet does."""
        trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that take no weight decay."""
        return {"pos_embed"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates, in timm's format."""
        return {"stem": r"^pos_embed|patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of storing their activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classification head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one for `num_classes` classes; 0 gives no head."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = pooling(global_pool)
        like = self.pos_embed
        self.head = new_head(self.num_features, num_classes, like).train(self.training)

    def set_input_size(self, img_size: int | Grid | None = None, patch_size: int | Grid | None = None) -> None:
        """Change the image size that the model is made for; positions are interpolated. In place, as in timm.

        With stem="patch" the patch size may change too. The convolutional stem raises ValueError for another one.
        """
        before = tuple(self.patch_embed.grid_size)
        self.patch_embed.set_input_size(img_size=img_size, patch_size=patch_size)
        with torch.no_grad():
            height, width = self.patch_embed.grid_size
            if (height, width) != before:
                self.pos_embed = nn.Parameter(positions_on(self.pos_embed, height, width, before))

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x = self.patch_embed(x)
        grid = (x.shape[-2], x.shape[-1])
        positions = positions_on(self.pos_embed, *grid, tuple(self.patch_embed.grid_size))
        return self.pos_drop(x.flatten(2).mT + positions), grid

    def _block(self, block: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        return checkpoint(block, x, grid) if self.grad_checkpointing else block(x, grid)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of the blocks at `indices` (all if None, the last n if an integer), as timm's models do."""
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; 'NCHW' or 'NLC' is wanted")
        wanted, last = feature_take_indices(len(self.blocks), indices)
        (x, grid), intermediates = self._embed(x), []
        for i, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = self._block(block, x, grid)
            if i in wanted:
                y = self.norm(x) if norm else x
                intermediates.append(y.mT.unflatten(-1, grid) if output_fmt == "NCHW" else y)
        return intermediates if intermediates_only else (self.norm(x), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop whatever the outputs of the blocks at `indices` do not need."""
        wanted, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, N, C), normalised tokens."""
        x, grid = self._embed(x)
        for block in self.blocks:
            x = self._block(block, x, grid)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify."""
        if self.global_pool:
            x = x.mean(1)
        x = self.head_drop(x)
        return x if pre_logits or not self.global_pool else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "vars_gfnet_tiny": default_cfg(),
        "vars_gfnet_extra_small": default_cfg(),
        "vars_gfnet_small": default_cfg(),
        "vars_gfnet_base": default_cfg(),
        "vars_gfnet_micro": default_cfg(input_size=(3, 32, 32), num_classes=10),
    }
)


def _create(name: str, pretrained: bool, **options: Any) -> GlobalFilterNetwork:
    feature_cfg = {"out_indices": 3, "feature_cls": "getter"}
    overlay = stem_overlay(options)
    return build_model_with_cfg(
        GlobalFilterNetwork, name, pretrained, pretrained_cfg_overlay=overlay, feature_cfg=feature_cfg, **options
    )


@register_model
def vars_gfnet_tiny(pretrained: bool = False, **kwargs: Any) -> GlobalFilterNetwork:
    """GFNet-Ti: 12 blocks of width 256."""
    sizes = {"embed_dim": 256, "depth": 12, "num_heads": 4}
    return _create("vars_gfnet_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def vars_gfnet_extra_small(pretrained: bool = False, **kwargs: Any) -> GlobalFilterNetwork:
    """GFNet-XS: 12 blocks of width 384."""
    sizes = {"embed_dim": 384, "depth": 12, "num_heads": 6}
    return _create("vars_gfnet_extra_small", pretrained, **{**sizes, **kwargs})


@register_model
def vars_gfnet_small(pretrained: bool = False, **kwargs: Any) -> GlobalFilterNetwork:
    """GFNet-S: 19 blocks of width 384."""
    sizes = {"embed_dim": 384, "depth": 19, "num_heads": 6}
    return _create("vars_gfnet_small", pretrained, **{**sizes, **kwargs})


@register_model
def vars_gfnet_base(pretrained: bool = False, **kwargs: Any) -> GlobalFilterNetwork:
    """GFNet-B: 19 blocks of width 512."""
    sizes = {"embed_dim": 512, "depth": 19, "num_heads": 8}
    return _create("vars_gfnet_base", pretrained, **{**sizes, **kwargs})


@register_model
def vars_gfnet_micro(pretrained: bool = False, **kwargs: Any) -> GlobalFilterNetwork:
    """A small GFNet for images of 28 to 64 pixels: patches of 4 pixels, 4 blocks of width 96."""
    sizes = {"embed_dim": 96, "depth": 4, "num_heads": 3, "img_size": 32, "patch_size": 4, "num_classes": 10}
    return _create("vars_gfnet_micro", pretrained, **{**sizes, **kwargs})
