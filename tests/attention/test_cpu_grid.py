"""The written-out derivative of a static dictionary's reconstruction, against autograd of the plain form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vars_dyn.attention import VarsAttention
from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.dictionaries.grid import TokenConvDictionary
from vars_dyn.attention.reconstruct import cpu_grid, plain
from vars_dyn.attention.reconstruct.compiled import form as compiled
from vars_dyn.attention.reconstruct.values import GridInputs, Steps

GRID = (3, 4)


@pytest.fixture(autouse=True, scope="module")
def without_numba() -> Iterator[None]:
    """With numba, the compiled form would serve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "available", lambda: False)
        yield


def layer_of(seed: int = 0, lam: float = 0.05, prefix: int | None = 1, **options: object) -> VarsAttention:
    torch.manual_seed(seed)
    return VarsAttention(
        6, 2, qkv_bias=True, dictionary="static", grid_size=GRID, lam=lam, num_prefix_tokens=prefix, **options
    ).double()


def tokens_of(prefix: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, prefix + 12, 6, dtype=torch.float64, generator=generator).requires_grad_()


def decoded(layer: VarsAttention, dictionary: TokenDictionary, signal: Tensor) -> Tensor:
    return layer.decode(dictionary, layer.solve(dictionary, signal)).mT


def spied(patch: pytest.MonkeyPatch) -> list[str]:
    """Records which form each call takes."""
    taken: list[str] = []
    plainly, apply = plain.reconstruct, cpu_grid._ReconstructOnGrid.apply
    patch.setattr(plain, "reconstruct", lambda *a: (taken.append("plain"), plainly(*a))[1])
    patch.setattr(cpu_grid._ReconstructOnGrid, "apply", lambda *a: (taken.append("written out"), apply(*a))[1])
    return taken


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    lam=st.sampled_from([1e-3, 0.05, 0.4]),
    num_steps=st.integers(1, 4),
    prefix=st.integers(0, 2),
    size=st.sampled_from([1, 3, 5]),
)
def test_outputs_and_all_gradients_are_the_plain_forms(
    seed: int, lam: float, num_steps: int, prefix: int, size: int
) -> None:
    layer = layer_of(seed, lam, prefix, num_steps=num_steps, kernel_size=size)
    x = tokens_of(prefix, seed)
    found = []
    for by_torch in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            taken = spied(patch)
            if by_torch:
                patch.setattr(cpu_grid, "plain_tensors", lambda *tensors: False)
            y = layer.heads(x)
        assert taken == (["plain"] if by_torch else ["written out"])
        weight = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
        inputs = [x, layer.v.weight, layer.v.bias, layer.kernel, *([layer.rows] if prefix else [])]
        found.append([y.detach(), *torch.autograd.grad(y, inputs, weight)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-14 + 1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("prefix", [0, 1])
def test_the_plain_form_is_the_layers_own_reconstruction(prefix: int) -> None:
    layer, x = layer_of(prefix=prefix), tokens_of(prefix)
    torch.testing.assert_close(layer.heads(x), decoded(layer, *layer.reconstruction(x)))


def test_prefix_tokens_that_share_a_row_are_served() -> None:
    layer, x = layer_of(prefix=None), tokens_of(2)
    torch.testing.assert_close(layer.heads(x, GRID), decoded(layer, *layer.reconstruction(x, GRID)))


def test_transforms_of_torch_take_the_plain_form() -> None:
    layer, x = layer_of(), tokens_of()
    loss = lambda x: layer(x).square().sum()  # noqa: E731
    (slope,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), slope)
    torch.testing.assert_close(torch.func.vmap(layer)(x.detach().unsqueeze(1)).squeeze(1), layer(x))


def test_dropped_codes_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = spied(monkeypatch)
    layer, x = layer_of(attn_drop=0.5), tokens_of()
    assert float((layer.train()(x) - layer(x)).detach().norm()) > 0
    assert taken == 2 * ["plain"]
    torch.testing.assert_close(layer.eval()(x), layer_of()(x))
    assert taken[2:] == 2 * ["written out"]


def test_autocast_leaves_the_reconstruction_in_float32() -> None:
    layer = layer_of().float()
    x = tokens_of().float().detach().requires_grad_()
    v = layer.v(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        inputs = GridInputs(layer.kernel, layer.rows, GRID, *layer.split_heads(v))
        y = cpu_grid.reconstruct(inputs, torch.full((6,), 50.0), Steps(0.05, 3))
        heads = layer.heads(x)
    assert y.dtype == torch.float32
    assert heads.dtype == torch.float32
    exact = layer.heads(x)
    assert 0 < float((heads - exact).detach().norm() / exact.detach().norm()) < 0.02


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    sides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 3)]),
)
def test_the_bound_is_the_largest_of_numpys_power_spectrum(
    seed: int, sides: tuple[int, int], kernel: tuple[int, int]
) -> None:
    weight = torch.randn(3, 2, *kernel, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    dictionary = TokenConvDictionary(weight.requires_grad_(), None, sides, (3,))
    torus = [side + k - 1 for side, k in zip(sides, kernel, strict=True)]
    power = (np.abs(np.fft.fft2(weight.detach().numpy(), s=torus)) ** 2).sum(1)
    norm = dictionary.differentiable_lipschitz()
    np.testing.assert_allclose(norm.detach().numpy(), power.reshape(3, -1).max(1), rtol=1e-12)
    (slope,) = torch.autograd.grad(norm.sum(), weight)
    # L is homogeneous of degree two, and its slope is that of the largest frequency.
    torch.testing.assert_close((slope * weight).sum((1, 2, 3)).detach(), 2 * norm.detach())
