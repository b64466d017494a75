"""Dictionaries: exact adjoints, equal to their matrices written out, with a bound on the norm that is never too low."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.references import Array, matrices
from tests.strategies import KINDS, codes_for, dictionaries, leads, normal, seeds, signals_for
from vars_dyn.dictionaries import convolutional, random_features, union

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def inner(x: Tensor, y: Tensor, event: tuple[int, ...]) -> Tensor:
    return (x * y).flatten(-len(event)).sum(-1)


def squared_norms(P: vd.Dictionary) -> Array:
    """sigma_max^2 of each matrix, by SciPy in float64."""
    return np.array([scipy.linalg.svdvals(m.astype(np.float64))[0] ** 2 for m in matrices(P)])


@every_kind
@given(data=st.data())
def test_decode_is_the_adjoint_of_encode(
    kind: Callable[[], st.SearchStrategy[vd.Dictionary]], data: st.DataObject
) -> None:
    P, lead, seed = data.draw(kind()), data.draw(leads), data.draw(seeds)
    x, a = signals_for(P, seed, lead), codes_for(P, seed + 1, lead)
    code, signal = P.encode(x), P.decode(a)
    assert code.shape == a.shape
    assert signal.shape == x.shape
    scale = (1 + inner(code, code, P.code_shape)).sqrt() * (1 + inner(a, a, P.code_shape)).sqrt()
    assert ((inner(code, a, P.code_shape) - inner(x, signal, P.signal_shape)).abs() <= 1e-12 * scale).all()


@every_kind
@given(data=st.data())
def test_maps_are_linear_and_the_written_matrix(
    kind: Callable[[], st.SearchStrategy[vd.Dictionary]], data: st.DataObject
) -> None:
    P, lead, seed = data.draw(kind()), data.draw(leads), data.draw(seeds)
    x, y, a = signals_for(P, seed, lead), signals_for(P, seed + 1, lead), codes_for(P, seed + 2, lead)
    torch.testing.assert_close(P.encode(2 * x - y), 2 * P.encode(x) - P.encode(y), rtol=0, atol=1e-12)
    torch.testing.assert_close(P.gram(a), P.encode(P.decode(a)), rtol=0, atol=0)
    written = matrices(P)
    shape = (len(written), -1)
    signals = x.numpy().reshape(*shape, P.signal_size)
    np.testing.assert_allclose(P.encode(x).numpy().reshape(*shape, P.code_size), signals @ written, atol=1e-12)
    codes = a.numpy().reshape(*shape, P.code_size)
    decoded = codes @ written.transpose(0, 2, 1)
    np.testing.assert_allclose(P.decode(a).numpy().reshape(*shape, P.signal_size), decoded, atol=1e-12)


@every_kind
@given(data=st.data())
def test_the_lipschitz_bound_is_never_below_the_norm(
    kind: Callable[[], st.SearchStrategy[vd.Dictionary]], data: st.DataObject
) -> None:
    P = data.draw(kind())
    P = P.to(dtype=torch.float32) if data.draw(st.booleans()) else P
    bound = P.lipschitz()
    assert tuple(bound.shape) == P.batch_shape
    assert not bound.requires_grad
    true = squared_norms(P)
    bounds = bound.double().numpy().reshape(-1)
    assert (bounds >= true).all()
    if not isinstance(P, vd.ConvDictionary):
        np.testing.assert_allclose(bounds, true, rtol=1e-12 if P.dtype == torch.float64 else 1e-4)


def test_the_bound_of_a_convolution_is_close() -> None:
    # The trivial bounds, |P|_F^2 and the kernel's 1-norm, are 2 to 200 times too large here, and would fail.
    for stride, tight in [(1, 1.1), (2, 1.15)]:
        P = vd.ConvDictionary(normal(0, 6, 2, 3, 3), (2, 16, 16), stride=stride, padding=1)
        assert squared_norms(P)[0] <= float(P.lipschitz()) <= tight * squared_norms(P)[0]
    for P, tight in [
        (vd.ConvDictionary(normal(1, 6, 2, 5), (2, 200), stride=2, padding=2), 1.1),
        (vd.ConvDictionary(normal(2, 3, 1, 3, 3, 3), (1, 9, 9, 9), stride=(1, 2, 2), padding=1), 1.4),
        (vd.ConvDictionary(normal(3, 4, 1, 3, 3), (1, 16, 16), padding=2, dilation=2), 1.2),
    ]:
        assert squared_norms(P)[0] <= float(P.lipschitz()) <= tight * squared_norms(P)[0]


def test_the_bound_of_a_large_union_is_the_sum_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(union, "_MATRIX_LIMIT", 0)
    shared, batched = vd.DenseDictionary(normal(0, 6, 4)), vd.DenseDictionary(normal(1, 3, 6, 5))
    P = vd.UnionDictionary(shared, batched)
    bound = P.lipschitz().numpy()
    assert (bound >= squared_norms(P)).all()
    np.testing.assert_allclose(bound, squared_norms(shared) + squared_norms(batched), rtol=1e-12)


@pytest.mark.parametrize(
    "P", [vd.DenseDictionary(torch.zeros(3, 4)), vd.ConvDictionary(torch.zeros(2, 1, 2, 2), (1, 3, 3))]
)
def test_a_dictionary_of_zeros_has_norm_zero(P: vd.Dictionary) -> None:
    assert P.lipschitz() == 0


@given(P=strategies.dense(), data=st.data())
def test_dense_is_the_product_with_its_weight(P: vd.DenseDictionary, data: st.DataObject) -> None:
    lead, seed = data.draw(leads), data.draw(seeds)
    W = P.weight.numpy()
    x, a = signals_for(P, seed, lead), codes_for(P, seed, lead)
    np.testing.assert_allclose(P.encode(x), x.numpy() @ W, atol=1e-13)
    np.testing.assert_allclose(P.decode(a), a.numpy() @ W.T, atol=1e-13)
    np.testing.assert_allclose(P.gram(a), a.numpy() @ W.T @ W, atol=1e-12)


def test_a_batched_weight_applies_to_its_own_signals() -> None:
    weight, x = normal(0, 2, 3, 5, 4), normal(1, 2, 3, 6, 5)
    P = vd.DenseDictionary(weight)
    assert (P.batch_shape, P.signal_shape, P.code_shape) == ((2, 3), (5,), (4,))
    code = P.encode(x)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(code[i, j], x[i, j] @ weight[i, j])


def each(value: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else value


@given(P=strategies.conv(), data=st.data())
def test_conv_is_torchs_convolution_and_its_sums_written_out(P: vd.ConvDictionary, data: st.DataObject) -> None:
    lead, seed, dims = data.draw(leads), data.draw(seeds), P.dimensions
    x = signals_for(P, seed, lead)
    convolve = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[dims]
    wanted = convolve(x.reshape(-1, *P.signal_shape), P.weight, None, P.stride, P.padding, P.dilation, P.groups)
    assert wanted.shape[1:] == P.code_shape
    torch.testing.assert_close(P.encode(x), wanted.reshape(*lead, *P.code_shape), rtol=0, atol=1e-13)
    # An atom is its template placed on the signal, without the part beyond the edge.
    templates, channels, *kernel = P.weight.shape
    C, *sides = P.signal_shape
    stride, padding, dilation = (each(v, dims) for v in (P.stride, P.padding, P.dilation))
    padded = np.zeros((*P.code_shape, C, *(n + 2 * p for n, p in zip(sides, padding, strict=True))))
    for m, *place in np.ndindex(*P.code_shape):
        first = m // (templates // P.groups) * channels
        window = tuple(
            slice(s * i, s * i + d * (k - 1) + 1, d) for i, s, k, d in zip(place, stride, kernel, dilation, strict=True)
        )
        padded[(m, *place, slice(first, first + channels), *window)] = P.weight[m].numpy()
    inside = tuple(slice(p, p + n) for n, p in zip(sides, padding, strict=True))
    atoms = padded[(..., slice(None), *inside)].reshape(P.code_size, P.signal_size)
    np.testing.assert_allclose(P.matrix().numpy(), atoms.T, atol=1e-15)


@given(P=strategies.conv())
def test_the_bound_from_few_frequencies_is_one_too(P: vd.ConvDictionary) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutional, "_SPECTRUM", 0)
        assert float(P.lipschitz()) >= squared_norms(P)[0]


def test_the_bound_of_a_long_sound_takes_few_frequencies() -> None:
    P = vd.ConvDictionary(normal(0, 4, 1, 48) / 48**0.5, (1, 6_000), stride=16, padding=24)
    exact = float(P.lipschitz())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutional, "_SPECTRUM", 0)
        patch.setattr(convolutional, "_OVERSAMPLED", 16)
        assert exact * (1 - 1e-9) <= float(P.lipschitz()) <= 1.06 * exact
        # The worst place for a grid: a peak of the spectrum between two of its frequencies.
        wave = torch.cos(2 * math.pi * (5.5 / 96) * torch.arange(7, dtype=torch.float64))
        peaked = vd.ConvDictionary(wave.reshape(1, 1, -1), (1, 4_000))
        patch.setattr(convolutional, "_OVERSAMPLED", 3)
        assert float(peaked.lipschitz()) >= 0.999 * float(torch.fft.fft(wave, 2**16).abs().square().max())


@given(P=strategies.fourier(), seed=seeds)
def test_fourier_is_a_circular_convolution(P: vd.FourierDictionary, seed: int) -> None:
    a = codes_for(P, seed, (2,)).numpy()
    M, *sides = P.code_shape
    channels, axes = P.weight.shape[1], tuple(range(1, P.dimensions + 1))
    signal = np.zeros((2, *P.signal_shape))
    for m in range(M):
        first = m // (M // P.groups) * channels
        for place in np.ndindex(*sides):
            moved = np.roll(P.weight[m].numpy(), place, axis=axes)
            signal[:, first : first + channels] += a[(slice(None), m, *place)][(..., *[None] * len(axes), None)] * moved
    np.testing.assert_allclose(P.decode(torch.from_numpy(a)), signal, atol=1e-12)


@given(P=strategies.fourier(), seed=seeds)
def test_fourier_multiplies_the_full_spectra_of_numpy(P: vd.FourierDictionary, seed: int) -> None:
    x = signals_for(P, seed, (2,)).numpy()
    axes, channels, templates = tuple(range(-P.dimensions, 0)), P.weight.shape[1], P.code_shape[0] // P.groups
    spectra, transformed = np.fft.fftn(P.weight.numpy(), axes=axes), np.fft.fftn(x, axes=axes)
    for m in range(P.code_shape[0]):
        first = m // templates * channels
        product = (spectra[m].conj() * transformed[:, first : first + channels]).sum(1)
        wanted = np.fft.ifftn(product, axes=axes)
        np.testing.assert_allclose(P.encode(torch.from_numpy(x))[:, m], wanted.real, atol=1e-12)


def test_random_features_are_those_of_performers() -> None:
    tokens, projection = normal(0, 2, 5, 3), normal(1, 4, 3)
    q = tokens.numpy() / np.linalg.norm(tokens.numpy(), axis=-1, keepdims=True)
    plain = np.exp(np.einsum("bnc,mc->bnm", q, projection.numpy()) - 0.5) / math.sqrt(4)
    np.testing.assert_allclose(random_features(tokens, projection), plain, rtol=1e-12)
    P = vd.RandomFeatureDictionary(tokens, projection)
    assert (P.batch_shape, P.signal_shape, P.code_shape) == ((2,), (5,), (4,))
    np.testing.assert_allclose(P.weight, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-12)
    raw = vd.RandomFeatureDictionary(tokens, projection, normalize_tokens=False, normalize_atoms=False).weight
    scores = np.einsum("bnc,mc->bnm", tokens.numpy(), projection.numpy())
    squares = (tokens.numpy() ** 2).sum(-1, keepdims=True)
    np.testing.assert_allclose(raw, np.exp(scores - squares / 2) / math.sqrt(4), rtol=1e-12)


def test_random_features_estimate_the_exponential_kernel() -> None:
    tokens = normal(0, 6, 4)
    features = random_features(tokens, normal(1, 200_000, 4))
    q = torch.nn.functional.normalize(tokens, dim=-1)
    torch.testing.assert_close(features @ features.mT, (q @ q.mT).exp(), rtol=0.03, atol=0)


def test_each_head_has_its_own_projection() -> None:
    tokens, projection = normal(0, 2, 3, 5, 4), normal(1, 3, 6, 4)
    together = random_features(tokens, projection)
    for head in range(3):
        torch.testing.assert_close(together[:, head], random_features(tokens[:, head], projection[head]))


def test_gradients_reach_the_tokens_and_the_projection() -> None:
    tokens, projection, x = normal(0, 5, 3), normal(1, 4, 3), normal(2, 2, 5)

    def code(tokens: Tensor, projection: Tensor) -> Tensor:
        return vd.RandomFeatureDictionary(tokens, projection).encode(x)

    assert torch.autograd.gradcheck(code, (tokens.requires_grad_(), projection.requires_grad_()))


def test_a_union_joins_its_parts() -> None:
    image, tokens = vd.ConvDictionary(normal(0, 2, 1, 2, 2), (1, 3, 4)), vd.DenseDictionary(normal(1, 5, 12, 3))
    P = vd.UnionDictionary(image, tokens)
    assert (P.batch_shape, P.signal_shape, P.code_shape) == ((5,), (1, 3, 4), (2 * 2 * 3 + 3,))
    x = normal(2, 5, 2, 1, 3, 4)
    first, second = P.split(P.encode(x))
    torch.testing.assert_close(first, image.encode(x))
    torch.testing.assert_close(second, tokens.encode(x.reshape(5, 2, 12)))
    signal = P.decode(torch.cat([first.flatten(-3), second], -1))
    torch.testing.assert_close(signal, image.decode(first) + tokens.decode(second).reshape(5, 2, 1, 3, 4))


@every_kind
@given(data=st.data())
def test_tensors_can_be_exchanged_moved_and_cut_off(
    kind: Callable[[], st.SearchStrategy[vd.Dictionary]], data: st.DataObject
) -> None:
    P, seed = data.draw(kind()), data.draw(seeds)
    x = signals_for(P, seed)
    code = P.encode(x)
    doubled = P.scaled(torch.tensor(1, dtype=torch.int32))
    torch.testing.assert_close(doubled.encode(x), 2 * code, rtol=1e-12, atol=0)
    torch.testing.assert_close(P.encode(x), code, rtol=0, atol=0)
    single = P.to(dtype=torch.float32)
    assert (single.dtype, P.dtype) == (torch.float32, torch.float64)
    assert single.encode(x.float()).dtype == torch.float32
    torch.testing.assert_close(single.encode(x.float()).double(), code, rtol=1e-4, atol=1e-5)
    followed = P.with_tensors(tuple(t.detach().clone().requires_grad_() for t in P.tensors()))
    gradients = torch.autograd.grad(followed.encode(x).square().sum(), followed.tensors())
    if not isinstance(P, vd.HierarchyDictionary):  # it multiplies two of its tensors
        # |P^T x|^2 is homogeneous of degree 2 in the tensors, so their derivative along themselves is twice its value.
        along = sum(float((g * t).sum()) for g, t in zip(gradients, P.tensors(), strict=True))
        assert along == pytest.approx(2 * float(code.square().sum()), rel=1e-10, abs=1e-14)
    assert not followed.detach().encode(x).requires_grad
    assert followed.encode(x).requires_grad
    assert str(P).startswith(f"{type(P).__name__}(signal_shape={P.signal_shape}, code_shape={P.code_shape}")


@given(P=st.one_of(strategies.batched_dense(), strategies.random_features(), strategies.unions()), data=st.data())
def test_elements_of_a_batch_can_be_selected(P: vd.Dictionary, data: st.DataObject) -> None:
    elements = math.prod(P.batch_shape)
    index = torch.tensor(data.draw(st.lists(st.integers(0, elements - 1), min_size=1, max_size=4)))
    chosen = P.select(index)
    if not P.batch_shape:
        assert chosen is P
        return
    x = signals_for(P, data.draw(seeds), (2,))
    assert chosen.batch_shape == (len(index),)
    flat, code = x.reshape(elements, 2, *P.signal_shape), P.encode(x).reshape(elements, 2, *P.code_shape)
    torch.testing.assert_close(chosen.encode(flat[index]), code[index])
    torch.testing.assert_close(chosen.lipschitz(), P.lipschitz().reshape(-1)[index])


@pytest.mark.parametrize(
    ("P", "shape"),
    [
        (vd.DenseDictionary(normal(0, 4, 3)), (5,)),
        (vd.DenseDictionary(normal(0, 4, 3)), ()),
        (vd.DenseDictionary(normal(0, 2, 4, 3)), (4,)),
        (vd.DenseDictionary(normal(0, 2, 4, 3)), (2, 4)),
        (vd.DenseDictionary(normal(0, 2, 4, 3)), (3, 1, 4)),
        (vd.DenseDictionary(normal(0, 2, 4, 3)), (7, 2, 1, 4)),
        (vd.ConvDictionary(normal(0, 2, 1, 2, 2), (1, 4, 4)), (4, 4)),
        (vd.ConvDictionary(normal(0, 2, 1, 2, 2), (1, 4, 4)), (16,)),
        (vd.ConvDictionary(normal(0, 2, 1, 2, 2), (1, 4, 4)), (2, 4, 4)),
        (vd.FourierDictionary(normal(0, 2, 1, 4, 4)), (1, 4, 5)),
        (vd.UnionDictionary(vd.ConvDictionary(normal(0, 2, 1, 2, 2), (1, 4, 4))), (3, 16)),
    ],
)
def test_signals_of_another_shape_are_refused(P: vd.Dictionary, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^x has shape .* is wanted"):
        P.encode(normal(1, *shape))


def test_codes_of_another_shape_are_refused() -> None:
    P = vd.DenseDictionary(normal(0, 4, 3))
    with pytest.raises(ValueError, match=r"^a has shape \(2, 4\); \(\*any, \*\(3,\)\) is wanted"):
        P.decode(normal(1, 2, 4))
    with pytest.raises(ValueError, match=r"^a has shape"):
        P.gram(normal(1, 2, 4))


def test_nothing_is_converted_in_silence() -> None:
    P = vd.DenseDictionary(normal(0, 4, 3))
    with pytest.raises(ValueError, match=r"^x is torch.float32 but the dictionary is torch.float64"):
        P.encode(normal(1, 4).float())
    with pytest.raises(ValueError, match=r"^a is on meta but the dictionary is on cpu"):
        P.decode(torch.zeros(3, dtype=torch.float64, device="meta"))


def test_finite_entries_whose_sum_overflows_are_taken() -> None:
    weight = torch.full((2, 3), 3e38)
    assert vd.DenseDictionary(weight).tensors()[0] is weight


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vd.DenseDictionary(normal(0, 0, 3)), r"weight has shape \(0, 3\)"),
        (lambda: vd.DenseDictionary(normal(0, 3, 0)), r"weight has shape \(3, 0\)"),
        (lambda: vd.DenseDictionary(torch.tensor([[1.0, math.nan]])), "weight holds NaN or infinite"),
        (lambda: vd.DenseDictionary(torch.tensor([[1.0, math.inf]])), "weight holds NaN or infinite"),
        (lambda: vd.DenseDictionary(torch.tensor([[-math.inf, math.inf]])), "weight holds NaN or infinite"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (2, 8, 8)), "signal_shape is .* for a weight"),
        (lambda: vd.ConvDictionary(normal(0, 3, 1, 3, 3), (2, 8, 8), groups=2), "signal_shape is .* in 2 groups"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (1, 2, 8)), "the 3 x 3 kernel is larger than"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (1, 8, 8), stride=0), "stride is 0"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (1, 8, 8), padding=-1), "padding is -1"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (1, 8, 8), groups=0), "groups is 0"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 0), (1, 8, 8)), r"weight has shape \(2, 1, 3, 0\)"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3), (1, 8, 8)), r"\(1, T\) with M divisible"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3, 3), (1, 8, 8)), r"\(1, T, H, W\) with M divisible"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 2, 2, 2, 2), (1, 4, 4, 4, 4)), "with 1 to 3 dimensions k"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (1, 8, 8), stride=(1, 2, 3)), r"one for each of 2 dim"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (1, 8, 8), padding=(1, -1)), "padding is -1"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3, 3), (1, 8, 8), dilation=0), "dilation is 0"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3), (1, 8), dilation=4), "the 9 kernel is larger than"),
        (lambda: vd.ConvDictionary(normal(0, 2, 1, 3), (1, 0), padding=2), r"signal_shape is \(1, 0\)"),
        (lambda: vd.FourierDictionary(normal(0, 2, 1, 2, 2, 2, 2)), "with 1 to 3 dimensions n"),
        (lambda: vd.FourierDictionary(normal(0, 3, 1, 4, 4), groups=2), "weight has shape .* for 2 groups"),
        (lambda: vd.FourierDictionary(normal(0, 0, 1, 4, 4)), "weight has shape"),
        (lambda: vd.FourierDictionary(normal(0, 2, 1, 4, 4).bfloat16()), "weight is torch.bfloat16"),
        (lambda: vd.FourierDictionary(normal(0, 2, 1, 4, 4)).to(dtype=torch.float16), "weight is torch.float16"),
        (lambda: vd.RandomFeatureDictionary(normal(0, 4, 2), normal(1, 3, 2).float()), "projection is torch.float32"),
        (lambda: vd.RandomFeatureDictionary(torch.full((4, 2), math.nan), torch.ones(3, 2)), "tokens holds NaN"),
        (lambda: vd.UnionDictionary(), "a union of no dictionaries"),
        (
            lambda: vd.UnionDictionary(vd.DenseDictionary(normal(0, 4, 3)), vd.DenseDictionary(normal(0, 5, 3))),
            "the parts have signals of shape",
        ),
        (
            lambda: vd.UnionDictionary(
                vd.DenseDictionary(normal(0, 4, 3)), vd.DenseDictionary(normal(0, 4, 3).float())
            ),
            "one dtype and one device are wanted",
        ),
        (
            lambda: vd.UnionDictionary(vd.DenseDictionary(normal(0, 2, 4, 3)), vd.DenseDictionary(normal(0, 3, 4, 3))),
            "the parts have batch shapes",
        ),
    ],
)
def test_what_makes_no_dictionary_is_refused(make: Callable[[], vd.Dictionary], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@given(P=dictionaries(), seed=seeds)
def test_float32_agrees_to_its_rounding(P: vd.Dictionary, seed: int) -> None:
    a = codes_for(P, seed)
    single = P.to(dtype=torch.float32)
    scale = float(P.lipschitz().max().sqrt()) * float(a.norm()) + 1e-30
    assert float((single.decode(a.float()).double() - P.decode(a)).abs().max()) <= 1e-5 * scale
