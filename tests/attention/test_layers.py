"""Performer and softmax attention, and the protocol that timm has for an attention class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vars_dyn import Attention as AttentionField
from vars_dyn import DenseDictionary
from vars_dyn.attention import KINDS, PerformerAttention, SoftmaxAttention, SubspaceAttention, attention_class
from vars_dyn.dictionaries import random_features


def test_performer_without_normalisation_plus_v_is_one_euler_step_of_eq_15() -> None:
    torch.manual_seed(0)
    layer = PerformerAttention(8, 2, normalize=False).double()
    with torch.no_grad():
        layer.qkv.weight[8:16] = layer.qkv.weight[:8]
    x = torch.randn(3, 7, 8, dtype=torch.float64)
    q, _, v = layer.split_heads(layer.qkv(x))
    field = AttentionField(DenseDictionary(random_features(q, layer.rand_matrix.mT)), v.mT)
    (rate,) = field(0.0, (v.mT,))
    torch.testing.assert_close(layer.heads(x) + v, (v.mT + 1.0 * rate).mT)


def test_performer_estimates_softmax_attention_of_normalised_queries_and_keys() -> None:
    torch.manual_seed(0)
    layer = PerformerAttention(8, 2, feature_ratio=20000.0).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    q, k, v = (part for part in layer.split_heads(layer.qkv(x)))
    scores = nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).mT
    torch.testing.assert_close(layer.heads(x), scores.softmax(-1) @ v, rtol=0, atol=0.02)
    torch.testing.assert_close(layer.attention_map(x), scores.softmax(-1).mean(-2), rtol=0, atol=0.01)


def test_performer_takes_unnormalised_rows_of_any_sign_of_value() -> None:
    layer, x = PerformerAttention(8, 2).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    _, _, v = layer.split_heads(layer.qkv(x))
    y = layer.heads(x)
    assert bool((y <= v.amax(-2, keepdim=True) + 1e-12).all() and (y >= v.amin(-2, keepdim=True) - 1e-12).all())
    torch.testing.assert_close(layer.attention_map(x).sum(-1), torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_is_timms_attention(masked: bool) -> None:
    torch.manual_seed(0)
    options = {"num_heads": 2, "qkv_bias": True, "qk_norm": True, "scale_norm": True, "norm_layer": nn.LayerNorm}
    ours, theirs = SoftmaxAttention(8, **options), TimmAttention(8, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 8)
    mask = {"attn_mask": torch.randn(5, 5)} if masked else {}
    torch.testing.assert_close(ours(x, **mask), theirs(x, **mask))
    torch.testing.assert_close(ours(x, is_causal=True), theirs(x, is_causal=True))
    torch.testing.assert_close(ours.attention_map(x).sum(-1), torch.ones(2, 2))


def test_subspace_attention_is_that_of_crate() -> None:
    torch.manual_seed(0)
    layer, x = SubspaceAttention(6, 2, qkv_bias=False).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    bases = layer.v.weight.detach().numpy().reshape(2, 3, 6)  # U_h^T of each head
    told, attended = [], []
    for tokens in x.numpy():
        heads = []
        for basis in bases:
            w = basis @ tokens.T  # (3, N): columns are tokens, as in the paper
            scores = np.exp(w.T @ w / 3**0.5)
            similarity = scores / scores.sum(1, keepdims=True)
            heads.append(w @ similarity.T)
            attended.append(similarity.mean(0))
        told.append(np.concatenate(heads).T @ layer.proj.weight.detach().numpy().T + layer.proj.bias.detach().numpy())
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(told), rtol=1e-12)
    np.testing.assert_allclose(layer.attention_map(x).numpy().reshape(6, 5), np.stack(attended), rtol=1e-12)
    assert sum(p.numel() for p in layer.parameters()) == 2 * 36 + 6


class Named(nn.LayerNorm):
    """A norm that the test can recognise."""


@pytest.mark.parametrize("kind", KINDS)
def test_timm_takes_the_class_and_hands_it_its_arguments(kind: str) -> None:
    torch.manual_seed(0)
    cls = attention_class(kind)
    assert isinstance(cls, type)
    model = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=3, attn_layer=cls, reg_tokens=2,
        qk_norm=True, scale_attn_norm=True, proj_bias=False, qkv_bias=False, attn_drop_rate=0.1, proj_drop_rate=0.2,
        norm_layer=Named, dtype=torch.float64,
    )  # fmt: skip
    layer = model.blocks[0].attn
    projection = layer.v if kind in ("vars_s", "crate") else layer.qkv
    assert layer.proj.bias is None
    assert projection.bias is None
    assert (layer.attn_drop.p, layer.proj_drop.p) == (0.1, 0.2)
    assert type(layer.norm) is Named
    assert kind in ("vars_s", "crate") or type(layer.q_norm) is Named
    assert all(p.dtype == torch.float64 for p in (*layer.parameters(), *layer.buffers()))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model(x).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    training, again = model(x), model(x)
    assert not torch.equal(training, again), "dropout is off in training"
    model.eval()
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_can_be_built_without_memory_and_filled_later(kind: str) -> None:
    layer = attention_class(kind)(8, 2, device="meta")
    assert all(value.is_meta for value in layer.state_dict().values())
    layer = layer.to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert bool(torch.isfinite(layer(torch.randn(1, 9, 8))).all())


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_patches_is_fine_where_no_grid_is_needed_and_refused_elsewhere(kind: str) -> None:
    model = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=3, patch_drop_rate=0.5,
        attn_layer=attention_class(kind).on_grid((4, 4), 1),
    )  # fmt: skip
    images = torch.randn(1, 3, 16, 16)
    if kind in ("vars_s", "vars_sd"):
        with pytest.raises(ValueError, match="9 tokens came"):
            model(images)
    else:
        assert model(images).shape == (1, 3)
    assert model.eval()(images).shape == (1, 3)
