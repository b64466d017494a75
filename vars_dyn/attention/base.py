"""The base of the attention layers: timm's protocol for an attention class, and the projections around the heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vars_dyn import _checks
from vars_dyn.attention.token_grid import OnTokenGrid

__all__ = [
    "AttentionOptions",
    "TokenBatchNorm",
    "TokenMixer",
    "refuse_mask",
    "with_defaults",
]


class AttentionOptions(TypedDict, total=False):
    """The arguments that timm gives every attention class. All are optional.

    qk_norm: normalise queries and keys per head with `norm_layer` (a static dictionary alone needs neither).
    scale_norm: normalise the heads' merged output with `norm_layer` before the projection.
    proj_bias: whether the output projection has a bias (True).
    attn_drop: dropout rate inside the attention; proj_drop: dropout rate after the projection.
    norm_layer: constructor of a normalisation layer, required by qk_norm and scale_norm.
    device, dtype: of the new parameters.
    """

    qk_norm: bool
    scale_norm: bool
    proj_bias: bool
    attn_drop: float
    proj_drop: float
    norm_layer: Callable[..., nn.Module] | None
    device: Any
    dtype: Any


class TokenMixer(OnTokenGrid, nn.Module):
    """Base of the attention layers, (B, N, C) -> (B, N, C). A subclass computes `heads`.

    Args:
        dim: C, divisible by `num_heads`.
        num_heads: number of heads.
        qkv_bias: whether the input projection has a bias.
        inputs: which of queries, keys and values the input projection gives: "qkv", "qv" or "v".
        options: see `AttentionOptions`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        *,
        inputs: str = "qkv",
        **options: Unpack[AttentionOptions],
    ) -> None:
        super().__init__()
        _checks.count("dim", dim)
        _checks.count("num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(f"dim is {dim} and num_heads {num_heads}; a dim divisible by num_heads is wanted")
        unknown = set(options) - set(AttentionOptions.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(sorted(unknown))}")
        for rate in ("attn_drop", "proj_drop"):
            _checks.rate(rate, options.get(rate, 0.0))
        norm_layer = options.get("norm_layer")
        if (options.get("qk_norm") or options.get("scale_norm")) and norm_layer is None:
            raise ValueError("norm_layer is None; qk_norm and scale_norm want a normalisation layer's constructor")
        if norm_layer is not None and not callable(norm_layer):
            raise ValueError(f"norm_layer is {norm_layer!r}; a normalisation layer's constructor is wanted")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.factory = {"device": options.get("device"), "dtype": options.get("dtype")}
        make_norm = norm_layer or nn.Identity
        head_norm = make_norm if options.get("qk_norm") else None
        self.norm = make_norm(dim, **self.factory) if options.get("scale_norm") else nn.Identity()
        self.attn_drop = nn.Dropout(options.get("attn_drop", 0.0))
        self.proj = nn.Linear(dim, dim, bias=options.get("proj_bias", True), **self.factory)
        self.proj_drop = nn.Dropout(options.get("proj_drop", 0.0))
        self.inputs = inputs
        projection = nn.Linear(dim, len(inputs) * dim, bias=qkv_bias, **self.factory)
        if inputs == "v":
            self.v = projection
        else:
            self.qkv = projection
            self.q_norm = head_norm(self.head_dim, **self.factory) if head_norm else nn.Identity()
        if inputs == "qkv":
            self.k_norm = head_norm(self.head_dim, **self.factory) if head_norm else nn.Identity()

    @classmethod
    def configured(cls, **options: Any) -> type[Self]:
        """A subclass with `options` as its constructor's defaults, for arguments such as timm's `attn_layer`.

        Its instances are instances of the original class, so that they can be pickled.
        """
        return with_defaults(cls, **options)

    @classmethod
    def on_grid(cls, grid_size: tuple[int, int], num_prefix_tokens: int) -> type[Self]:
        """The class with this grid and number of prefix tokens as defaults; the class itself if it needs neither."""
        return cls

    @property
    def own_norm(self) -> bool:
        """Whether the layer normalises by itself, so that its block needs no norm before it."""
        return False

    def split_heads(self, x: Float[Tensor, "b n inputs_dim"]) -> tuple[Tensor, ...]:
        """A projection (B, N, k C) as k tensors (B, heads, N, head_dim)."""
        b, n, width = x.shape
        if width == self.dim:
            return (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2),)
        return x.reshape(b, n, width // self.dim, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    def merge_heads(self, y: Float[Tensor, "b heads n c"]) -> Float[Tensor, "b n dim"]:
        """The heads' outputs (B, heads, N, c), put side by side."""
        return y.transpose(1, 2).flatten(2)

    def project(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
        """Apply the output norm, the projection and dropout."""
        return self.proj_drop(self.proj(self.norm(x)))


def with_defaults(cls: type[Any], **options: Any) -> type[Any]:
    """A subclass of `cls` with `options` as its constructor's defaults, whose instances become those of `cls`."""
    original = getattr(cls, "_original", cls)

    class Configured(cls):
        _original = original

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**options, **kwargs})
            if type(self) is Configured:
                self.__class__ = original

    Configured.__name__ = Configured.__qualname__ = cls.__name__
    Configured.__doc__ = cls.__doc__
    return Configured


class TokenBatchNorm(nn.Module):
    """Batch norm of the channels of tokens (B, N, C), over images and tokens."""

    def __init__(self, dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(dim, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Normalise; a batch without images leaves the statistics as they are."""
        if len(x) == 0 and not torch.compiler.is_compiling():
            return x * self.bn.weight + self.bn.bias
        return self.bn(x.mT).mT


def refuse_mask(layer: nn.Module, attn_mask: Tensor | None, is_causal: bool) -> None:
    """Raise ValueError if a mask is given to a layer that forms no token-by-token attention matrix."""
    if attn_mask is not None or is_causal:
        raise ValueError(
            f"{type(layer).__name__} got {'an attn_mask' if attn_mask is not None else 'is_causal=True'}; it forms no "
            "token-by-token attention matrix that could be masked, so attn_mask=None and is_causal=False are wanted"
        )
