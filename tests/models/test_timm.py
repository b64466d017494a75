"""The families have what timm's own tests of models ask for, on small models."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import FeatureInfo, create_feature_extractor
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

import models  # noqa: F401
from vars_dyn.attention import replace_attention

SIZES = {
    "deit": {"embed_dim": 8, "depth": 3, "num_heads": 2},
    "gfnet": {"embed_dim": 8, "depth": 3, "num_heads": 2},
    "rvt": {"base_dims": (4, 4), "depth": (2, 1), "heads": (2, 4)},
}
CASES = [(family, kind) for family in SIZES for kind in ("softmax", "vars_sd")] + [("gfnet", "global_filter")]


def create(family: str, kind: str = "vars_sd", **options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {**SIZES[family], "img_size": 16, "num_classes": 3, **options}
    return timm.create_model(f"vars_{family}_micro", attention=kind, **sizes).eval()


def images(height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", timm.list_models("vars_*"))
def test_the_default_configuration_is_that_of_the_model(name: str) -> None:
    model, cfg = timm.create_model(name, device="meta"), timm.get_pretrained_cfg(name)
    assert (model.num_classes, model.default_cfg["architecture"]) == (cfg.num_classes, name)
    state = model.state_dict()
    assert f"{cfg.classifier}.weight" in state
    assert f"{cfg.first_conv}.weight" in state
    features = model.to("meta").eval().forward_features(torch.zeros(1, *cfg.input_size, device="meta"))
    if cfg.pool_size is not None:
        assert features.shape[1:] == (model.num_features, *cfg.pool_size)
    else:
        assert features.shape[-1] == model.num_features
    assert len(model.feature_info) >= 3


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_intermediates_in_both_forms_with_and_without_the_norm(family: str, kind: str) -> None:
    model, x = create(family, kind), images()
    info = FeatureInfo(model.feature_info, (0, 1, 2))
    last, maps = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    assert [each.shape[1] for each in maps] == info.channels()
    assert [16 // each.shape[-1] for each in maps] == info.reduction()
    rows = model.forward_intermediates(x, output_fmt="NLC", norm=True, intermediates_only=True)
    for one, other in zip(maps, rows, strict=True):
        fits = one.shape[1] == model.num_features
        torch.testing.assert_close(other, (model.norm if fits else nn.Identity())(one.flatten(2).mT))
    early = model.forward_intermediates(x, [0, 1], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, maps[:2])
    with pytest.raises((ValueError, AssertionError)):
        model.forward_intermediates(x, output_fmt="CNL")
    features = create(family, kind, features_only=True, out_indices=(0, 1))
    torch.testing.assert_close(features(x), maps[:2])
    assert model.prune_intermediate_layers([1]) == [1]
    pruned, (only,) = model.forward_intermediates(x, [1])
    torch.testing.assert_close(only, maps[1])
    assert len(pruned) == 2


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_symbolic_trace_computes_the_same(family: str, kind: str) -> None:
    model = create(family, kind)
    traced = create_feature_extractor(model, {"head": "logits"})
    for size in [(16, 16)] if family == "deit" else [(16, 16), (16, 24)]:
        with torch.no_grad():
            assert torch.equal(traced(images(*size))["logits"], model(images(*size)))
    traced.train()(images())["logits"].sum().backward()
    assert all(p.grad is not None for p in traced.parameters())


def test_a_replaced_model_can_be_traced_too() -> None:
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 16, "patch_size": 4, "num_classes": 3}
    model = replace_attention(timm.create_model("vit_tiny_patch16_224", **sizes), "vars_s").eval()
    traced = create_feature_extractor(model, {"head": "logits"})
    with torch.no_grad():
        assert torch.equal(traced(images())["logits"], model(images()))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_torchscript_is_refused_by_a_sentence(family: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be compiled by torch\.jit\.script; torch\.compile or torch\.export"):
        torch.jit.script(create(family, kind))


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_another_input_size_for_good(family: str, kind: str) -> None:
    model = create(family, kind)
    before = model(images())
    model.set_input_size((24, 32))
    assert tuple(model.patch_embed.grid_size) == (6, 8)
    assert bool(torch.isfinite(model(images(24, 32))).all())
    if family == "gfnet":
        assert model.pos_embed.shape == (1, 48, 8)
        assert isinstance(model.pos_embed, nn.Parameter)
    model.set_input_size(16)
    assert model(images()).shape == before.shape
    with pytest.raises(ValueError, match="the stem was built for"):
        model.set_input_size(patch_size=8)


@pytest.mark.parametrize("family", SIZES)
def test_parameter_groups_cover_every_parameter_once(family: str) -> None:
    model = create(family)
    names = {name for name, _ in model.named_parameters()}
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert {name for group in groups.values() for name in group} == names
    rated = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in rated for p in group["params"]}
    by_name = {name: scales[id(p)] for name, p in model.named_parameters()}
    assert set(by_name) == names
    assert by_name["head.weight"] == 1.0
    assert by_name["patch_embed.proj.0.weight"] == min(by_name.values()) < 0.2
    decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    kept = {id(p) for group in decayed if group["weight_decay"] == 0 for p in group["params"]}
    assert all(id(p) in kept for name, p in model.named_parameters() if name.startswith(("pos_embed", "cls_token")))


def test_the_first_convolution_is_named_for_either_stem() -> None:
    for stem, first in (("conv", "patch_embed.proj.0"), ("patch", "patch_embed.proj")):
        for family in ("deit", "gfnet"):
            model = create(family, stem=stem)
            assert model.pretrained_cfg["first_conv"] == first
            assert isinstance(model.get_submodule(first), nn.Conv2d)
