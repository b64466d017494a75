"""Second derivatives of the layers, by create_graph and by torch.func, against central differences of first ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from vars_dyn.attention import Variant, VarsAttention
from vars_dyn.attention import autograd as written_out
from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.reconstruct import cpu_grid, plain, reconstruct
from vars_dyn.attention.reconstruct.values import FeatureInputs, GridInputs, Steps
from vars_dyn.attention.spectral import largest_eigenvalue

KINDS = {
    "dynamic": {"dictionary": "dynamic"},
    "static": {"dictionary": "static"},
    "static+dynamic": {"dictionary": "static+dynamic"},
    "static+dynamic, full": {"dictionary": "static+dynamic", "grid_size": 2, "variant": Variant(static="full")},
    "released dynamic": {"dictionary": "dynamic", "variant": "released"},
    "released static": {"dictionary": "static", "grid_size": 2, "variant": "released", "lam": 0.3},
    "released static+dynamic": {"dictionary": "static+dynamic", "grid_size": 2, "variant": "released"},
}
Given = tuple[Tensor, ...]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer_of(kind: str, seed: int = 0, **options: object) -> VarsAttention:
    torch.manual_seed(seed)
    sizes = {"qkv_bias": True, "num_prefix_tokens": 1, "lam": 0.05}
    return VarsAttention(4, 2, **{**sizes, **KINDS[kind], **options}).double().eval()


def loss_of(layer: VarsAttention, x: Tensor) -> tuple[Callable[..., Tensor], Given]:
    """A loss that is not quadratic in the layer's output, as a function of tokens, parameters and random features."""
    names, values = zip(*layer.named_parameters(), strict=True)
    if hasattr(layer, "rand_matrix"):
        names, values = (*names, "rand_matrix"), (*values, layer.rand_matrix)
    weight = draw(99, *x.shape)

    def loss(*given: Tensor) -> Tensor:
        y = torch.func.functional_call(layer, dict(zip(names, given[1:], strict=True)), given[0])
        return (weight * y.sin()).sum()

    return loss, (x, *(v.detach() for v in values))


@pytest.fixture
def held_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep L at its first value for variants that hold L constant, so that differences hold it constant too."""
    usual, seen = plain.lipschitz, []

    def lipschitz(dictionary: TokenDictionary, steps: Steps) -> Tensor:
        if steps.variant.differentiate_bound:
            return usual(dictionary, steps)
        if not seen:
            seen.append(usual(dictionary, steps).detach())
        return seen[0]

    monkeypatch.setattr(plain, "lipschitz", lipschitz)


def gradients(loss: Callable[..., Tensor], given: Given, create_graph: bool = False) -> tuple[Given, Given]:
    """Fresh leaves, and the loss's derivatives in them."""
    leaves = tuple(t.detach().clone().requires_grad_() for t in given)
    return leaves, torch.autograd.grad(loss(*leaves), leaves, create_graph=create_graph)


def differences(loss: Callable[..., Tensor], given: Given, along: Given, step: float = 1e-5) -> Given:
    """The second derivatives along a direction, by central differences of fourth order in the step."""

    def at(size: float) -> Given:
        return gradients(loss, tuple(t + size * d for t, d in zip(given, along, strict=True)))[1]

    near, far = (at(step), at(-step)), (at(2 * step), at(-2 * step))
    return tuple((8 * (a - b) - (c - d)) / (12 * step) for a, b, c, d in zip(*near, *far, strict=True))


def check(found: Given, wanted: Given, rtol: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            a.detach(), b.detach(), rtol=rtol, atol=rtol * (1e-3 + float(b.detach().abs().max()))
        )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("held_bounds")
def test_second_derivatives_are_those_of_central_differences_and_of_torch_func(kind: str, seed: int) -> None:
    loss, given = loss_of(layer_of(kind, seed), draw(seed, 2, 5, 4))
    along = tuple(draw(7 + i, *t.shape) for i, t in enumerate(given))
    _, first = gradients(loss, given)
    leaves, slopes = gradients(loss, given, create_graph=True)
    check(slopes, first, 1e-11)
    second = torch.autograd.grad(sum((s * d).sum() for s, d in zip(slopes, along, strict=True)), leaves)
    assert all(float(t.norm()) > 0 for t in second)
    check(second, differences(loss, given, along), 1e-6)
    every = tuple(range(len(given)))
    found, forward = torch.func.jvp(torch.func.grad(loss, every), given, along)
    check(found, first, 1e-11)
    check(forward, second, 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_ways_to_jacobians_and_hessians_agree(kind: str) -> None:
    layer, x = layer_of(kind), draw(0, 1, 5, 4)
    loss = lambda x: layer(x).sin().sum()  # noqa: E731
    slopes, curves = torch.func.jacrev(layer)(x), torch.func.hessian(loss)(x)
    assert min(float(slopes.detach().norm()), float(curves.detach().norm())) > 0
    for many in (False, True):
        check((jacobian(layer, x, vectorize=many), hessian(loss, x, vectorize=many)), (slopes, curves), 1e-10)
    check((torch.func.jacfwd(layer)(x), torch.func.jacrev(torch.func.jacrev(loss))(x)), (slopes, curves), 1e-10)
    check((torch.func.vmap(layer)(x.unsqueeze(1)).squeeze(1),), (layer(x),), 1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_third_derivatives_are_those_of_torch_func(seed: int) -> None:
    layer, leaf, along = layer_of("dynamic", seed), draw(seed, 1, 5, 4).requires_grad_(), draw(8, 1, 5, 4)
    plain = loss = lambda x: layer(x).sin().sum()
    found = loss(leaf)
    for _ in range(3):
        plain = lambda x, inner=plain: torch.func.jvp(inner, (x,), (along,))[1]  # noqa: E731
        found = (torch.autograd.grad(found, leaf, create_graph=True)[0] * along).sum()
    torch.testing.assert_close(found.detach(), plain(leaf.detach()).detach(), rtol=1e-7, atol=1e-9)


STEPS = Steps(0.05, 3)


def step_of(image: Tensor, b: Tensor, step: Callable[..., Tensor]) -> Tensor:
    """A step whose inputs all depend on the image or on b, so that second derivatives mix them."""
    return step(b.sin(), image, b, 2 + image.square().mean((-2, -1), keepdim=True), 0.3)


def on_tokens(q: Tensor, written: bool) -> Tensor:
    projection = q.mean((0, 2))[..., None] * draw(3, 1, 2, 3)
    static = torch.nn.functional.normalize(q.mean(0).cos()[..., :1], dim=-2)
    v = q.square() + projection.sum()
    return reconstruct(FeatureInputs(q, projection, static, v), STEPS, "fastest" if written else "plain")


def on_grid(x: Tensor, written: bool) -> Tensor:
    kernel = x.mean((0, 1))[:, None, None, None] + draw(4, 2, 3, 3, 3)
    rows = kernel.sum((-2, -1)).unsqueeze(1)
    norm = kernel.square().sum((1, 2, 3)) * 9
    if written:
        return cpu_grid.reconstruct(GridInputs(kernel, rows, (2, 2), x.unsqueeze(1)), norm, STEPS).squeeze(1)
    return plain.on_grid(x, kernel, rows, norm, (2, 2), STEPS.lam, STEPS.num_steps)


def of_step(b: Tensor, written: bool) -> Tensor:
    return step_of(b @ draw(5, 3, 3), b, written_out.soft_step if written else written_out._plain_step)


FUNCTIONS = {"on tokens": (on_tokens, (2, 2, 5, 2)), "on a grid": (on_grid, (2, 5, 2)), "step": (of_step, (2, 3, 3))}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_that_are_made_from_one_another_are_counted_once(name: str) -> None:
    form, shape = FUNCTIONS[name]
    x, along = draw(1, *shape), draw(2, *shape)
    written, plain = (lambda x, w=w: form(x, w).sin().sum() for w in (True, False))
    slope, curve = torch.func.jvp(torch.func.grad(plain), (x,), (along,))
    for create_graph in (False, True):
        (leaf,), (found,) = gradients(written, (x,), create_graph)
        check((found,), (slope,), 1e-10)
    check(torch.autograd.grad((found * along).sum(), leaf), (curve,), 1e-8)
    check(differences(written, (x,), (along,)), (curve,), 1e-6)


def test_second_derivatives_under_autocast_stay_in_full_precision() -> None:
    projection, found = draw(1, 2, 2, 3).float(), []
    for half in (False, True):
        q = draw(0, 2, 2, 5, 2).float().requires_grad_()
        y = reconstruct(FeatureInputs(q, projection, None, q.square()), STEPS)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            (slope,) = torch.autograd.grad(y.sin().sum(), q, create_graph=True)
        found.append((slope, *torch.autograd.grad(slope.square().sum(), q)))
    check(found[1], found[0], 1e-4)


@pytest.mark.parametrize("kind", ["dynamic", "static", "static+dynamic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_matrices_of_low_rank_have_second_derivatives(kind: str, dtype: torch.dtype) -> None:
    for seed in range(10):
        layer, x = layer_of(kind, seed).to(dtype), draw(seed, 2, 5, 4).to(dtype)
        x[0] = x[0, :1]
        leaf = x.requires_grad_()
        (slope,) = torch.autograd.grad(layer(leaf).sin().sum(), leaf, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), [leaf, *layer.parameters()], allow_unused=True)
        assert all(bool(torch.isfinite(t).all()) for t in second if t is not None)


def test_the_largest_eigenvalues_derivatives_with_equal_eigenvalues_below() -> None:
    gram, along = torch.diag(torch.tensor([1.0, 1.0, 3.0, 0.0], dtype=torch.float64)), draw(1, 4, 4)
    along = along + along.mT
    lowered = lambda t: torch.linalg.eigvalsh(gram + t * along)[-1]  # noqa: E731
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(largest_eigenvalue(gram + t * along), t, create_graph=True)
    (second,) = torch.autograd.grad(first, t, create_graph=True)
    (third,) = torch.autograd.grad(second, t)
    # Perturbation theory: L' = w . A w and L'' = 2 sum_i (w_i . A w)^2 / (L - l_i), with eigenvectors w and w_i.
    assert float(first.detach()) == pytest.approx(float(along[2, 2]), rel=1e-12)
    rest, gaps = [0, 1, 3], torch.tensor([2.0, 2.0, 3.0])
    assert float(second.detach()) == pytest.approx(2 * float((along[rest, 2] ** 2 / gaps).sum()), rel=1e-12)
    h = 1e-2
    by_steps = (lowered(2 * h) - 2 * lowered(h) + 2 * lowered(-h) - lowered(-2 * h)) / (2 * h**3)
    assert float(third) == pytest.approx(float(by_steps), rel=2e-2)
