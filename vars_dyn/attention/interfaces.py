"""The self-attention of other libraries: what it is made of, and layers that are called as it is.

PyTorch's `nn.MultiheadAttention`, which torchvision's ViTs use, and the ViTs of Hugging Face's transformers call their
attention in ways of their own. An `Interface` takes such a call and passes the tokens on to a layer of this package.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from vars_dyn.attention.base import TokenMixer
from vars_dyn.attention.softmax import SoftmaxAttention

__all__ = [
    "Interface",
    "TorchInterface",
    "TransformersInterface",
    "as_softmax",
    "is_foreign",
    "take_over",
    "what_hinders",
]

#: The attention of Hugging Face's ViTs that is plain self-attention. Other classes of theirs do more.
_PLAIN = re.compile(r"(ViT|DeiT|Dinov2|Dinov2WithRegisters|ViTMAE|ViTMSN|IJepa)(Sdpa)?(Self)?Attention")
#: The names of modules whose queries come from another sequence than their keys.
_CROSS = re.compile(r"cross|pool|multihead_attn", re.IGNORECASE)


class Interface(nn.Module):
    """A layer of this package that another library calls. A subclass defines `forward`.

    Attributes:
        layer: the layer, which takes and gives (B, N, C).
    """

    layer: TokenMixer
    is_interface = True

    def __init__(self, layer: TokenMixer) -> None:
        super().__init__()
        self.layer = layer


class TorchInterface(Interface):
    """Called as `torch.nn.MultiheadAttention`, for self-attention alone.

    Args:
        layer: the layer.
        batch_first: whether tokens come as (B, N, C). If not, they come as (N, B, C).
    """

    #: With these, PyTorch's encoder layers take no fast path around the layer.
    in_proj_weight, in_proj_bias, _qkv_same_embed_dim = None, None, True

    def __init__(self, layer: TokenMixer, batch_first: bool) -> None:
        super().__init__(layer)
        self.batch_first, self.embed_dim, self.num_heads = batch_first, layer.dim, layer.num_heads

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """(the new tokens, None): the weights are None even if they are asked for, as there is no such matrix.

        One tensor is wanted for queries, keys and values. Others, and masks, raise ValueError.
        """
        if key is not query or value is not query:
            raise ValueError(
                f"{type(self.layer).__name__} got keys or values that are not its queries (cross-attention); it is "
                "self-attention, so one tensor for all three is wanted"
            )
        _refuse_masks(self.layer, {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}, is_causal)
        if query.ndim == 2:  # one sequence, (N, C)
            return self.layer(query.unsqueeze(0)).squeeze(0), None
        return (self.layer(query) if self.batch_first else self.layer(query.transpose(0, 1)).transpose(0, 1)), None


class TransformersInterface(Interface):
    """Called as the attention of a ViT of Hugging Face's transformers."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *more: Any, **options: Any
    ) -> tuple[Tensor, None]:
        """(the new tokens (B, N, C), None), as there is no matrix of weights. A mask raises ValueError."""
        masks = {"attention_mask": attention_mask, "head_mask": options.get("head_mask")}
        _refuse_masks(self.layer, masks, bool(options.get("is_causal")))
        return self.layer(hidden_states), None


def _refuse_masks(layer: nn.Module, masks: dict[str, Tensor | None], is_causal: bool) -> None:
    given = [name for name, mask in masks.items() if mask is not None] + ["is_causal=True"] * is_causal
    if given:
        raise ValueError(
            f"{type(layer).__name__} got {given[0]}; as it stands in for another attention it takes no mask, so "
            "None and is_causal=False are wanted"
        )


def is_foreign(layer: nn.Module) -> bool:
    """Whether this is `nn.MultiheadAttention`, or the attention of a ViT of transformers that holds no other one."""
    return isinstance(layer, nn.MultiheadAttention) or (_of_transformers(layer) and _projections(layer) is not None)


def what_hinders(model: nn.Module, name: str) -> str | None:
    """What keeps the foreign layer `name` of `model` from being replaced; None if nothing does."""
    layer: Any = model.get_submodule(name)
    holder, _, child = name.rpartition(".")
    around = type(model.get_submodule(holder)).__name__ if name else ""
    decodes = isinstance(model.get_submodule(holder), nn.TransformerDecoderLayer) and child == "multihead_attn"
    if decodes or _CROSS.search(child.replace("multihead_attn", "")) or _CROSS.search(around):
        return "attends from one sequence to another (cross-attention), where a replacement sees one sequence only"
    if isinstance(layer, nn.MultiheadAttention):
        if type(layer) is not nn.MultiheadAttention:
            return "does more than torch.nn.MultiheadAttention, which it is derived from"
        if not layer._qkv_same_embed_dim:
            return "takes keys or values of another width than its queries (cross-attention)"
        if layer.bias_k is not None or layer.add_zero_attn:
            return "adds a key that no token gave"
        return None
    if not _PLAIN.fullmatch(type(layer).__name__):
        return "is Hugging Face's, and not one of the ViTs whose attention is known to be plain self-attention"
    if any(type(each) is not nn.Linear for each in _projections(layer) or ()):
        return "has projections that are more than plain linear layers"
    if _output(model, name) is None:
        return "is Hugging Face's, and has no output projection that is known"
    return None


def as_softmax(model: nn.Module, name: str) -> Interface:
    """The foreign layer `name` as softmax attention that computes the same, behind the same interface.

    It shares the parameters of the foreign layer where it can. `model` is not changed; `take_over` does that.
    """
    old: Any = model.get_submodule(name)
    bias: nn.Parameter | None
    if isinstance(old, nn.MultiheadAttention):
        weight, bias, proj = old.in_proj_weight, old.in_proj_bias, old.out_proj
        heads, rate = old.num_heads, old.dropout
    else:
        projections = _projections(old) or []
        weight = _joined([each.weight for each in projections])
        biases = [each.bias for each in projections]
        bias = None if biases[0] is None else _joined(biases)
        proj, heads = _output(model, name), old.num_attention_heads
        rate = old.dropout.p if hasattr(old, "dropout") else getattr(old, "attention_dropout", 0.0)
    like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    layer = SoftmaxAttention(
        weight.shape[-1], heads, bias is not None, proj_bias=proj.bias is not None, attn_drop=rate, **like
    )
    qkv: Any = layer.qkv
    qkv.weight, qkv.bias = weight, bias
    layer.proj = proj
    layer.train(old.training)
    if isinstance(old, nn.MultiheadAttention):
        return TorchInterface(layer, old.batch_first).train(old.training)
    return TransformersInterface(layer).train(old.training)


def take_over(model: nn.Module, name: str) -> None:
    """Leave out the output projection that an earlier transformers' ViT has beside `name`, which has it now."""
    beside = _beside(model, name)
    if beside is not None and not hasattr(model.get_submodule(name), "q_proj"):
        beside.dense = nn.Identity()


def _of_transformers(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith("transformers.")


def _projections(layer: Any) -> list[Any] | None:
    """The projections onto queries, keys and values, by the names of transformers 5 or 4; None if there are none."""
    for names in (("q_proj", "k_proj", "v_proj"), ("query", "key", "value")):
        found = [getattr(layer, name, None) for name in names]
        if all(isinstance(each, nn.Module) for each in found) and hasattr(layer, "num_attention_heads"):
            return [each for each in found if each is not None]
    return None


def _output(model: nn.Module, name: str) -> Any:
    """The output projection: `o_proj` of the layer, or before transformers 5 `output.dense` of the module around it."""
    own = getattr(model.get_submodule(name), "o_proj", None)
    if own is not None:
        return own
    beside = _beside(model, name)
    return None if beside is None else beside.dense


def _beside(model: nn.Module, name: str) -> Any:
    output = getattr(model.get_submodule(name.rpartition(".")[0]), "output", None) if name else None
    return output if isinstance(getattr(output, "dense", None), nn.Linear) else None


def _joined(parts: list[Tensor]) -> nn.Parameter:
    with torch.no_grad():
        return nn.Parameter(torch.cat(list(parts)), requires_grad=any(part.requires_grad for part in parts))
