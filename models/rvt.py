"""RVT, the robust vision transformer (Mao et al., CVPR 2022), with a choice of attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, Mlp
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from models.attention import resolve_attention
from models.protocol import default_cfg, new_head, pooling
from models.stem import ConvPatchEmbed
from vars_dyn.attention.base import TokenBatchNorm
from vars_dyn.attention.dictionaries.tokens import Grid, exact_layout

__all__ = ["Block", "ConvMlp", "RobustVisionTransformer"]


class ConvMlp(nn.Module):
    """RVT's MLP on the token grid: convolutions 1 x 1, depth-wise 3 x 3 and 1 x 1, each followed by batch norm."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.fc1 = nn.Conv2d(dim, hidden, 1, **factory)
        self.bn1 = nn.BatchNorm2d(hidden, **factory)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **factory)
        self.bn2 = nn.BatchNorm2d(hidden, **factory)
        self.fc2 = nn.Conv2d(hidden, dim, 1, **factory)
        self.bn3 = nn.BatchNorm2d(dim, **factory)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, grid_size: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C), N = H W."""
        x = x.mT.unflatten(-1, grid_size)
        x = self.drop(self.act(self.bn1(self.fc1(x))))
        x = self.act(self.bn2(self.dwconv(x)))
        return self.drop(self.bn3(self.fc2(x))).flatten(2).mT


class GridMlp(Mlp):
    """The plain MLP, which needs no grid."""

    def forward(self, x: Tensor, grid_size: Grid) -> Tensor:  # type: ignore[override]
        """(B, N, C) -> (B, N, C)."""
        return super().forward(x)


class Block(nn.Module):
    """Attention and MLP, each in a residual branch that starts with a norm.

    An attention with its own norm (released VARS-S) makes the first norm superfluous, and the second is then a batch
    norm too. `conv_mlp` says whether the MLP works on the grid. `grid_size` is the grid of calls that give none.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attn_layer: type[nn.Module],
        mlp_ratio: float = 4.0,
        conv_mlp: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        grid_size: Grid | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.grid_size = grid_size
        factory = {"device": device, "dtype": dtype}
        norm_layer: Any = partial(nn.LayerNorm, eps=1e-6, **factory)
        self.attn = attn_layer(
            dim, num_heads=num_heads, qkv_bias=True, attn_drop=attn_drop, proj_drop=proj_drop, **factory
        )
        own_norm = getattr(self.attn, "own_norm", False)
        self.norm1 = nn.Identity() if own_norm else norm_layer(dim)
        self.norm2 = TokenBatchNorm(dim, **factory) if own_norm else norm_layer(dim)
        hidden = round(dim * mlp_ratio)
        mlp = ConvMlp if conv_mlp else GridMlp
        self.mlp = mlp(dim, hidden, drop=proj_drop, **factory)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, grid_size: Grid | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C) with N = H W of `grid_size`; None stands for the grid that the block was made for."""
        if grid_size is None:
            if self.grid_size is None:
                raise ValueError(f"grid_size is None for {x.shape[1]} tokens; (height, width) of their grid is wanted")
            _, grid_size = exact_layout(x.shape[1], 0, self.grid_size)
        x = x + self.drop_path(self.attn(self.norm1(x), grid_size=grid_size))
        return x + self.drop_path(self.mlp(self.norm2(x), grid_size))


class Stage(nn.Module):
    """Blocks at one resolution, on (B, C, H, W)."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        for block in self.blocks:
            x = through(block, x, self.grad_checkpointing)
        return x


def through(block: nn.Module, x: Tensor, checkpointing: bool) -> Tensor:
    """The output of one block on a map, (B, C, H, W) -> (B, C, H, W)."""
    grid, tokens = (x.shape[-2], x.shape[-1]), x.flatten(2).mT
    tokens = checkpoint(block, tokens, grid) if checkpointing else block(tokens, grid)
    return tokens.mT.unflatten(-1, grid)


class HeadPooling(nn.Module):
    """Depth-wise convolution with stride 2 between stages."""

    def __init__(self, dim: int, out_dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, groups=dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / 2), ceil(W / 2))."""
        return self.conv(x)


class RobustVisionTransformer(nn.Module):
    """RVT: convolutional stem, stages of blocks with a convolutional MLP, average pooling; no class token.

    Any image size works at run time; `img_size` fixes the token grid that full-size static dictionaries are made for.

    Args:
        img_size, patch_size: image height and width, and the stride of the stem, a multiple of 4.
        in_chans, num_classes: channels of an image, and classes, 0 for no head.
        global_pool: "avg", or "" for none.
        base_dims, depth, heads: width per head, blocks and heads of each stage.
        mlp_ratio, conv_mlp: hidden width of the MLP over the width, and whether it is convolutional (None: as in RVT,
            if the width is not 768).
        attention: a kind ("softmax", "crate", "vars_s", ...), a class, or its plain data; ValueError for others.
        drop_rate: dropout ahead of the head; others are as in timm. `device` and `dtype` are those of the parameters.

    Examples:
        >>> network = models.RobustVisionTransformer(32, 8, base_dims=[16], depth=[1], heads=[2], attention="vars_d")
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 1000])
    """

    def __init__(
        self,
        img_size: int | Grid = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        base_dims: Sequence[int] = (32, 32),
        depth: Sequence[int] = (10, 2),
        heads: Sequence[int] = (6, 12),
        mlp_ratio: float = 4.0,
        attention: str | Mapping[str, Any] | type[nn.Module] = "softmax",
        conv_mlp: bool | None = None,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        if not len(base_dims) == len(depth) == len(heads):
            raise ValueError(
                f"base_dims, depth and heads are {base_dims}, {depth} and {heads}; one entry per stage is wanted"
            )
        widths = [base * count for base, count in zip(base_dims, heads, strict=True)]
        self.passes_grid = True
        self.num_classes, self.global_pool = num_classes, pooling(global_pool)
        self.num_features = self.head_hidden_size = self.embed_dim = widths[-1]
        self.patch_embed = ConvPatchEmbed(
            img_size, patch_size, in_chans, widths[0], flatten=False, strict_img_size=False, **factory
        )
        grid = self.patch_embed.grid_size
        rates = iter(torch.arange(sum(depth)) * drop_path_rate / max(sum(depth), 1))
        self.transformers, self.pools, self.feature_info = nn.ModuleList(), nn.ModuleList(), []
        for i, width in enumerate(widths):
            attn_layer = resolve_attention(attention, grid)
            conv = width != 768 if conv_mlp is None else conv_mlp
            drops: dict[str, Any] = {"proj_drop": proj_drop_rate, "attn_drop": attn_drop_rate}
            blocks = [
                Block(width, heads[i], attn_layer, mlp_ratio, conv, drop_path=float(next(rates)), **drops, **factory)
                for _ in range(depth[i])
            ]
            self.transformers.append(Stage(blocks))
            self.feature_info += [
                {"num_chs": width, "reduction": patch_size * 2**i, "module": f"transformers.{i}.blocks.{j}"}
                for j in range(depth[i])
            ]
            if i + 1 < len(widths):
                self.pools.append(HeadPooling(width, widths[i + 1], **factory))
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps=1e-6, **factory)
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Linear(self.num_features, num_classes, **factory) if num_classes else nn.Identity()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that take no weight decay, beside biases and norms: none."""
        return set()

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of storing their activations."""
        stages: Iterable[Any] = self.transformers
        for stage in stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates, in timm's format."""
        fine = [(r"^transformers\.(\d+)\.blocks\.(\d+)", None), (r"^pools\.(\d+)", (0,))]
        return {"stem": r"^patch_embed", "blocks": r"^transformers\.(\d+)" if coarse else fine}

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classification head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one for `num_classes` classes; 0 gives no head."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = pooling(global_pool)
        self.head = new_head(self.num_features, num_classes, next(self.patch_embed.parameters())).train(self.training)

    def set_input_size(self, img_size: int | Grid | None = None, patch_size: int | None = None) -> None:
        """Change the image size that the model is made for. Another patch size than the stem's raises ValueError."""
        self.patch_embed.set_input_size(img_size=img_size, patch_size=patch_size)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of the blocks at `indices` (all if None, the last n if an integer), as timm's models do.

        `norm` applies the final norm to those that have its width.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; 'NCHW' or 'NLC' is wanted")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        stages: list[Any] = list(self.transformers)
        blocks = [(i, j, block) for i, stage in enumerate(stages) for j, block in enumerate(stage.blocks)]
        x, intermediates = self.patch_embed(x), []
        for count, (i, j, block) in enumerate(blocks[: last + 1] if stop_early else blocks):
            x = through(block, self.pools[i - 1](x) if i and not j else x, stages[i].grad_checkpointing)
            if count in wanted:
                y = x.flatten(2).mT
                y = self.norm(y) if norm and y.shape[-1] == self.num_features else y
                intermediates.append(y.mT.unflatten(-1, x.shape[-2:]) if output_fmt == "NCHW" else y)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop whatever the outputs of the blocks at `indices` do not need."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        left, stages, all_stages = last + 1, 0, list[Any](self.transformers)
        for stage in all_stages:
            if left > 0:
                stage.blocks, stages = stage.blocks[:left], stages + 1
            left -= len(stage.blocks)
        self.transformers, self.pools = self.transformers[:stages], self.pools[: stages - 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H', W'), the last stage's map."""
        x = self.patch_embed(x)
        for i, stage in enumerate(self.transformers):
            x = stage(self.pools[i - 1](x) if i else x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, normalise, classify."""
        if self.global_pool:
            x = self.norm(x.mean((-2, -1)))
        x = self.head_drop(x)
        return x if pre_logits or not self.global_pool else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "vars_rvt_tiny": default_cfg(pool_size=(7, 7)),
        "vars_rvt_small": default_cfg(pool_size=(14, 14)),
        "vars_rvt_base": default_cfg(pool_size=(14, 14)),
        "vars_rvt_micro": default_cfg(input_size=(3, 32, 32), num_classes=10, pool_size=(8, 8)),
    }
)


def _create(name: str, pretrained: bool, **options: Any) -> RobustVisionTransformer:
    features = {"out_indices": 3, "feature_cls": "getter"}
    return build_model_with_cfg(RobustVisionTransformer, name, pretrained, feature_cfg=features, **options)


@register_model
def vars_rvt_tiny(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-Ti: stages of 10 and 2 blocks, widths 192 and 384."""
    sizes = {"base_dims": (32, 32), "depth": (10, 2), "heads": (6, 12)}
    return _create("vars_rvt_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def vars_rvt_small(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-S: 12 blocks of width 384."""
    sizes = {"base_dims": (64,), "depth": (12,), "heads": (6,)}
    return _create("vars_rvt_small", pretrained, **{**sizes, **kwargs})


@register_model
def vars_rvt_base(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-B: 12 blocks of width 768."""
    sizes = {"base_dims": (64,), "depth": (12,), "heads": (12,)}
    return _create("vars_rvt_base", pretrained, **{**sizes, **kwargs})


@register_model
def vars_rvt_micro(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """A small RVT for images of 28 to 64 pixels: patches of 4 pixels, 4 blocks of width 96."""
    sizes = {"base_dims": (32,), "depth": (4,), "heads": (3,), "img_size": 32, "patch_size": 4, "num_classes": 10}
    return _create("vars_rvt_micro", pretrained, **{**sizes, **kwargs})
