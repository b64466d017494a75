"""Views into the attention layers of a model: maps, atoms, codes, sparsity, certificates."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from vars_dyn.attention.base import TokenMixer
from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.dictionaries.features import FeatureDictionary
from vars_dyn.attention.dictionaries.union import TokenUnion
from vars_dyn.attention.performer import PerformerAttention
from vars_dyn.attention.softmax import SoftmaxAttention
from vars_dyn.attention.solving import Ode
from vars_dyn.attention.token_grid import follow_grid
from vars_dyn.attention.vars import VarsAttention
from vars_dyn.recording.record import record

__all__ = ["LayerInput", "LayerView", "layer_inputs", "look_inside", "record_layer", "upsampled"]


@dataclass(frozen=True)
class LayerView:
    """One attention layer at one batch of images. Iterations count from the start, so there are num_steps + 1.

    Attributes:
        maps: attention maps (iterations, B, heads, H, W). For VARS a map is the Euclidean norm of the reconstruction
            P a at each token, over the head's channels. For the other kinds, which have one iteration, it is the
            attention that each token receives from the average query: the attention matrix averaged over its rows (the
            paper's "global average of tokens", Sec. 4.3). The average includes prefix tokens; the map leaves them out.
        codes: every iterate, (iterations, B, heads, channels, d'); None for layers that do not reconstruct.
        sparsity: share of zeros in the codes, (iterations, B, heads); None for layers that do not reconstruct.
        atoms: atoms of the dynamic dictionary on the grid, (B, heads, m, H, W); None without such a dictionary.
        relative_gap: of the last iterate, (B, heads, channels); None if the layer solves no problem.

    Examples:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> vit = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=0)
        >>> view = va.look_inside(vd.replace_attention(vit, "vars_d"), torch.randn(2, 3, 16, 16))["blocks.0.attn"]
        >>> view.maps.shape, view.sparsity.shape
        (torch.Size([4, 2, 2, 4, 4]), torch.Size([4, 2, 2]))
    """

    maps: Float[Tensor, "iterations b heads h w"]
    codes: Float[Tensor, "iterations b heads c d"] | None = None
    sparsity: Float[Tensor, "iterations b heads"] | None = None
    atoms: Float[Tensor, "b heads m h w"] | None = None
    relative_gap: Float[Tensor, "b heads c"] | None = None

    def masks(self, threshold: float = 0.5) -> Tensor:
        """The atoms as masks (Fig. 8-10): where an atom, min-max normalised over the grid, is above `threshold`."""
        if self.atoms is None:
            raise ValueError(
                "this layer has no dynamic dictionary; masks want dictionary='dynamic' or 'static+dynamic'"
            )
        low, high = self.atoms.amin((-2, -1), keepdim=True), self.atoms.amax((-2, -1), keepdim=True)
        return (self.atoms - low) > threshold * (high - low)


@torch.no_grad()
def look_inside(model: nn.Module, images: Float[Tensor, "b c h w"]) -> dict[str, LayerView]:
    """A view of every attention layer of `model` at `images`, by its module name, in the order of the forward pass.

    The model runs once in its present mode, so call `model.eval()` first. It is changed only by `follow_grid`. Raises
    ValueError if the model has none of this package's attention layers, or if a layer's token grid is not known.

    Examples:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> vit = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0).eval()
        >>> views = va.look_inside(vd.replace_attention(vit, "vars_d"), torch.randn(1, 3, 16, 16))
        >>> list(views)
        ['blocks.0.attn', 'blocks.1.attn']
    """
    return {name: _view(seen) for name, seen in layer_inputs(model, images).items()}


@torch.no_grad()
def record_layer(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    name: str,
    store: str | os.PathLike[str],
    times: Tensor | Sequence[float],
    field: Literal["sparse_recurrent", "reduced"] = "sparse_recurrent",
    **options: Any,
) -> xr.Dataset:
    """Integrate the neurons of one layer at `images` from rest, and record them to a zarr store.

    Args:
        model: a model with VARS layers. It runs once.
        images: its input.
        name: module name of the layer, such as "blocks.0.attn".
        store: folder of the store.
        times: increasing times in membrane time constants, from 0.
        field: "sparse_recurrent" (Eq. 8-9) or "reduced" (Eq. 20-21).
        options: arguments of `vars_dyn.record`: variables, every, method, rtol, overwrite, ...

    Returns:
        A labelled dataset with one signal for each image, head and channel, and these three as coordinates.

    Raises:
        ValueError: there is no such layer, the layer solves no problem, or arguments do not fit.

    Examples:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> vit = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=0).eval()
        >>> images = torch.randn(1, 3, 16, 16)
        >>> vit = vd.replace_attention(vit, "vars_d")
        >>> run = va.record_layer(vit, images, "blocks.0.attn", "layer.zarr", times=[0.0, 1.0])
        >>> dict(run.sizes)["signal"]  # one image, two heads, eight channels
        16
    """
    seen = layer_inputs(model, images)
    if name not in seen or not isinstance(seen[name].layer, VarsAttention):
        layers = [key for key, each in seen.items() if isinstance(each.layer, VarsAttention)]
        raise ValueError(f"name is {name!r}; one of the VARS layers {', '.join(layers)} is wanted")
    layer = seen[name].layer
    problem = layer.problem(seen[name].x, seen[name].grid).detach()
    shape = (len(images), layer.num_heads, layer.head_dim)
    image, head, channel = (index.numpy() for index in torch.unravel_index(torch.arange(math.prod(shape)), shape))
    coordinates = {"image": image, "head": head, "channel": channel}
    neurons = Ode(field=field).neurons(problem)
    return record(neurons, store, times, coordinates=coordinates, attributes={"layer": name}, **options)


class LayerInput(NamedTuple):
    """A layer, the tokens it was called with, their number of prefix tokens and their grid.

    The last two are None if the layer needs no grid and none is known.
    """

    layer: Any
    x: Tensor
    prefix: int | None
    grid: tuple[int, int] | None


def layer_inputs(model: nn.Module, images: Float[Tensor, "b c h w"]) -> dict[str, LayerInput]:
    """The input of each attention layer of `model` at `images`, by the layer's name, in the order of the forward pass.

    Raises ValueError if the model has none of this package's attention layers.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, TokenMixer)}
    if not layers:
        raise ValueError(
            f"model is {type(model).__name__}, which has none of this package's attention layers to look into"
        )
    if any(layer.token_grid is None for layer in layers.values()):
        follow_grid(model)
    seen: dict[str, LayerInput] = {}
    hooks = []
    for name, layer in layers.items():

        def remember(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
            x = args[0]
            try:
                layout = module.layout(x.shape[1], kwargs.get("grid_size"))
            except ValueError:
                layout = None, None
            seen[name] = LayerInput(module, x, *layout)

        hooks.append(layer.register_forward_pre_hook(remember, with_kwargs=True))
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def upsampled(maps: Float[Tensor, "*lead h w"], size: tuple[int, int]) -> Float[Tensor, "*lead h2 w2"]:
    """Maps (*lead, H, W), interpolated bilinearly to `size`, the (height, width) of the image.

    Examples:
        >>> va.upsampled(torch.randn(4, 2, 7, 7), (28, 28)).shape
        torch.Size([4, 2, 28, 28])
    """
    flat = F.interpolate(maps.reshape(1, -1, *maps.shape[-2:]), size=size, mode="bilinear", align_corners=False)
    return flat.reshape(*maps.shape[:-2], *size)


def _view(seen: LayerInput) -> LayerView:
    layer, x, prefix, grid = seen
    if prefix is None or grid is None:
        prefix, grid = layer.layout(x.shape[1])  # raises with the reason
    if isinstance(layer, VarsAttention):
        return _vars_view(layer, x, prefix, grid)
    if isinstance(layer, SoftmaxAttention | PerformerAttention):
        return LayerView(layer.attention_map(x)[None, ..., prefix:].unflatten(-1, grid))
    raise ValueError(f"{type(layer).__name__} has no attention map")


def _vars_view(layer: VarsAttention, x: Tensor, prefix: int, grid: tuple[int, int]) -> LayerView:
    iterates: list[Tensor] = []
    dictionary, signal = layer.reconstruction(x, grid)
    layer.solve(dictionary, signal, iterates)
    images = torch.stack([layer.decode(dictionary, a) for a in iterates])
    codes = torch.stack([layer.by_head(a) for a in iterates])
    features = _features(dictionary)
    gap = None
    if layer.variant.solves_problem:
        gap = layer.problem(x, grid).relative_gap(iterates[-1])
        gap = gap if gap.ndim == 3 else gap.squeeze(-1)
    return LayerView(
        maps=images[..., prefix:].norm(dim=-2).unflatten(-1, grid),
        codes=codes,
        sparsity=(codes == 0).double().mean((-2, -1)).to(codes.dtype),
        atoms=None if features is None else features[..., prefix:, :].mT.unflatten(-1, grid),
        relative_gap=gap,
    )


def _features(dictionary: TokenDictionary) -> Tensor | None:
    if isinstance(dictionary, TokenUnion):
        dictionary = dictionary.parts[0]
    return dictionary.tensors()[0] if isinstance(dictionary, FeatureDictionary) else None
