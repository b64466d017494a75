"""The token grid of a pass: the patch embedding passes it on, and a layer without one raises an error."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import set_reentrant_ckpt
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vars_dyn.attention import VarsAttention, attention_class, follow_grid, look_inside, replace_attention
from vars_dyn.attention.dictionaries.tokens import grid_tokens

TINY = {"embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3, "patch_size": 4}
TALL, WIDE = (64, 36), (36, 64)  # 16 x 9 and 9 x 16 tokens, as many as 12 x 12


def vit(
    kind: str = "vars_s", name: str = "vit_tiny_patch16_224", attention: dict | None = None, **options
) -> nn.Module:
    torch.manual_seed(0)
    sizes = {**TINY, "img_size": 16, "dynamic_img_size": True, **options}
    model = timm.create_model(name, **sizes)
    return replace_attention(model, kind, **(attention or {})).double().eval()


def images(size: tuple[int, int], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)


def called_with(model: nn.Module, x: Tensor) -> list[tuple[int, tuple[int, int]]]:
    """The layouts that the layers saw."""
    seen: list = []
    layers = [layer for layer in model.modules() if isinstance(layer, VarsAttention)]
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: seen.append(module.layout(args[0].shape[1])))
        for layer in layers
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", ["vars_s", "vars_sd"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_pass_is_as_if_the_layers_were_built_for_its_grid(kind: str, variant: str) -> None:
    model = vit(kind, attention={"variant": variant, "lam": 0.05})
    outputs = {}
    for size in (TALL, WIDE, (48, 48)):
        grid = (size[0] // 4, size[1] // 4)
        told = copy.deepcopy(model)
        for block in told.blocks:  # the same layer, which gets the grid as an argument
            call, block.attn.token_grid = block.attn.forward, None
            block.attn.forward = lambda x, call=call, grid=grid, **masks: call(x, **masks, grid_size=grid)
        outputs[size] = model(images(size))
        torch.testing.assert_close(outputs[size], told(images(size)), rtol=0, atol=0)
        assert called_with(model, images(size)) == [(1, grid)] * 2
    layer, x = model.blocks[0].attn, torch.randn(1, 145, 8, dtype=torch.float64)
    assert not torch.allclose(layer.heads(x, (16, 9)), layer.heads(x, (9, 16)))


@settings(max_examples=15)
@given(
    height=st.integers(1, 6), width=st.integers(1, 6), class_token=st.booleans(), registers=st.integers(0, 2),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_grid_with_any_prefix_tokens(height: int, width: int, class_token: bool, registers: int, seed: int) -> None:
    options = {"class_token": class_token, "reg_tokens": registers, "global_pool": "avg", "depth": 1}
    model = vit("vars_s", **options)
    x = images((4 * height, 4 * width), seed)
    assert called_with(model, x) == [(class_token + registers, (height, width))]
    view = look_inside(model, x)["blocks.0.attn"]
    assert view.maps.shape == (4, 2, 2, height, width)


@pytest.mark.parametrize("kind", ["softmax", "performer", "crate", "vars_d"])
def test_maps_of_attention_that_needs_no_grid_lie_on_the_pass_s_grid(kind: str) -> None:
    for size in (TALL, WIDE):
        view = look_inside(vit(kind), images(size))["blocks.1.attn"]
        assert view.maps.shape[-2:] == (size[0] // 4, size[1] // 4)
        assert view.atoms is None or view.atoms.shape[-2:] == view.maps.shape[-2:]


def test_another_input_size_for_good_and_padding() -> None:
    model = vit("vars_s", dynamic_img_size=False)
    model.set_input_size(TALL)
    assert called_with(model, images(TALL)) == [(1, (16, 9))] * 2
    model.set_input_size(WIDE)
    assert called_with(model, images(WIDE)) == [(1, (9, 16))] * 2
    assert called_with(vit("vars_s", dynamic_img_pad=True), images((18, 35))) == [(1, (5, 9))] * 2


def test_families_that_embed_in_other_ways() -> None:
    pit = {"base_dims": [8, 8], "depth": [1, 1], "heads": [2, 2], "img_size": (48, 80)}
    for name, prefix in (("pit_ti_224", 1), ("pit_ti_distilled_224", 2)):
        model = replace_attention(timm.create_model(name, **pit), "vars_s").double()
        assert called_with(model, images((48, 80))) == [(prefix, (5, 9)), (prefix, (3, 5))]
    mobile = replace_attention(timm.create_model("mobilevit_xxs"), "vars_s").double().eval()
    assert set(called_with(mobile, images((64, 128)))) == {(0, (4, 8)), (0, (2, 4)), (0, (1, 2))}
    options = {"embed_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 4}
    naflex = replace_attention(timm.create_model("naflexvit_base_patch16_gap", **options), "vars_s").double()
    assert called_with(naflex, images(TALL)) == [(4, (16, 9))]
    layer = naflex.blocks[0].attn
    layer.token_grid.embedded(naflex.embeds, (), (torch.zeros(1, 148, 8), None))  # what packed patches leave there
    with pytest.raises(ValueError, match="148 tokens came in a pass whose patch embedding gave no grid"):
        layer(torch.zeros(1, 148, 8, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["vars_s", "vars_sd", "vars_d"])
@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_dropped_patches_are_refused_by_static_dictionaries_alone(kind: str, rate: float) -> None:
    torch.manual_seed(0)
    plain = VisionTransformer(img_size=16, **TINY, patch_drop_rate=rate, attn_layer=attention_class(kind))
    for model in (follow_grid(plain), vit(kind, dynamic_img_size=False, patch_drop_rate=rate).float().train()):
        if kind == "vars_d":
            assert model(images((16, 16)).float()).shape == (2, 3)
            continue
        with pytest.raises(ValueError, match=f"{1 + int(16 * (1 - rate))} tokens came"):
            model(images((16, 16)).float())


@pytest.mark.parametrize("reentrant", [True, False])
def test_blocks_recomputed_in_the_backward_pass_have_their_own_pass_s_grid(reentrant: bool) -> None:
    slopes = {}
    set_reentrant_ckpt(reentrant)
    try:
        for checkpointing in (False, True):
            model = vit("vars_s").train()
            model.set_grad_checkpointing(checkpointing)
            # Checkpointing recomputes each pass after both have ended, so the last grid is not that of the first pass.
            sum(model(images(size)).square().sum() for size in (TALL, WIDE)).backward()
            slopes[checkpointing] = torch.cat([p.grad.flatten() for p in model.parameters()])
    finally:
        set_reentrant_ckpt(True)
    torch.testing.assert_close(slopes[True], slopes[False], rtol=1e-9, atol=1e-14)


def test_passes_within_a_pass_and_beside_it_keep_their_grids() -> None:
    model = vit("vars_s")
    expected = {size: model(images(size)) for size in (TALL, WIDE)}
    again: list[int] = []

    def inner(module: nn.Module, args: object, output: object) -> None:
        if not again:
            again.append(1)
            model(images(WIDE))

    handle = model.blocks[0].register_forward_hook(inner)
    torch.testing.assert_close(model(images(TALL)), expected[TALL], rtol=0, atol=0)
    handle.remove()
    wrong: list[float] = []

    def many(size: tuple[int, int]) -> None:
        wrong.extend(float((model(images(size)) - expected[size]).detach().abs().max()) for _ in range(10))

    threads = [threading.Thread(target=many, args=(size,)) for size in (TALL, WIDE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0.0] * 20


def test_no_grid_outlives_its_pass() -> None:
    model = vit("vars_s")
    layer, tokens = model.blocks[1].attn, torch.zeros(1, 145, 8, dtype=torch.float64)

    def fail(module: nn.Module, args: object) -> None:
        raise RuntimeError("on purpose")

    for run in (model, model.forward_features):
        run(images(TALL))
        with pytest.raises(ValueError, match="145 tokens came"):
            layer(tokens)
    handle = model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model(images(TALL))
    handle.remove()
    with pytest.raises(ValueError, match="145 tokens came"):
        layer(tokens)
    assert layer(tokens, grid_size=(16, 9)).shape == tokens.shape
    assert layer(tokens[:, :17]).shape == (1, 17, 8)  # 17 tokens fit the layer's own grid


def test_copies_and_pickles_follow_their_own_passes() -> None:
    model = vit("vars_sd")
    expected, file = model(images(TALL)), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twins = (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),  # noqa: S301
        torch.load(file, weights_only=False),
        copy.deepcopy(replace_attention(model, "vars_sd")),
    )
    for twin in twins[:3]:
        torch.testing.assert_close(twin(images(TALL)), expected, rtol=0, atol=0)
        assert twin.blocks[0].attn.token_grid is twin.token_grid is not model.token_grid
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert hooks == [len(module._forward_hooks) for module in twins[3].modules()]
    assert max(hooks) <= 2  # replacing again adds no second hook
    assert called_with(twins[3], images(WIDE)) == [(1, (9, 16))] * 2


def test_a_model_built_with_the_class_follows_when_told_to() -> None:
    options = {**TINY, "img_size": 16, "dynamic_img_size": True, "attn_layer": attention_class("vars_s")}
    model = follow_grid(VisionTransformer(**options).double())
    assert called_with(model, images(TALL)) == [(1, (16, 9))] * 2
    wrapped = follow_grid(nn.Sequential(VisionTransformer(**options).double(), nn.Identity()))
    assert called_with(wrapped, images(WIDE)) == [(1, (9, 16))] * 2


def test_a_layer_in_a_model_that_says_nothing_refuses_rather_than_guess() -> None:
    model = replace_attention(nn.Sequential(timm.layers.Attention(8, 2)), "vars_s")
    with pytest.raises(ValueError, match="144 tokens came on a grid that nothing says"):
        model(torch.zeros(1, 144, 8))
    model = replace_attention(nn.Sequential(timm.layers.Attention(8, 2)), "vars_s", grid_size=(16, 9))
    assert model(torch.zeros(1, 144, 8)).shape == (1, 144, 8)
    assert replace_attention(model, "vars_d")(torch.zeros(1, 7, 8)).shape == (1, 7, 8)


@given(grid=st.tuples(st.integers(1, 20), st.integers(1, 20)), prefix=st.integers(0, 6), tokens=st.integers(1, 500))
def test_a_layer_s_own_grid_is_the_only_one_it_takes(grid: tuple[int, int], prefix: int, tokens: int) -> None:
    layer = VarsAttention(4, 1, dictionary="static", grid_size=grid, num_prefix_tokens=prefix)
    if tokens == prefix + grid[0] * grid[1]:
        assert layer.layout(tokens) == (prefix, grid)
        return
    with pytest.raises(ValueError, match=f"^{tokens} tokens came"):
        layer.layout(tokens)
    with pytest.raises(ValueError, match=f"^{tokens} tokens came"):
        grid_tokens(tokens, prefix, grid)
