"""Every registered model with every attention, as timm's users expect them."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import models
from vars_dyn.attention import KINDS, VarsAttention, attention_class

FAMILIES = {
    "deit": {"embed_dim": 16, "depth": 2, "num_heads": 2},
    "gfnet": {"embed_dim": 16, "depth": 2, "num_heads": 2},
    "rvt": {"base_dims": (8, 8), "depth": (1, 1), "heads": (2, 4)},
}
SIZES = {
    "deit": {"tiny": 192, "small": 384, "base": 768, "micro": 96},
    "gfnet": {"tiny": 256, "extra_small": 384, "small": 384, "base": 512, "micro": 96},
    "rvt": {"tiny": 384, "small": 384, "base": 768, "micro": 96},
}
CASES = [(family, kind) for family in FAMILIES for kind in (*KINDS, *(["global_filter"] if family == "gfnet" else []))]


def create(family: str, attention: str | type[nn.Module], **options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {**FAMILIES[family], "num_classes": 7, "img_size": 32, "patch_size": 8}
    return timm.create_model(f"vars_{family}_micro", attention=attention, **{**sizes, **options})


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_every_model_with_every_attention(family: str, kind: str) -> None:
    for side in (32, 48):
        model = create(family, kind, img_size=side, drop_path_rate=0.1)
        logits = model(torch.randn(2, 3, side, side))
        assert logits.shape == (2, 7)
        logits.square().sum().backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    model.eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(model(images[:1]), expected[:1], rtol=1e-4, atol=1e-5)
        again = create(family, kind, img_size=48).eval()
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again(images), expected, rtol=0, atol=0)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
        assert bool(torch.isfinite(half).all())
        torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1 * float(expected.std()))


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_features_as_timms_users_expect(family: str, kind: str) -> None:
    model, images = create(family, kind).eval(), torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    torch.testing.assert_close(model.forward_head(features), model(images))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    last, maps = model.forward_intermediates(images)
    assert [tuple(each.shape[1:2]) for each in maps] == [(info["num_chs"],) for info in model.feature_info]
    assert all(each.shape[-1] == 32 // info["reduction"] for each, info in zip(maps, model.feature_info, strict=True))
    torch.testing.assert_close(model.forward_head(last), model(images))
    only = model.forward_intermediates(images, indices=[0], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(only[0], maps[0])
    extractor = create(family, kind, features_only=True, out_indices=(0, 1)).eval()
    assert [each.shape for each in extractor(images)] == [each.shape for each in maps]
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.get_classifier().out_features == 3
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)
    model.set_grad_checkpointing()
    model.train()(images).sum().backward()


def test_the_registry_holds_the_named_sizes() -> None:
    names = {f"vars_{family}_{size}" for family, sizes in SIZES.items() for size in sizes}
    assert set(timm.list_models("vars_*")) == names
    for family, sizes in SIZES.items():
        for size, width in sizes.items():
            model = timm.create_model(f"vars_{family}_{size}", device="meta")
            assert model.num_features == width
            assert model.pretrained_cfg["classifier"] == "head"
            assert isinstance(model.get_submodule(model.pretrained_cfg["first_conv"]), nn.Conv2d)


def test_the_softmax_forms_with_the_original_embedding_are_the_published_models() -> None:
    ours = timm.create_model("vars_deit_tiny", stem="patch", device="meta")
    theirs = timm.create_model("deit_tiny_patch16_224", device="meta")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    count = lambda model: sum(p.numel() for p in model.parameters()) / 1e6  # noqa: E731
    published = {"vars_rvt_tiny": 8.6, "vars_rvt_small": 22.1, "vars_rvt_base": 86.2}
    for name, millions in published.items():
        assert abs(count(timm.create_model(name, device="meta")) - millions) < 0.4, name
    published = {"vars_gfnet_tiny": 7.5, "vars_gfnet_extra_small": 16, "vars_gfnet_small": 25, "vars_gfnet_base": 43}
    for name, millions in published.items():
        assert abs(count(timm.create_model(name, stem="patch", device="meta")) - millions) < 1, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["vars_s", "vars_sd"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_one_model_takes_images_of_other_sizes_and_shapes(family: str, kind: str, variant: str) -> None:
    options = {"dynamic_img_size": True} if family == "deit" else {}
    model = create(family, attention_class(kind, variant=variant), **options).eval()
    for height, width in ((32, 32), (48, 48), (32, 64), (16, 24)):
        assert model(torch.randn(1, 3, height, width)).shape == (1, 7)


def test_deit_takes_another_input_size_for_good() -> None:
    model = create("deit", "vars_sd").eval()
    model.set_input_size((48, 64))
    assert model(torch.randn(1, 3, 48, 64)).shape == (1, 7)
    with pytest.raises(ValueError, match="patch_size is 4"):
        model.set_input_size(patch_size=4)


@pytest.mark.parametrize("family", ["deit", "gfnet"])
def test_both_embeddings(family: str) -> None:
    for stem in ("conv", "patch"):
        assert create(family, "vars_d", stem=stem)(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match="stem is 'linear'"):
        create(family, "vars_d", stem="linear")
    with pytest.raises(ValueError, match="patch_size is 6"):
        create(family, "vars_d", patch_size=6)


def test_small_images_of_the_small_data_sets() -> None:
    for side, grid in ((28, 7), (32, 8), (64, 16)):
        for family in FAMILIES:
            model = timm.create_model(f"vars_{family}_micro", img_size=side, in_chans=1, **FAMILIES[family])
            assert tuple(model.patch_embed.grid_size) == (grid, grid)
            assert model.patch_embed(torch.zeros(1, 1, side, side)).shape[-1] in (grid, FAMILIES["deit"]["embed_dim"])
            assert model(torch.randn(2, 1, side, side)).shape == (2, 10)


def test_an_attention_class_with_its_own_options_is_taken() -> None:
    cls = VarsAttention.configured(dictionary="dynamic", lam=0.1, num_steps=5)
    for family in FAMILIES:
        layers = [layer for layer in create(family, cls).modules() if isinstance(layer, VarsAttention)]
        assert layers
        assert all((layer.lam, layer.num_steps) == (0.1, 5) for layer in layers)
    with pytest.raises(ValueError, match="attention is 'vars_x'"):
        create("rvt", "vars_x")
    with pytest.raises(ValueError, match="grid tokens only"):
        create("deit", models.GlobalFilter)


def test_the_released_static_block_has_batch_norms_only() -> None:
    model = create("rvt", attention_class("vars_s", variant="released"))
    block = model.transformers[0].blocks[0]
    assert isinstance(block.norm1, nn.Identity)
    assert [name for name, m in block.named_modules() if isinstance(m, nn.LayerNorm)] == []


def test_bad_construction_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="one entry per stage"):
        create("rvt", "softmax", heads=(2,))
    with pytest.raises(ValueError, match="global_pool is 'token'"):
        create("gfnet", "softmax", global_pool="token")
