"""What the families share of timm's protocol for models: default configurations, pooling, and a new classifier."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

__all__ = ["default_cfg", "new_head", "pooling"]


def default_cfg(**options: Any) -> dict[str, Any]:
    """timm's configuration of a model without pretrained weights, with `options` in place of the defaults."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj.0",
        "classifier": "head",
        **options,
    }


def pooling(global_pool: str) -> str:
    """`global_pool` itself; ValueError unless it is "avg", or "" for none."""
    if global_pool not in ("", "avg"):
        raise ValueError(f"global_pool is {global_pool!r}; 'avg' or '' is wanted")
    return global_pool


def new_head(width: int, num_classes: int, like: Tensor) -> nn.Module:
    """A classifier of `num_classes` classes (0: none) on the device and in the dtype of `like`."""
    if not num_classes:
        return nn.Identity()
    return nn.Linear(width, num_classes, device=like.device, dtype=like.dtype)
