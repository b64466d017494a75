"""The attention map of a model: one number per token of the grid."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.training.networks import Normalized
from vars_dyn.attention import look_inside
from vars_dyn.attention.base import TokenMixer
from vars_dyn.attention.inspection import LayerView

__all__ = ["attention_map", "min_max", "view", "views"]


def views(model: nn.Module, images: Float[Tensor, "b 3 h w"]) -> dict[str, LayerView]:
    """Run the model at images in [0, 1], and return what its attention layers do, by their names in the network.

    The model runs in eval mode. Raises ValueError if it has none of this package's attention layers.
    """
    network = model.network if isinstance(model, Normalized) else model
    if not any(isinstance(layer, TokenMixer) for layer in network.modules()):
        raise ValueError(
            f"{type(network).__name__} has none of this package's attention layers, whose maps are wanted; "
            "--attention.kind softmax puts them in place of timm's"
        )
    shown = (images - model.mean) / model.std if isinstance(model, Normalized) else images
    was_training = network.training
    network.eval()
    try:
        return look_inside(network, shown)
    finally:
        network.train(was_training)


def attention_map(
    model: nn.Module, images: Float[Tensor, "b 3 h w"], layer: str | None = None
) -> Float[Tensor, "b rows columns"]:
    """The map of one layer (the first, unless named) on the grid of tokens, at the last iterate, averaged over heads.

    `vars_dyn.LayerView` defines the map of a head. For VARS it is the norm of the reconstruction P a over channels. For
    softmax and Performer it is what a token receives from the average query.
    """
    return view(model, images, layer).maps[-1].mean(1)


def view(model: nn.Module, images: Float[Tensor, "b 3 h w"], layer: str | None = None) -> LayerView:
    """What one layer does (the first, unless named). Raises a ValueError that names the layers that there are."""
    found = views(model, images)
    name = layer or next(iter(found))
    if name not in found:
        raise ValueError(f"layer is {name!r}; one of {', '.join(found)} is wanted")
    return found[name]


def min_max(maps: Float[Tensor, "*lead h w"]) -> Float[Tensor, "*lead h w"]:
    """Each map scaled to [0, 1] by its own minimum and maximum; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    width = high - low
    return torch.where(width > 0, (maps - low) / torch.where(width > 0, width, 1), 0)
