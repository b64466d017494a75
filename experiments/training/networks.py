"""Build models from their settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

import models  # noqa: F401  # registers the project's models
from experiments.options.limits import checked_sizes
from experiments.settings import Attention, Model
from vars_dyn.attention import KINDS, attention_class, replace_attention

__all__ = ["Normalized", "build_model"]


def build_model(settings: Model, num_classes: int, image_size: int, drop_path: float = 0.0) -> nn.Module:
    """The network with a new head for `num_classes`. Raises ValueError for names or sizes that timm does not take."""
    name, attention = settings.name, settings.attention
    if not timm.is_model(name):
        raise ValueError(f"model.name is {name!r}; a model of timm, vars_rvt_*, vars_deit_* or vars_gfnet_* is wanted")
    ours = name.startswith("vars_")
    arguments: dict[str, Any] = {**checked_sizes(settings.sizes), "num_classes": num_classes}
    _affordable(settings.sizes, image_size, num_classes)
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    if ours or timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        arguments["img_size"] = image_size
    if ours and attention.kind is not None:
        arguments["attention"] = _layer(attention)
    try:
        model = timm.create_model(name, **arguments)
    except TypeError as error:
        raise ValueError(f"model.sizes is {settings.sizes}, which {name} does not take: {error}") from None
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, MemoryError) as error:
        raise ValueError(
            f"model.name, model.sizes and data.image_size are {name}, {settings.sizes} and {image_size}, "
            f"which do not fit together: {' '.join(str(error).split()) or type(error).__name__}"
        ) from None
    if not ours and attention.kind is not None:
        model = replace_attention(model, attention.kind, **attention.options())
    return model


def _affordable(sizes: Mapping[str, Any], image_size: int, num_classes: int) -> None:
    """Raise ValueError for a model whose weights alone do not fit this machine's memory, by a rough lower bound."""
    depth, patch = sizes.get("depth", 1), sizes.get("patch_size", 16)
    if isinstance(sizes.get("base_dims"), list) and isinstance(sizes.get("heads"), list):
        widths = [base * count for base, count in zip(sizes["base_dims"], sizes["heads"], strict=False)]
    else:
        widths = [sizes.get("embed_dim", 16)]
    depths = depth if isinstance(depth, list) else [depth]
    blocks = sum(
        many * width**2 * (2 + 2 * sizes.get("mlp_ratio", 1.0)) for many, width in zip(depths, widths, strict=False)
    )
    count = blocks + widths[0] * (image_size / patch) ** 2 + widths[-1] * num_classes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    if 4 * count > memory:
        raise ValueError(
            f"model.sizes is {dict(sizes)} for images of {image_size} pixels: more than {count / 1e6:.0f} million "
            f"weights, {4 * count / 1e9:.0f} GB where this machine has {memory / 1e9:.0f}; a smaller model is wanted"
        )


def _layer(attention: Attention) -> str | type[nn.Module]:
    options = attention.options()
    if not options:
        return str(attention.kind)
    if attention.kind not in KINDS:
        raise ValueError(f"model.attention.kind is {attention.kind!r}; options are taken by {', '.join(KINDS)}")
    if not attention.kind.startswith("vars"):
        raise ValueError(
            f"model.attention has {', '.join(options)}, which {attention.kind} attention does not take; leave them out"
        )
    return attention_class(attention.kind, **options)


class Normalized(nn.Module):
    """A network for images (B, 3, H, W) in [0, 1]. It normalises each colour itself, so attacks work in pixel space."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits."""
        return self.network((images - self.mean) / self.std)
