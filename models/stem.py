"""The convolutional patch embedding of RVT, which the VARS paper also gives its DeiT* and GFNet* baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.layers import PatchEmbed, to_2tuple
from timm.models import register_notrace_module
from torch import nn

__all__ = ["ConvPatchEmbed", "patch_embedding", "stem_overlay"]


@register_notrace_module  # its hooks tell the token grid, so torch.fx takes it whole
class ConvPatchEmbed(PatchEmbed):
    """timm's PatchEmbed with RVT's stem (Mao et al., "Towards Robust Vision Transformer", CVPR 2022).

    Its one convolution is replaced by a 7 x 7 convolution of stride 2, batch norm, max pooling of stride 2, and a
    convolution with the rest of the stride. The patch size is the total stride, a multiple of 4.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] | None = 224,
        patch_size: Any = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        height, width = to_2tuple(patch_size)
        if height % 4 or width % 4:
            raise ValueError(f"patch_size is {patch_size}; the convolutional stem wants a multiple of 4")
        factory = {"device": device, "dtype": dtype}
        super().__init__(img_size, patch_size, in_chans, embed_dim, bias=bias, **factory, **options)
        last = (height // 4, width // 4)
        self.proj = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(in_chans, 32, kernel_size=7, stride=2, padding=2, **factory),
            nn.BatchNorm2d(32, **factory),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(32, embed_dim, kernel_size=last, stride=last, bias=bias, **factory),
        )

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Change the image size. The patch size of a stem is fixed, so another `patch_size` raises ValueError."""
        if patch_size is not None and to_2tuple(patch_size) != tuple(self.patch_size):
            raise ValueError(f"patch_size is {patch_size}; the stem was built for {tuple(self.patch_size)}")
        super().set_input_size(img_size)


def patch_embedding(stem: str) -> Callable[..., PatchEmbed]:
    """The patch embedding for `stem`: "conv" (the paper's modified baselines) or "patch" (the originals)."""
    options: dict[str, type[PatchEmbed]] = {"conv": ConvPatchEmbed, "patch": PatchEmbed}
    if stem not in options:
        raise ValueError(f"stem is {stem!r}; one of {', '.join(options)} is wanted")
    return options[stem]


def stem_overlay(options: dict[str, Any]) -> dict[str, Any]:
    """Take `pretrained_cfg_overlay` out of a model's options, and add the name of the first convolution of its stem."""
    first = {"first_conv": "patch_embed.proj"} if options.get("stem") == "patch" else {}
    return {**first, **(options.pop("pretrained_cfg_overlay", None) or {})}
