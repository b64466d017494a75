"""VARS attention: the iteration it takes, the problem it solves, its symmetries and its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vars_dyn import solve
from vars_dyn.attention import Equilibrium, Ode, Variant, VarsAttention
from vars_dyn.attention.dictionaries.features import FeatureDictionary
from vars_dyn.attention.dictionaries.union import TokenUnion
from vars_dyn.attention.reconstruct import plain

KINDS = ("dynamic", "static", "static+dynamic")


def layer_of(dictionary: str, seed: int = 0, dim: int = 8, heads: int = 2, **options: object) -> VarsAttention:
    torch.manual_seed(seed)
    if options.get("variant") == "released":
        options.setdefault("grid_size", 3)
    return VarsAttention(dim, heads, qkv_bias=True, dictionary=dictionary, **options).double()


def tokens_of(seed: int = 0, batch: int = 2, count: int = 9, dim: int = 8) -> Tensor:
    return torch.randn(batch, count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gelu(v: np.ndarray) -> np.ndarray:
    return v * (1 + erf(v / math.sqrt(2))) / 2


def recursion(
    matrix: np.ndarray,
    v: np.ndarray,
    lam: float,
    norm: float,
    steps: int,
    released: dict[str, np.ndarray] | None = None,
) -> np.ndarray:
    """ISTA on one signal: the paper's form, or with the K, lam and L factors of `released` and the gelu gate."""
    gram, b, scale = matrix.T @ matrix, matrix.T @ v, 1.0
    gate = lambda u, theta: np.sign(u) * np.maximum(np.abs(u) - theta, 0)  # noqa: E731
    a = b
    if released is not None:
        k, scale = released["learned_k"], float(released["learned_L"][0])
        gram, lam = k @ gram @ k, lam * float(released["learned_lam"][0])
        gate = lambda u, theta: np.sign(u) * gelu(np.abs(u) - theta)  # noqa: E731
        a = gate(b, lam)
    for _ in range(steps):
        a = gate(a - (gram @ a - b) * scale / norm, lam * scale / norm)
    return matrix @ a


# The released static layer's Gram map is not P^T P. test_static.py and tests/models/test_released.py test that one.
@pytest.mark.parametrize(
    ("dictionary", "variant"),
    [*((kind, "paper") for kind in KINDS), ("dynamic", "released"), ("static+dynamic", "released")],
)
def test_k_steps_are_the_plain_recursion(dictionary: str, variant: str) -> None:
    layer, x = layer_of(dictionary, variant=variant, num_prefix_tokens=0, num_steps=4, lam=0.05), tokens_of()
    learned = None
    if variant == "released":
        with torch.no_grad():
            layer.learned_k.add_(0.1 * torch.randn_like(layer.learned_k))
            layer.learned_lam.fill_(0.7)
            layer.learned_L.fill_(0.8)
        learned = {name: value.detach().numpy() for name, value in layer.named_parameters() if "learned" in name}
    dictionary_, signal = layer.reconstruction(x)
    matrices, out = dictionary_.matrix().detach().numpy(), layer.heads(x).mT.detach().numpy()
    v = layer.by_head(signal).detach().numpy()
    for index in np.ndindex(2, 2, 4):
        matrix = matrices[index[: matrices.ndim - 2]]
        if variant == "released":
            norm = np.abs(matrix.T @ matrix).sum(1).max() + 1
        elif dictionary == "dynamic":
            norm = np.linalg.norm(matrix, 2) ** 2
        else:
            norm = float(plain.lipschitz(dictionary_, layer.steps)[index].detach())
            assert norm >= np.linalg.norm(matrix, 2) ** 2 * (1 - 1e-12)
        expected = recursion(matrix, v[index], 0.05, norm, 4, learned)
        np.testing.assert_allclose(out[index], expected, rtol=1e-9, atol=1e-11)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 12), heads=st.sampled_from([1, 2, 4]))
def test_vars_d_is_permutation_equivariant(seed: int, count: int, heads: int) -> None:
    layer, x = layer_of("dynamic", seed, heads=heads), tokens_of(seed, count=count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dictionary", KINDS)
def test_images_do_not_mix(dictionary: str) -> None:
    layer, x = layer_of(dictionary), tokens_of(batch=3)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", ["ista", "fista"])
@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_vars_d_at_many_steps_is_the_certified_solution(seed: int, solver: str) -> None:
    layer = layer_of("dynamic", seed, num_steps=3000, lam=0.2, solver=solver, feature_ratio=0.5)
    with torch.no_grad():
        problem, code = layer.problem(tokens_of(seed)), layer.solve(*layer.reconstruction(tokens_of(seed)))
        solution = solve(problem, tol=1e-10)
    assert bool(solution.converged.all())
    assert float(problem.relative_gap(code).max()) < 1e-9
    torch.testing.assert_close(code, solution.code, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", ["ista", "fista"])
@pytest.mark.parametrize("dictionary", ["static", "static+dynamic"])
def test_many_steps_approach_the_certified_solution(dictionary: str, solver: str) -> None:
    layer, x = layer_of(dictionary, num_steps=1200 if solver == "ista" else 400, lam=0.3, solver=solver), tokens_of()
    with torch.no_grad():
        problem, code = layer.problem(x), layer.solve(*layer.reconstruction(x))
        solution = solve(problem, tol=1e-10)
        gap = problem.gap(code)
        assert bool(solution.converged.all())
        assert float(problem.relative_gap(code).max()) < 1e-3
        # 1/2 |P a - P a*|^2 <= E(a) - E(a*) <= gap
        difference = problem.dictionary.decode(code - solution.code).square().sum(-1)
        assert bool((difference <= 2 * gap * (1 + 1e-6) + 1e-12).all())
        assert bool((problem.objective(solution.code) <= problem.objective(code) + 1e-12).all())


@pytest.mark.parametrize("bound", ["spectral", "row_sum"])
@pytest.mark.parametrize("dictionary", KINDS)
def test_each_step_lowers_the_objective(dictionary: str, bound: str) -> None:
    layer = layer_of(dictionary, num_steps=12, lam=0.1, variant=Variant(bound=bound))
    x, iterates = tokens_of(), []
    with torch.no_grad():
        layer.solve(*layer.reconstruction(x), iterates)
        values = torch.stack([layer.problem(x).objective(a) for a in iterates])
    assert len(iterates) == 13
    assert bool((values.diff(dim=0) <= 1e-12).all())
    assert float((values[0] - values[-1]).min()) > 0


@pytest.mark.parametrize("dictionary", KINDS)
def test_gradients_agree_with_finite_differences_through_l_too(dictionary: str) -> None:
    layer = layer_of(dictionary, dim=4, lam=0.05, feature_ratio=1.5)
    x = tokens_of(count=5, dim=4).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()), eps=1e-6, atol=1e-5)


def test_the_released_form_holds_l_constant_in_the_gradient() -> None:
    x = tokens_of()
    grads = []
    for differentiate in (True, False):
        layer = layer_of("dynamic", lam=0.05, variant=Variant(differentiate_bound=differentiate))
        layer(x).square().sum().backward()
        grads.append(layer.qkv.weight.grad)
    assert float((grads[0] - grads[1]).norm()) > 1e-3 * float(grads[0].norm())
    layer = layer_of("dynamic", variant="released")
    assert not plain.lipschitz(layer.reconstruction(x)[0], layer.steps).requires_grad


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self.seen.add(tuple(value.shape))
        return out


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_nothing_n_by_n_is_formed_in_vars_d(variant: str) -> None:
    layer, x = layer_of("dynamic", variant=variant), tokens_of(count=97)
    with Shapes() as shapes:
        layer(x).sum().backward()
    assert {(2, 2, 97, 8), (4, 97, 8)} & shapes.seen
    assert not [shape for shape in shapes.seen if math.prod(shape) >= 97 * 97 or shape.count(97) > 1]


def test_the_static_block_of_the_gram_matrix_is_formed_once_for_all_images() -> None:
    layer, x = layer_of("static+dynamic", variant="released", num_prefix_tokens=0), tokens_of(batch=5)
    calls: list[tuple[int, ...]] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.bmm.default and tuple(args[0].shape[1:]) == (8, 9):
                calls.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    dictionary, _ = layer.reconstruction(x)
    with torch.no_grad(), Products():
        gram = dictionary.gram_matrix()
    assert sorted(calls) == [(2, 8, 9), (10, 8, 9), (10, 8, 9)]
    torch.testing.assert_close(gram, dictionary.weight.mT @ dictionary.weight)


@pytest.mark.parametrize("dictionary", KINDS)
def test_half_precision_is_kept_out_of_features_gram_and_threshold(dictionary: str) -> None:
    torch.manual_seed(0)
    layer, x = VarsAttention(16, 2, dictionary=dictionary), torch.randn(2, 9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        parts, signal = layer.reconstruction(x)
        out = layer.heads(x.bfloat16())
        code = layer.solve(parts, signal)
    assert all(tensor.dtype == torch.float32 for tensor in (*parts.tensors(), signal))
    assert code.dtype == torch.float32
    torch.testing.assert_close(out.float(), layer.heads(x), rtol=0.05, atol=0.05)
    half = layer.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert bool(torch.isfinite(half).all())


def test_vars_sd_joins_both_dictionaries() -> None:
    layer, x = layer_of("static+dynamic"), tokens_of()
    parts = layer.reconstruction(x)[0]
    assert isinstance(parts, TokenUnion)
    assert parts.batch_shape == (2, 2, 4)
    released = layer_of("static+dynamic", variant="released", num_prefix_tokens=0).reconstruction(x)[0]
    assert isinstance(released, FeatureDictionary)
    assert released.code_shape == (16,)
    torch.testing.assert_close(released.weight.norm(dim=-2), torch.ones(2, 2, 16, dtype=torch.float64))


def test_a_large_lam_gives_the_bias_alone() -> None:
    for dictionary in KINDS:
        layer = layer_of(dictionary, lam=1e3)
        torch.testing.assert_close(layer(tokens_of()), layer.proj.bias.expand(2, 9, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dictionary": "sparse"}, "dictionary is 'sparse'"),
        ({"num_heads": 3}, "num_heads 3"),
        ({"lam": -1.0}, "lam is -1.0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"solver": "newton"}, "solver is 'newton'"),
        ({"variant": "mine"}, "variant is 'mine'"),
        ({"dictionary": "static", "kernel_size": 4}, "kernel_size is 4"),
        ({"dictionary": "static", "variant": "released"}, "grid_size is None"),
        ({"dictionary": "static", "num_prefix_tokens": -1}, "num_prefix_tokens is -1"),
        ({"variant": Variant(bound="stored")}, "variant.bound is 'stored'"),
        ({"dictionary": "static+dynamic", "variant": Variant(learned_metric=True)}, "learned_metric is True"),
        ({"qk_norm": True}, "norm_layer is None"),
        ({"feature_ratio": 0.0}, "feature_ratio is 0"),
        ({"grid_size": (2, 0)}, "grid_size is 0"),
        ({"lam": math.nan}, "lam is nan"),
        ({"lam": math.inf}, "lam is inf"),
        ({"num_steps": -3}, "num_steps is -3"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"attn_drop": 2.0}, "attn_drop is 2.0; a number from 0 to 1"),
        ({"proj_drop": -0.1}, "proj_drop is -0.1"),
        ({"proj_drop": math.nan}, "proj_drop is nan"),
        ({"templates": 0}, "templates is 0"),
        ({"feature_ratio": 1e30}, "feature_ratio is 1e\\+30"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VarsAttention(8, **{"num_heads": 2, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ode(rtol=-1.0), "solver.rtol is -1.0"),
        (lambda: Ode(atol=math.nan), "solver.atol is nan"),
        (lambda: Ode(gap=0.0), "solver.gap is 0.0"),
        (lambda: Equilibrium(tol=math.nan), "solver.tol is nan"),
    ],
)
def test_bad_settings_of_solvers_are_told(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_layer_cannot_do_is_said() -> None:
    x = tokens_of()
    layer = layer_of("dynamic")
    for mask in ({"attn_mask": torch.zeros(9, 9)}, {"is_causal": True}):
        with pytest.raises(ValueError, match="forms no token-by-token"):
            layer(x, **mask)
    with pytest.raises(ValueError, match="only a soft threshold"):
        layer_of("dynamic", variant="released").problem(x)
    with pytest.raises(ValueError, match="8 tokens came"):
        layer_of("static", num_prefix_tokens=0)(x[:, :8])
    with pytest.raises(ValueError, match="only 'stored'"):
        layer.update_bound()
    with pytest.raises(TypeError, match="no argument bogus"):
        VarsAttention(8, 2, bogus=1)
