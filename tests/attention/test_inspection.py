"""`view` shows the maps, atoms, codes, sparsity and certificates of every layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import models  # noqa: F401
from vars_dyn.attention import KINDS, Ode, look_inside, record_layer, upsampled


def small(kind: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 16, "num_heads": 2, "img_size": 16, "patch_size": 4}
    return timm.create_model("vars_deit_micro", attention=kind, **{**sizes, **options}).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_seen_with_all_that_it_has(kind: str) -> None:
    model, images = small(kind), torch.randn(3, 3, 16, 16)
    before = model(images)
    views = look_inside(model, images)
    torch.testing.assert_close(model(images), before, rtol=0, atol=0)
    assert list(views) == ["blocks.0.attn", "blocks.1.attn"]
    iterations = 4 if kind.startswith("vars") else 1
    for view in views.values():
        assert view.maps.shape == (iterations, 3, 2, 4, 4)
        assert bool((view.maps >= 0).all())
        assert float(view.maps[-1].std()) > 0
        assert upsampled(view.maps, (16, 16)).shape == (iterations, 3, 2, 16, 16)
        assert (view.atoms is not None) == (kind in ("vars_d", "vars_sd"))
        assert (view.codes is not None) == (view.relative_gap is not None) == kind.startswith("vars")


@pytest.mark.parametrize("kind", ["vars_s", "vars_d", "vars_sd"])
def test_a_view_is_what_the_layer_computed(kind: str) -> None:
    model, images = small(kind), torch.randn(2, 3, 16, 16)
    outputs = {}
    layer = model.blocks[1].attn
    handle = layer.register_forward_hook(lambda module, args, out: outputs.update(x=args[0], y=out))
    view = look_inside(model, images)["blocks.1.attn"]
    handle.remove()
    dictionary, _ = layer.reconstruction(outputs["x"])
    code = layer.solve(*layer.reconstruction(outputs["x"]))
    torch.testing.assert_close(view.codes[-1], layer.by_head(code))
    y = layer.by_head(dictionary.decode(code))
    torch.testing.assert_close(view.maps[-1], y.norm(dim=2)[..., 1:].unflatten(-1, (4, 4)))
    torch.testing.assert_close(layer.project(layer.merge_heads(y.mT)), outputs["y"])
    torch.testing.assert_close(view.sparsity[-1], (layer.by_head(code) == 0).float().mean((-2, -1)))
    gap = layer.problem(outputs["x"]).relative_gap(code).reshape(2, 2, 8)
    torch.testing.assert_close(view.relative_gap, gap)


def test_more_iterations_narrow_the_gap_and_a_larger_lam_thins_the_codes() -> None:
    images = torch.randn(2, 3, 16, 16)
    few, many = (
        look_inside(timm_model, images)["blocks.0.attn"] for timm_model in (small_d(num_steps=1), small_d(num_steps=60))
    )
    assert float(many.relative_gap.max()) < 0.1 * float(few.relative_gap.max())
    thin = look_inside(small_d(num_steps=60, lam=1.0), images)["blocks.0.attn"]
    assert float(thin.sparsity[-1].mean()) > float(many.sparsity[-1].mean())
    assert thin.sparsity.shape == (61, 2, 2)


def small_d(**options: object) -> nn.Module:
    from vars_dyn.attention import VarsAttention

    return small(VarsAttention.configured(dictionary="dynamic", **options))


def test_masks_are_where_an_atom_is_in_its_upper_half() -> None:
    view = look_inside(small("vars_d"), torch.randn(1, 3, 16, 16))["blocks.0.attn"]
    masks = view.masks(0.5)
    assert masks.shape == view.atoms.shape
    top = view.atoms.flatten(-2).argmax(-1, keepdim=True)
    bottom = view.atoms.flatten(-2).argmin(-1, keepdim=True)
    assert bool(masks.flatten(-2).gather(-1, top).all())
    assert not bool(masks.flatten(-2).gather(-1, bottom).any())
    with pytest.raises(ValueError, match="no dynamic dictionary"):
        look_inside(small("vars_s"), torch.randn(1, 3, 16, 16))["blocks.0.attn"].masks()


def test_models_on_other_grids_and_without_these_layers() -> None:
    model = timm.create_model("vars_rvt_micro", attention="vars_sd", depth=(1,)).eval()
    view = look_inside(model, torch.randn(1, 3, 24, 40))["transformers.0.blocks.0.attn"]
    assert view.maps.shape == (4, 1, 3, 6, 10)
    with pytest.raises(ValueError, match="none of this package's attention layers"):
        look_inside(timm.create_model("resnet10t"), torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("kind", ["vars_s", "vars_d", "vars_sd"])
def test_a_layers_trajectory_is_recorded_as_one_labelled_dataset(kind: str, tmp_path: Path) -> None:
    model, images = small(kind, embed_dim=8).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    times = [0.0, 0.5, 1.0, 4.0]
    data = record_layer(model, images, "blocks.1.attn", tmp_path / "run.zarr", times, rtol=1e-6)
    assert data.sizes["time"] == 4
    assert data.sizes["signal"] == 2 * 2 * 4
    assert data.attrs["layer"] == "blocks.1.attn"
    labels = [tuple(int(data[name][i]) for name in ("image", "head", "channel")) for i in (0, 5, 15)]
    assert labels == [(0, 0, 0), (0, 1, 1), (1, 1, 3)]
    layer = model.blocks[1].attn
    layer.solver = Ode(horizon=4.0, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        view = look_inside(model, images)["blocks.1.attn"]
    code = torch.from_numpy(data["code"].isel(time=-1).values).reshape(view.codes[-1].shape)
    torch.testing.assert_close(code, view.codes[-1], rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"one of the VARS layers blocks\.0\.attn, blocks\.1\.attn"):
        record_layer(model, images, "blocks.7.attn", tmp_path / "other.zarr", times)
