"""replace_attention over timm's families."""

from __future__ import annotations

import copy
import functools
import logging
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionViT

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


@pytest.mark.parametrize("kind", ["vars_s", "vars_d", "vars_sd", "performer", "crate"])
@pytest.mark.parametrize("family", WORKS)
def test_families_with_timms_attention_work(family: str, kind: str) -> None:
    name, options, side = WORKS[family]
    model = create(name, options)
    steps = {} if kind in ("performer", "crate") else {"num_steps": 2}
    assert replace_attention(model, kind, **steps) is model
    layers = [layer for layer in model.modules() if isinstance(layer, TokenMixer)]
    assert len(layers) == len(
        [layer for layer in create(name, options).modules() if type(layer).__name__ == "Attention"]
    )
    assert not [layer for layer in model.modules() if type(layer).__name__ == "Attention"]
    assert kind in ("performer", "crate") or all(layer.num_steps == 2 for layer in layers)
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_layer_is_refused_and_left_alone(kind: str) -> None:
    for layer in (timm.layers.Attention(8, 2), SoftmaxAttention(8, 2)):
        before = dict(layer.named_modules())
        with pytest.raises(
            ValueError, match=f"^model is a {type(layer).__name__} layer itself, which cannot be replaced"
        ):
            replace_attention(layer, kind)
        assert dict(layer.named_modules()) == before
        holder = nn.Sequential(layer)
        assert replace_attention(holder, kind) is holder
        assert isinstance(holder[0], TokenMixer)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_kept_and_their_handles_still_remove_them(kind: str) -> None:
    name, options, _ = WORKS["ViT"]
    model = create(name, options)
    called: list[str] = []
    attention = model.blocks[0].attn
    handles = [
        attention.register_forward_pre_hook(lambda m, args: called.append(f"before {type(m).__name__}")),
        attention.register_forward_hook(lambda m, args, kwargs, out: called.append("after"), with_kwargs=True),
        attention.register_forward_hook(lambda m, args, out: called.append("always"), always_call=True),
        attention.register_full_backward_hook(lambda m, of_input, of_output: called.append("backward")),
        attention.register_full_backward_pre_hook(lambda m, of_output: called.append("ahead of backward")),
        attention.proj.register_forward_hook(lambda m, args, out: called.append("projected")),
        attention.attn_drop.register_forward_hook(lambda m, args, out: None),
    ]
    replace_attention(model, kind)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    layer = type(model.blocks[0].attn).__name__
    assert called == [f"before {layer}", "projected", "after", "always", "ahead of backward", "backward"]
    for handle in handles:
        handle.remove()
    called.clear()
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert called == []


def test_hooks_that_cannot_be_kept_are_named(caplog: pytest.LogCaptureFixture) -> None:
    name, options, _ = WORKS["ViT"]
    model = create(name, options)
    called: list[int] = []
    model.blocks[1].attn.qkv.register_forward_hook(lambda m, args, out: called.append(out.shape[-1]))
    replace_attention(model, "performer")  # it has a projection of the same shape
    model(torch.randn(1, 3, 32, 32))
    assert (called, caplog.messages) == ([72], [])
    replace_attention(model, "vars_d")
    assert caplog.messages == ["hooks of blocks.1.attn.qkv are gone, as another projection came in its place"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_frozen_stays_frozen_and_what_was_in_evaluation_mode_stays_in_it(kind: str) -> None:
    name, options, _ = WORKS["ViT"]
    model = create(name, {**options, "qk_norm": True, "scale_attn_norm": True, "attn_drop_rate": 0.1}).double().train()
    attention = model.blocks[0].attn
    attention.qkv.weight.requires_grad_(False)
    attention.proj.bias.requires_grad_(False)
    attention.norm.requires_grad_(False).eval()
    attention.attn_drop.eval()
    kept = attention.proj.weight
    replace_attention(model, kind)
    layer, other = model.blocks[0].attn, model.blocks[1].attn
    projection = layer.v if kind in ("vars_s", "crate") else layer.qkv
    assert (projection.weight.requires_grad, projection.bias.requires_grad) == (False, True)
    assert (layer.proj.weight.requires_grad, layer.proj.bias.requires_grad) == (True, False)
    assert layer.proj.weight is kept  # so that an optimizer that holds it still updates it
    assert not layer.norm.weight.requires_grad
    assert (layer.training, layer.norm.training, layer.attn_drop.training) == (True, False, False)
    assert all(p.requires_grad for p in other.parameters())
    assert all(module.training for module in other.modules())
    assert all(value.dtype == torch.float64 for value in layer.state_dict().values())


def test_what_was_replaced_and_what_was_left_alone_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vars_dyn")
    name, options, _ = WORKS["ViT"]
    report = replace_attention(create(name, options), "vars_d").attention_report
    assert (report.kind, report.replaced, report.left) == ("vars_d", ("blocks.0.attn", "blocks.1.attn"), {})
    assert caplog.records[-1].levelno == logging.INFO
    name, options, _ = WORKS["SigLIP"]
    model = replace_attention(create(name, options), "vars_d")
    assert list(model.attention_report.left) == ["attn_pool"]
    assert "attn_pool, AttentionPoolLatent is not timm's Attention" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.WARNING
    assert (
        copy.deepcopy(model).attention_report
        == pickle.loads(pickle.dumps(model)).attention_report  # noqa: S301
        == (model.attention_report)
    )


def test_a_projection_that_is_more_than_a_linear_layer_is_left_alone() -> None:
    name, options, _ = WORKS["ViT"]

    class LowRank(nn.Linear):
        """A layer with an adapter, so that its weight alone does not describe it."""

    model = create(name, options)
    model.blocks[0].attn.qkv.__class__ = LowRank
    nn.utils.parametrizations.spectral_norm(model.blocks[1].attn.qkv)
    with pytest.raises(ValueError, match="whose Attention has a LowRank for its input projection"):
        replace_attention(model, "vars_d")
    model.blocks[0].attn.qkv.__class__ = nn.Linear
    report = replace_attention(model, "vars_d").attention_report
    assert report.replaced == ("blocks.0.attn",)
    assert list(report.left) == ["blocks.1.attn"]


class ViTSelfAttention(nn.Module):
    """The attention of transformers 4, which has its output projection beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.dropout = 2, nn.Dropout(0.1)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, head_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        heads = lambda layer: layer(x).unflatten(-1, (2, 4)).transpose(1, 2)  # noqa: E731
        q, k, v = heads(self.query), heads(self.key), heads(self.value)
        return ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2), None


class ViTSelfOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 8)


class ViTAttention(nn.Module):
    """An attention module that holds another one."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.output = ViTSelfAttention(), ViTSelfOutput()

    def forward(self, x: Tensor, head_mask: Tensor | None = None) -> Tensor:
        y, _ = self.attention(x, head_mask)
        return self.output.dense(y)


class BeitAttention(ViTSelfAttention):
    """One of which nothing says that it is plain."""


for each in (ViTSelfAttention, BeitAttention):
    each.__module__ = "transformers.models.vit.modeling_vit"


def torchvisions() -> nn.Module:
    torch.manual_seed(0)
    model = TorchvisionViT(16, 4, 2, 2, 8, 16, num_classes=5).double().eval()
    nn.init.normal_(model.heads.head.weight)
    return model


def encoder(batch_first: bool) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (torchvisions, (2, 3, 16, 16)),
        (functools.partial(encoder, True), (2, 5, 8)),
        (functools.partial(encoder, False), (5, 2, 8)),
        (lambda: nn.Sequential(ViTAttention()).double().eval(), (2, 5, 8)),
    ],
    ids=["torchvision", "torch", "torch, tokens first", "transformers 4"],
)
def test_attention_of_other_libraries_is_replaced_with_its_weights(make: Callable, shape: tuple[int, ...]) -> None:
    model, x = make(), torch.randn(shape, dtype=torch.float64)
    expected = model(x).detach()
    calls: list[int] = []
    first = next(
        name for name, m in model.named_modules() if type(m).__name__ in ("MultiheadAttention", "ViTSelfAttention")
    )
    model.get_submodule(first).register_forward_hook(lambda *given: calls.append(1))
    replace_attention(model, "softmax")  # which is what they have
    with torch.no_grad():  # where PyTorch's encoder layers would take their fast path
        torch.testing.assert_close(model(x), expected)
    assert (calls, model.attention_report.replaced[0], model.attention_report.left) == ([1], first, {})
    before = [layer for layer in model.modules() if isinstance(layer, SoftmaxAttention)]
    for kind in ("vars_d", "performer", "vars_d"):
        replace_attention(model, kind)
        assert model(x).shape == expected.shape
    layers = [layer for layer in model.modules() if isinstance(layer, VarsAttention)]
    assert len(layers) == len(before)
    for old, new in zip(before, layers, strict=True):
        assert new.proj is old.proj
        torch.testing.assert_close(new.qkv.weight, torch.cat([old.qkv.weight[:8], old.qkv.weight[16:]]))
    model(x).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_the_token_grid_of_torchvisions_model_is_told() -> None:
    model = replace_attention(torchvisions(), "vars_s", variant="released")
    layers = [layer for layer in model.modules() if isinstance(layer, VarsAttention)]
    assert [(layer.grid_size, layer.num_prefix_tokens) for layer in layers] == [((4, 4), 1)] * 2
    told: list[object] = []
    layers[1].register_forward_hook(lambda layer, *given: told.append(layer.token_grid.present()))
    assert model(torch.randn(2, 3, 16, 16, dtype=torch.float64)).shape == (2, 5)
    assert told == [(4, 4)]
    assert copy.deepcopy(model).attention_report == model.attention_report


def test_masks_and_cross_attention_are_refused_and_decoders_keep_theirs() -> None:
    model, x = replace_attention(encoder(True), "vars_d"), torch.randn(2, 5, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="VarsAttention got attn_mask; as it stands in for another attention"):
        model(x, mask=torch.zeros(5, 5, dtype=torch.float64))
    attention = model.layers[0].self_attn
    with pytest.raises(ValueError, match=r"keys or values that are not its queries \(cross-attention\)"):
        attention(x, x.clone(), x)
    tokens = x[0]
    torch.testing.assert_close(attention(tokens, tokens, tokens)[0], attention(x, x, x)[0][0])
    report = replace_attention(nn.TransformerDecoderLayer(8, 2), "vars_d").attention_report
    assert report.replaced == ("self_attn",)
    assert "(cross-attention)" in report.left["multihead_attn"]


@pytest.mark.parametrize("family", ["ViT", "DeiT", "Dinov2WithRegisters"])
def test_the_vits_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{family}Config")(**sizes, image_size=16, patch_size=4)
    model = getattr(transformers, f"{family}Model")(config).double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = model(x)[0]
    torch.testing.assert_close(replace_attention(model, "softmax")(x)[0], expected)
    (layer,) = (each for each in replace_attention(model, "vars_s").modules() if isinstance(each, VarsAttention))
    assert model(x)[0].shape == expected.shape
    assert (layer.grid_size, layer.num_prefix_tokens) == ((4, 4), expected.shape[1] - 16)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.MultiheadAttention(8, 2), "^model is a MultiheadAttention layer itself, which cannot be replaced in place"),
        (nn.ModuleDict({"cross": nn.MultiheadAttention(8, 2)}), "attends from one sequence to another"),
        (nn.Sequential(nn.MultiheadAttention(8, 2, kdim=4)), "takes keys or values of another width"),
        (nn.Sequential(nn.MultiheadAttention(8, 2, add_bias_kv=True)), "adds a key that no token gave"),
        (nn.Sequential(BeitAttention()), "whose BeitAttention is Hugging Face's, and not one of the ViTs"),
        (nn.ModuleDict({"attention": ViTSelfAttention()}), "has no output projection that is known"),
        (timm.models.vision_transformer.ParallelScalingBlock(8, 2), "whose ParallelScalingBlock is not timm's"),
        (timm.create_model("seresnet18"), "which has no attention layers"),
        (timm.create_model("mixer_s32_224", img_size=64), "which has no attention layers"),
    ],
    ids=[
        "bare",
        "cross",
        "narrow keys",
        "added key",
        "BEiT",
        "no projection",
        "parallel scaling",
        "squeeze and excite",
        "mixer",
    ],
)
def test_attention_of_others_is_named_and_absence_said_only_where_true(model: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace_attention(model, "vars_d")
