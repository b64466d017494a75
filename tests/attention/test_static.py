"""Static dictionaries on a token grid: exact adjoints, bounds, prefix tokens, other grids, the released Gram map."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vars_dyn import FourierDictionary
from vars_dyn.attention import Variant, VarsAttention
from vars_dyn.attention.dictionaries.features import FeatureDictionary
from vars_dyn.attention.dictionaries.grid import GridDictionary, TokenConvDictionary, TokenFourierDictionary
from vars_dyn.attention.dictionaries.resize import resize_half_spectrum, resize_token_rows
from vars_dyn.attention.dictionaries.tokens import grid_tokens

sizes = st.integers(2, 6)


def random_dictionary(
    kind: str, grid: tuple[int, int], prefix: int, seed: int = 0, batch_shape: tuple[int, ...] = (2, 3)
) -> GridDictionary:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    rows = draw(3, prefix, 4) if prefix else None
    if kind == "conv":
        return TokenConvDictionary(draw(3, 4, 3, 3), rows, grid, batch_shape)
    return TokenFourierDictionary(draw(3, 4, 1, grid[0], grid[1] // 2 + 1, 2), rows, grid, batch_shape)


@pytest.mark.parametrize("kind", ["conv", "full"])
@given(height=sizes, width=sizes, prefix=st.integers(0, 2), n=st.integers(1, 2), seed=st.integers(0, 999))
def test_encode_is_the_adjoint_of_decode(kind: str, height: int, width: int, prefix: int, n: int, seed: int) -> None:
    dictionary = random_dictionary(kind, (height, width), prefix, seed)
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(2, 3, n, *dictionary.code_shape, dtype=torch.float64, generator=generator)
    x = torch.randn(2, 3, n, *dictionary.signal_shape, dtype=torch.float64, generator=generator)
    assert dictionary.signal_shape == (prefix + height * width,)
    torch.testing.assert_close(
        (dictionary.encode(x) * a).sum(), (x * dictionary.decode(a)).sum(), rtol=1e-10, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["conv", "full"])
def test_prefix_tokens_are_rows_of_spatial_means(kind: str) -> None:
    dictionary = random_dictionary(kind, (3, 4), 2)
    a = torch.randn(2, 3, 1, *dictionary.code_shape, dtype=torch.float64)
    means = a.unflatten(-1, (4, 12)).mean(-1)
    expected = torch.einsum("bcnt,cpt->bcnp", means, dictionary.rows)
    torch.testing.assert_close(dictionary.decode(a)[..., :2], expected)


@pytest.mark.parametrize("kind", ["conv", "full"])
@given(height=sizes, width=sizes, prefix=st.integers(0, 2), seed=st.integers(0, 999))
def test_both_bounds_hold_and_the_spectral_one_is_tight(
    kind: str, height: int, width: int, prefix: int, seed: int
) -> None:
    dictionary = random_dictionary(kind, (height, width), prefix, seed)
    exact = torch.linalg.matrix_norm(dictionary.matrix(), 2).square()
    bound, rows, lipschitz = dictionary.differentiable_lipschitz(), dictionary.row_sum(), dictionary.lipschitz()
    assert bound.shape == rows.shape == exact.shape == (2, 3)
    assert bool((exact <= bound * (1 + 1e-10)).all())
    assert bool((exact <= lipschitz).all())
    assert bool((exact <= rows * (1 + 1e-10)).all())
    if kind == "full" and not prefix:
        torch.testing.assert_close(bound, exact)


def test_select_picks_channels_repeated_for_every_image() -> None:
    for kind in ("conv", "full"):
        dictionary = random_dictionary(kind, (3, 3), 1)
        picked = dictionary.select(torch.tensor([4, 0]))
        torch.testing.assert_close(picked.matrix(), dictionary.matrix().flatten(0, 1)[[4, 0]])
    features = FeatureDictionary(torch.randn(2, 3, 5, 4), channels=6)
    assert features.batch_shape == (2, 3, 6)
    picked = features.select(torch.tensor([7, 35]))
    torch.testing.assert_close(picked.matrix(), features.weight.flatten(0, 1)[[1, 5]])


def test_an_ordinary_fourier_dictionary_is_the_special_case_without_prefix() -> None:
    ours = random_dictionary("full", (4, 5), 0)
    templates = torch.fft.irfft2(ours.spectrum().conj(), s=(4, 5)).flatten(0, 1).unsqueeze(1)
    plain = FourierDictionary(templates, groups=3)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = plain.encode(x).unflatten(1, (3, 4)).flatten(2).unsqueeze(2)
    torch.testing.assert_close(ours.encode(x.flatten(2).unsqueeze(2)), expected)


def test_the_released_gram_map_is_p_transpose_p_off_the_dc_and_nyquist_columns_only() -> None:
    dictionary = random_dictionary("full", (4, 4), 0)
    a = torch.randn(2, 3, 1, *dictionary.code_shape, dtype=torch.float64)
    raw, true = (f(a).unflatten(-1, (4, 4, 4)) for f in (dictionary.half_spectrum_gram, dictionary.gram))
    difference = torch.fft.rfft2(raw - true)
    assert float(difference[..., 1].abs().max()) < 1e-10
    assert float((raw - true).norm()) > 0.1 * float(true.norm())
    kernels = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    hermitian = torch.view_as_real(torch.fft.rfft2(kernels)).unsqueeze(2)
    dictionary = TokenFourierDictionary(hermitian, torch.randn(3, 2, 4, dtype=torch.float64), (4, 4), (2, 3))
    torch.testing.assert_close(dictionary.half_spectrum_gram(a), dictionary.gram(a))
    torch.testing.assert_close(dictionary.half_spectrum_lipschitz(), dictionary._lipschitz_grid())


@given(height=sizes, width=sizes, up=st.integers(0, 5), right=st.integers(0, 5), seed=st.integers(0, 999))
def test_a_resized_filter_does_to_smooth_images_what_it_did(
    height: int, width: int, up: int, right: int, seed: int
) -> None:
    old, new = (height, width), (height + up, width + right)
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(height, width, dtype=torch.float64, generator=generator)
    spectrum = torch.view_as_real(torch.fft.rfft2(kernel))

    def wave(size: tuple[int, int]) -> Tensor:
        rows = torch.arange(size[0], dtype=torch.float64)[:, None] / size[0]
        columns = torch.arange(size[1], dtype=torch.float64) / size[1]
        down, across = (1 if side > 2 else 0 for side in old)
        return torch.cos(2 * math.pi * (down * rows + across * columns) + 0.3)

    def filtered(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.fft.irfft2(torch.view_as_complex(spectrum.contiguous()) * torch.fft.rfft2(wave(size)), s=size)

    resized = resize_half_spectrum(spectrum, old, new)
    assert resized.shape == (new[0], new[1] // 2 + 1, 2)
    assert float(resized.norm(dim=-1).max()) <= float(spectrum.norm(dim=-1).max())
    # A filter changes the amplitude and the phase of a wave, on either grid. So the test compares the two answers at
    # the origin, which both grids have, and by their mean square.
    before, after = filtered(spectrum, old), filtered(resized, new)
    torch.testing.assert_close(before[0, 0], after[0, 0])
    torch.testing.assert_close(before.square().mean(), after.square().mean(), rtol=1e-9, atol=1e-9)
    back = resize_half_spectrum(resized, new, old)
    torch.testing.assert_close(filtered(back, old), before)


def test_resizing_token_rows_keeps_prefix_rows_and_constant_maps() -> None:
    matrix = torch.cat([torch.tensor([[5.0, 6.0]]), torch.tensor([1.0, -2.0]).expand(9, 2)])
    resized = resize_token_rows(matrix, 1, (3, 3), (5, 4))
    assert resized.shape == (21, 2)
    torch.testing.assert_close(resized[0], matrix[0])
    torch.testing.assert_close(resized[1:], torch.tensor([1.0, -2.0]).expand(20, 2))
    smaller = resize_token_rows(torch.randn(2, 16, 3), 0, (4, 4), (2, 3))
    assert smaller.shape == (2, 6, 3)


@pytest.mark.parametrize("dictionary", ["static", "static+dynamic"])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("prefix", [0, 1, 3, None])
@torch.no_grad()
def test_the_class_token_sees_the_image_and_any_grid_is_fine(dictionary: str, variant: str, prefix: int | None) -> None:
    torch.manual_seed(0)
    options = {"lam": 0.01, "variant": variant, "grid_size": 4, "num_prefix_tokens": prefix}
    layer = VarsAttention(8, 2, dictionary=dictionary, **options).double().eval()
    own = 2 if prefix is None else prefix
    for grid in ((4, 4), (6, 6), (3, 3), (4, 6)):
        x = torch.randn(1, own + math.prod(grid), 8, dtype=torch.float64)
        y = layer(x, grid_size=grid)
        assert y.shape == x.shape
        if own:
            other = x.clone()
            other[:, own + 3] += 1.0
            assert float((layer(other, grid_size=grid) - y)[:, :own].abs().min()) > 1e-7
            other = x.clone()
            other[:, 0] += 1.0
            assert float((layer(other, grid_size=grid) - y)[:, own:].abs().max()) > 1e-7


def test_a_shift_of_the_image_shifts_the_full_size_reconstruction() -> None:
    torch.manual_seed(0)
    variant = Variant(static="full", bound="spectral", normalize_atoms=False)
    layer = VarsAttention(6, 2, dictionary="static", grid_size=(4, 5), num_prefix_tokens=0, lam=0.05, variant=variant)
    image = torch.randn(1, 4, 5, 6)
    shifted = image.roll((1, 2), (1, 2))
    expected = layer(image.flatten(1, 2)).unflatten(1, (4, 5)).roll((1, 2), (1, 2)).flatten(1, 2)
    torch.testing.assert_close(layer(shifted.flatten(1, 2)), expected)


def test_the_stored_bound_starts_exact_and_follows_the_kernel() -> None:
    torch.manual_seed(0)
    layer = VarsAttention(4, 2, dictionary="static", variant="released", grid_size=4, num_prefix_tokens=0)
    power = torch.view_as_complex(layer.kernel.detach()).abs().square().sum((1, 2)).flatten(1).amax(-1)
    torch.testing.assert_close(layer.L, power)
    with torch.no_grad():
        layer.kernel.mul_(2)
    layer.update_bound(momentum=0.25)
    torch.testing.assert_close(layer.L, power * (0.75 + 0.25 * 4))
    assert "L" in layer.state_dict()


@pytest.mark.parametrize(
    ("tokens", "prefix", "grid", "expected"),
    [
        (196, 0, None, (0, (14, 14))),
        (197, None, None, (1, (14, 14))),
        (201, None, None, (5, (14, 14))),
        (201, 5, None, (5, (14, 14))),
        (12, 0, (3, 4), (0, (3, 4))),
        (49, None, (6, 8), (1, (6, 8))),
    ],
)
def test_the_grid_is_found_from_the_number_of_tokens(
    tokens: int, prefix: int | None, grid: tuple[int, int] | None, expected: tuple[int, tuple[int, int]]
) -> None:
    assert grid_tokens(tokens, prefix, grid) == expected


@pytest.mark.parametrize(
    ("tokens", "prefix", "grid"),
    [
        (12, 0, None),
        (17, 0, (4, 4)),
        (1, 1, None),
        (1, None, (1, 2)),
        # Another grid of the layer's aspect ratio would fit, but nothing says that the tokens lie on it.
        (49, 1, (3, 4)),
        (50, None, (3, 4)),
        (5, None, (14, 14)),
        (144, 0, (14, 14)),
    ],
)
def test_tokens_without_a_grid_are_refused(tokens: int, prefix: int | None, grid: tuple[int, int] | None) -> None:
    with pytest.raises(ValueError, match=f"{tokens} tokens came"):
        grid_tokens(tokens, prefix, grid)


@pytest.mark.parametrize(("side", "templates", "steps"), [(5, 3, 4), (6, 5, 2), (3, 1, 3)])
def test_the_released_static_layer_written_out(side: int, templates: int, steps: int) -> None:
    torch.manual_seed(0)
    options = {"grid_size": side, "num_prefix_tokens": 0, "lam": 0.2, "num_steps": steps, "variant": "released"}
    layer = VarsAttention(8, 2, qkv_bias=True, dictionary="static", templates=templates, **options).double().eval()
    with torch.no_grad():
        layer.kernel.mul_(0.7)
        layer.kernel2.mul_(20)
        layer.norm1.bn.running_mean.normal_()
    x = torch.randn(2, side * side, 8, dtype=torch.float64)
    K, filter2 = torch.view_as_complex(layer.kernel)[:, :, 0], torch.view_as_complex(layer.kernel2)[:, 0, 0]
    gram, L = torch.einsum("cihw,cjhw->cijhw", K, K.conj()), layer.L.view(1, 8, 1, 1, 1)
    to, back = torch.fft.rfft2, lambda spectrum: torch.fft.irfft2(spectrum, s=(side, side))
    soft = lambda u, theta: u.sign() * (u.abs() - theta).relu()  # noqa: E731
    b = back(to(layer.v(x).mT.unflatten(-1, (side, side)))[:, :, None] * K)
    a = soft(b, 0.2)
    for _ in range(steps):
        a = soft(a - (back(torch.einsum("cijhw,bcjhw->bcihw", gram, to(a))) - b) / L, 0.2 / L)
    y = back(to(back((to(a) * K.conj()).sum(2))) * filter2).flatten(2)
    torch.testing.assert_close(layer(x), layer.proj(layer.norm1.bn(y).mT))
    assert 0.1 < float((a == 0).double().mean()) < 0.9
