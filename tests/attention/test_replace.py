"""replace_attention over timm's families."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from vars_dyn.attention import KINDS, SoftmaxAttention, VarsAttention, replace_attention
from vars_dyn.attention.base import TokenMixer

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}

#: Family: (timm's name, construction arguments, image side).
WORKS = {
    "ViT": ("vit_tiny_patch16_224", {**TINY, "img_size": 32, "patch_size": 8}, 32),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", {**TINY, "img_size": 32, "patch_size": 8}, 32),
    "DeiT-III": ("deit3_small_patch16_224", {**TINY, "img_size": 32, "patch_size": 8}, 32),
    "SigLIP": ("vit_base_patch16_siglip_224", {**TINY, "img_size": 32, "patch_size": 8}, 32),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {**TINY, "img_size": 28, "patch_size": 7}, 28),
    "PiT": ("pit_ti_224", {"base_dims": [8, 8, 8], "depth": [1, 1, 1], "heads": [2, 2, 2], "num_classes": 5}, 224),
}
REFUSED = {
    "BEiT": ("beit_base_patch16_224", {**TINY, "img_size": 32, "patch_size": 8}, "relative position bias"),
    "EVA-02": ("eva02_tiny_patch14_224", {**TINY, "img_size": 28, "patch_size": 7}, "by their position"),
    "Swin": ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "num_heads": (2, 2)}, "relative position bias"),
    "XCiT": ("xcit_nano_12_p16_224", {"depth": 1}, "attends over channels"),
    "CaiT": ("cait_xxs24_224", {"depth": 1}, "across heads"),
    "ResNet": ("resnet10t", {}, "no attention layers"),
}


def create(name: str, options: dict) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


@pytest.mark.parametrize("kind", ["vars_s", "vars_d", "vars_sd", "performer"])
@pytest.mark.parametrize("family", WORKS)
def test_families_with_timms_attention_work(family: str, kind: str) -> None:
    name, options, side = WORKS[family]
    model = create(name, options)
    steps = {} if kind == "performer" else {"num_steps": 2}
    assert replace_attention(model, kind, **steps) is model
    layers = [layer for layer in model.modules() if isinstance(layer, TokenMixer)]
    assert len(layers) == len(
        [layer for layer in create(name, options).modules() if type(layer).__name__ == "Attention"]
    )
    assert not [layer for layer in model.modules() if type(layer).__name__ == "Attention"]
    assert kind == "performer" or all(layer.num_steps == 2 for layer in layers)
    assert not any(module.training for module in model.modules())
    logits = model(torch.randn(1, 3, side, side))
    assert logits.shape == (1, 5)
    logits.sum().backward()
    assert all(layer.proj.weight.grad.abs().sum() > 0 for layer in layers)


@pytest.mark.parametrize("family", REFUSED)
def test_families_whose_attention_does_more_are_refused_with_the_reason(family: str) -> None:
    name, options, reason = REFUSED[family]
    model = create(name, options)
    before = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=reason):
        replace_attention(model, "vars_d")
    assert [type(module) for module in model.modules()] == before


def test_weights_that_carry_over_are_kept() -> None:
    name, options, _ = WORKS["ViT"]
    old, model = create(name, {**options, "qk_norm": True, "scale_attn_norm": True}), create(name, options)
    images = torch.randn(2, 3, 32, 32)
    expected = old(images)
    torch.testing.assert_close(replace_attention(old, "softmax")(images), expected)
    before = model.blocks[1].attn
    replace_attention(model, "vars_d")
    after = model.blocks[1].attn
    q, _, v = before.qkv.weight.chunk(3)
    torch.testing.assert_close(after.qkv.weight, torch.cat([q, v]))
    torch.testing.assert_close(after.proj.weight, before.proj.weight)
    replace_attention(model, "vars_s")
    torch.testing.assert_close(model.blocks[1].attn.v.weight, v)
    replace_attention(model, "vars_sd")
    torch.testing.assert_close(model.blocks[1].attn.qkv.weight[24:], v)
    replace_attention(model, "softmax")
    assert isinstance(model.blocks[1].attn, SoftmaxAttention)


def test_grid_prefix_tokens_dtype_and_training_mode_are_passed_on() -> None:
    name, options, _ = WORKS["DINOv2 with registers"]
    model = replace_attention(create(name, options).double().train(), "vars_s", variant="released")
    layer = model.blocks[0].attn
    assert isinstance(layer, VarsAttention)
    assert (layer.grid_size, layer.num_prefix_tokens, layer.training) == ((4, 4), 5, True)
    assert layer.kernel.dtype == torch.float64
    assert model(torch.randn(2, 3, 28, 28, dtype=torch.float64)).shape == (2, 5)


def test_bad_kinds_and_options_leave_the_model_alone() -> None:
    name, options, _ = WORKS["ViT"]
    model = create(name, options)
    with pytest.raises(ValueError, match=f"one of {', '.join(KINDS)}"):
        replace_attention(model, "sparse")
    with pytest.raises(ValueError, match="lam is -1"):
        replace_attention(model, "vars_d", lam=-1.0)
    assert type(model.blocks[0].attn).__name__ == "Attention"
