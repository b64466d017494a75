"""The compiled form of templates on a grid, alone or beside features, against the plain form and finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vars_dyn.attention import VarsAttention
from vars_dyn.attention.reconstruct import cpu_grid, plain, reconstruct
from vars_dyn.attention.reconstruct.compiled import form, values
from vars_dyn.attention.reconstruct.values import FeatureInputs, GridInputs, Inputs, Steps, UnionInputs

pytest.importorskip("numba")
KINDS = ("static", "static+dynamic")


def drawn(
    seed: int,
    kind: str,
    grid: tuple[int, int],
    sides: tuple[int, int],
    prefix: int,
    dtype: torch.dtype = torch.float64,
    images: int = 3,
) -> tuple[list[Tensor], Inputs]:
    """Leaves, and inputs with 2 heads of 3 channels and 2 templates made of them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = prefix + grid[0] * grid[1]
    shapes = [(images, 2, tokens, 3), (6, 2, *sides), *([(6, prefix, 2)] if prefix else [])]
    shapes += [(images, 2, tokens, 3), (2, 3, 4)] if kind == "static+dynamic" else []
    leaves = [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for s in shapes]
    on_grid = GridInputs(leaves[1], leaves[2] if prefix else None, grid, leaves[0])
    if kind == "static":
        return leaves, on_grid
    return leaves, UnionInputs(FeatureInputs(*leaves[-2:], None, leaves[0]), on_grid)


def slopes(leaves: list[Tensor], y: Tensor) -> list[Tensor]:
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, weight)]


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    sides=st.sampled_from([(1, 1), (3, 3), (5, 3), (3, 5)]),
    prefix=st.integers(0, 2),
    lam=st.sampled_from([1e-3, 0.3]),
    num_steps=st.integers(1, 4),
)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_all_gradients_are_the_plain_forms(
    kind: str, seed: int, grid: tuple[int, int], sides: tuple[int, int], prefix: int, lam: float, num_steps: int
) -> None:
    leaves, inputs = drawn(seed, kind, grid, sides, prefix)
    steps = Steps(lam, num_steps)
    y = reconstruct(inputs, steps)
    assert type(y.grad_fn).__name__ == "_ReconstructBackward"
    for a, b in zip(slopes(leaves, y), slopes(leaves, plain.reconstruct(inputs, steps)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-12 + 1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_their_gradients_are_those_of_finite_differences(kind: str) -> None:
    leaves, _ = drawn(0, kind, (2, 3), (3, 3), 1, images=1)

    def function(*given: Tensor) -> Tensor:
        on_grid = GridInputs(given[1], given[2], (2, 3), given[0])
        union = None if kind == "static" else UnionInputs(FeatureInputs(*given[3:], None, given[0]), on_grid)
        return reconstruct(union or on_grid, Steps(0.05, 3))

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_within_its_rounding(kind: str) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves, inputs = drawn(1, kind, (4, 3), (3, 3), 1, dtype)
        found.append(slopes(leaves, reconstruct(inputs, Steps(0.05, 3))))
        assert found[-1][0].dtype == dtype
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm() / b.norm()) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_worked_on_in_pieces_and_channels_on_threads(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, inputs = drawn(2, kind, (4, 3), (3, 3), 1, images=5)
    whole = slopes(leaves, reconstruct(inputs, Steps(0.05, 3)))
    monkeypatch.setattr(values, "_LENGTH", 50)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        pieces = slopes(leaves, reconstruct(inputs, Steps(0.05, 3)))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(pieces, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_not_finite_leaves_its_neighbours_alone(kind: str) -> None:
    leaves, inputs = drawn(3, kind, (3, 3), (3, 3), 1)
    y = reconstruct(inputs, Steps(0.05, 3)).detach()
    with torch.no_grad():
        leaves[0][1, 0, 4, 0] = torch.nan
        if kind == "static+dynamic":
            leaves[3][1, 1, 2] = torch.nan
    broken = reconstruct(inputs, Steps(0.05, 3)).detach()
    torch.testing.assert_close(broken[[0, 2]], y[[0, 2]], rtol=1e-12, atol=1e-13)
    assert bool(broken[1].isnan().any())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_images_has_gradients_of_zero(kind: str) -> None:
    leaves, inputs = drawn(4, kind, (3, 2), (3, 3), 1, images=0)
    y = reconstruct(inputs, Steps(0.05, 3))
    assert y.shape == (0, 2, 7, 3)
    assert all(float(t.abs().sum()) == 0 for t in torch.autograd.grad(y.sum(), leaves))


def test_what_the_forward_pass_saw_is_what_counts_later() -> None:
    torch.manual_seed(0)
    layer = VarsAttention(8, 2, dictionary="static+dynamic", grid_size=(3, 4), lam=0.05).double()
    x = torch.randn(2, 12, 8, dtype=torch.float64).requires_grad_()
    found = []
    for later in (False, True):
        y = layer.heads(x)
        layer.lam, layer.num_steps = (5.0, 1) if later else (0.05, 3)
        (slope,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_numba_the_other_forms_serve(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, inputs = drawn(5, kind, (3, 3), (3, 3), 1)
    y = reconstruct(inputs, Steps(0.05, 3))
    monkeypatch.setattr(form, "available", lambda: False)
    taken = []
    form_of = {"static": cpu_grid, "static+dynamic": plain}[kind]
    usual = form_of.reconstruct
    monkeypatch.setattr(form_of, "reconstruct", lambda *given: (taken.append(kind), usual(*given))[1])
    torch.testing.assert_close(reconstruct(inputs, Steps(0.05, 3)), y)
    assert taken == [kind]


def test_mixed_dtypes_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, inputs = drawn(6, "static", (3, 3), (3, 3), 0)
    assert isinstance(inputs, GridInputs)
    norm = leaves[1].new_ones(6)
    assert form.suits(inputs, norm)
    assert not form.suits(inputs._replace(kernel=leaves[1].float()), norm)
