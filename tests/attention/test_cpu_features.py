"""The written-out derivative of a dynamic dictionary's reconstruction, against autograd of the plain form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vars_dyn.attention import Variant, VarsAttention, unrolled
from vars_dyn.attention import autograd as written_out
from vars_dyn.attention.reconstruct import cpu_features, reconstruct
from vars_dyn.attention.reconstruct.values import FeatureInputs, Steps
from vars_dyn.attention.spectral import largest_eigenpair

KINDS = {"dynamic": {}, "static+dynamic": {"grid_size": 3, "variant": Variant(static="full")}}


def layer_of(dictionary: str, seed: int = 0, lam: float = 0.05, **options: object) -> VarsAttention:
    torch.manual_seed(seed)
    sizes = {"qkv_bias": True, "num_prefix_tokens": 1, "lam": lam}
    layer = VarsAttention(8, 2, dictionary=dictionary, **{**sizes, **KINDS[dictionary], **options}).double()
    layer.rand_matrix.requires_grad_()
    return layer


def tokens_of(seed: int = 0) -> Tensor:
    return torch.randn(3, 10, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def both(layer: VarsAttention, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """The heads and their gradients in tokens, parameters and the random matrix, by both forms."""
    found = []
    inputs = [x, layer.qkv.weight, layer.qkv.bias, layer.rand_matrix]
    inputs += [layer.kernel] if layer.dictionary == "static+dynamic" else []
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(cpu_features, "plain_tensors", lambda *tensors: False)
            y = layer.heads(x)
        weight = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
        assert (type(y.grad_fn).__name__ == "_ReconstructBackward") is not plain
        found.append([y.detach(), *torch.autograd.grad(y, inputs, weight)])
    return found


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    lam=st.sampled_from([1e-3, 0.05, 0.4]),
    num_steps=st.integers(1, 4),
    ratio=st.sampled_from([0.5, 2.0]),
)
@pytest.mark.parametrize("dictionary", KINDS)
def test_outputs_and_all_gradients_are_the_plain_forms(
    dictionary: str, seed: int, lam: float, num_steps: int, ratio: float
) -> None:
    layer = layer_of(dictionary, seed, lam, num_steps=num_steps, feature_ratio=ratio)
    with pytest.MonkeyPatch.context() as patch:
        fast, plain = both(layer, tokens_of(seed).requires_grad_(), patch)
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("dictionary", KINDS)
def test_transforms_of_torch_take_the_plain_form(dictionary: str) -> None:
    layer, x = layer_of(dictionary), tokens_of().requires_grad_()
    loss = lambda x: layer(x).square().sum()  # noqa: E731
    (slope,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), slope)
    direction = tokens_of(1)
    _, forward = torch.func.jvp(loss, (x.detach(),), (direction,))
    torch.testing.assert_close(forward, (slope * direction).sum())
    torch.testing.assert_close(torch.func.vmap(layer)(x.detach().unsqueeze(1)).squeeze(1), layer(x))


def test_backward_under_autocast_stays_in_full_precision() -> None:
    layer = layer_of("dynamic").float()
    q, v = (tokens_of(seed).float().unflatten(-1, (2, 4)).transpose(1, 2).requires_grad_() for seed in (0, 1))
    grads = []
    for half in (False, True):
        y = reconstruct(FeatureInputs(q, layer.rand_matrix, None, v), Steps(0.05, 3))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            grads.append(torch.autograd.grad(y.square().sum(), (q, v)))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-6)


def test_norms_below_what_normalisation_divides_by_take_the_plain_form() -> None:
    layer, x = layer_of("dynamic", qkv_bias=False), tokens_of()
    assert type(layer.heads(x).grad_fn).__name__ == "_ReconstructBackward"
    x[0, 3] = 0
    y = layer.heads(x)
    assert type(y.grad_fn).__name__ != "_ReconstructBackward"
    assert bool(torch.isfinite(y).all())
    with torch.no_grad():
        layer.rand_matrix.mul_(20)
    assert type(layer.heads(tokens_of()).grad_fn).__name__ != "_ReconstructBackward"


def test_dropped_codes_are_dropped() -> None:
    layer, x = layer_of("dynamic", attn_drop=0.5), tokens_of()
    assert float((layer.train()(x) - layer(x)).detach().norm()) > 0
    torch.testing.assert_close(layer.eval()(x), layer_of("dynamic")(x))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)))
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_the_largest_eigenpair(shift: float, seed: int, shape: tuple[int, int, int]) -> None:
    a = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift
    gram = a.mT @ a
    value, vector = largest_eigenpair(gram)
    torch.testing.assert_close(value, torch.linalg.eigvalsh(gram)[:, -1], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close((gram @ vector[..., None])[..., 0], value[:, None] * vector, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones(len(gram), dtype=torch.float64))


def test_a_start_without_the_largest_eigenvector_is_noticed() -> None:
    top = torch.tensor([[3.0, -3.0], [-3.0, 3.0]], dtype=torch.float64)
    gram = torch.stack([top + 1, torch.eye(2).double(), torch.zeros(2, 2).double(), torch.ones(2, 2).double()])
    torch.testing.assert_close(largest_eigenpair(gram)[0], torch.tensor([6.0, 1.0, 0.0, 2.0], dtype=torch.float64))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), lam=st.sampled_from([1e-3, 0.3]))
def test_a_written_out_step_has_the_plain_ones_derivatives(seed: int, lam: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    inputs = [draw(2, 3, 5).requires_grad_() for _ in range(3)] + [(1 + draw(2, 1, 1) ** 2).requires_grad_()]
    found = []
    for step in (written_out.soft_step, written_out._plain_step):
        y = step(*inputs, lam)
        found.append([y.detach(), *torch.autograd.grad(y.sin().sum(), inputs)])
    assert type(written_out.soft_step(*inputs, lam).grad_fn).__name__ == "_SoftStepBackward"
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dictionary", ["static", "static+dynamic"])
def test_a_convolutional_layers_gradients_are_the_plain_forms(dictionary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = VarsAttention(8, 2, dictionary=dictionary, num_prefix_tokens=1, lam=0.05).double(), tokens_of()
    layer(x).square().sum().backward()
    fast = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    monkeypatch.setattr(unrolled, "plain_tensors", lambda *tensors: False)
    layer(x).square().sum().backward()
    for a, p in zip(fast, layer.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-9, atol=1e-10)
