"""The LCA layers: their codes, their certificate, their local rule and their gradients."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import vars_dyn as vd
from tests.references import ones
from vars_dyn.learning import LCALayer

KINDS = {1: vd.LCA1d, 2: vd.LCA2d, 3: vd.LCA3d}
SIDES = {1: (11,), 2: (7, 6), 3: (4, 5, 6)}


def layer_of(dimensions: int, seed: int = 0, **options: Any) -> LCALayer:
    torch.manual_seed(seed)
    settings = {"kernel_size": 3, "lambda_": 0.2, "tol": 1e-10, **options}
    return KINDS[dimensions](5, 2, **settings).double()


def inputs_for(layer: LCALayer, count: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = SIDES[layer.dimensions]
    return 3 + torch.randn(count, layer.in_neurons, *sides, generator=generator, dtype=torch.float64)


def competing(P: NDArray[np.float64], x: NDArray[np.float64], lam: float, nonneg: bool) -> NDArray[np.float64]:
    """Where du/dt = P^T x - u - (P^T P - 1) a  comes to rest, in plain Euler steps (Rozell et al. 2008, Eq. 2.1)."""
    u = np.zeros(P.shape[1])
    G = P.T @ P - np.eye(P.shape[1])
    for _ in range(4000):
        a = np.maximum(u - lam, 0) if nonneg else np.sign(u) * np.maximum(np.abs(u) - lam, 0)
        u += 0.1 * (P.T @ x - u - G @ a)
    return np.maximum(u - lam, 0) if nonneg else np.sign(u) * np.maximum(np.abs(u) - lam, 0)


@settings(max_examples=6)
@given(
    dimensions=st.sampled_from([1, 2, 3]),
    nonneg=st.booleans(),
    stride=st.sampled_from([1, 2]),
    pad=st.sampled_from(["same", "valid"]),
    seed=st.integers(0, 99),
)
def test_codes_are_where_the_competing_neurons_rest(
    dimensions: int, nonneg: bool, stride: int, pad: str, seed: int
) -> None:
    layer = layer_of(dimensions, seed, nonneg=nonneg, stride=stride, pad=pad, input_unit_var=False)
    with torch.no_grad():
        found = layer.encode(inputs_for(layer))
    assert found.converged.all()
    dictionary = layer.dictionary(SIDES[dimensions])
    problem = vd.SparseProblem(dictionary.detach(), found.inputs, layer.lambda_, nonnegative=nonneg)
    for one, a in zip(ones(problem), found.acts.flatten(1).numpy(), strict=True):
        rest = competing(one.P, one.x, one.lam, nonneg)
        assert one.objective(a) <= one.objective(rest) + 1e-9 * (one.x @ one.x)
    torch.testing.assert_close(found.recons + found.recon_errors, found.inputs)
    # Both are prepared alike: no mean, and no other change.
    torch.testing.assert_close(found.inputs.flatten(1).mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("pad", ["same", "valid"])
def test_the_local_rule_is_residual_times_code(pad: str) -> None:
    layer = layer_of(2, pad=pad, stride=2, eta=0.3)
    with torch.no_grad():
        found = layer.encode(inputs_for(layer))
    before = layer.weights.detach().clone()
    acts, errors = found.acts.numpy(), found.recon_errors.numpy()
    border = 1 if pad == "same" else 0
    padded = np.pad(errors, ((0, 0), (0, 0), (border, border), (border, border)))
    change = np.zeros(before.shape)
    for n, m, i, j in np.argwhere(acts):
        change[m] += acts[n, m, i, j] * padded[n, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
    change *= 0.3 / (1 + (acts != 0).sum((0, 2, 3)))[:, None, None, None]
    given = layer.update_weights(found.acts, found.recon_errors)
    np.testing.assert_allclose(given.numpy(), change, atol=1e-12)
    moved = before + torch.from_numpy(change)
    moved /= moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(layer.weights.detach(), moved)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_gradients_are_those_of_finite_differences(dimensions: int) -> None:
    layer = layer_of(dimensions, kernel_size=3 if dimensions == 1 else (3, 1), tol=1e-12)
    inputs = inputs_for(layer, 2).requires_grad_()

    def loss() -> torch.Tensor:
        acts = layer(inputs)
        return (acts * torch.linspace(-1, 1, acts.numel()).view_as(acts)).sum()

    loss().backward()
    for tensor in (inputs, layer.weights):
        along = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        with torch.no_grad():
            tensor.add_(along, alpha=1e-6)
            up = loss()
            tensor.add_(along, alpha=-2e-6)
            down = loss()
            tensor.add_(along, alpha=1e-6)
        assert tensor.grad is not None
        slope = float((tensor.grad * along).sum())
        assert abs(slope - float(up - down) / 2e-6) <= 1e-5 * max(1.0, abs(slope))


def test_either_way_of_learning_lowers_the_objective() -> None:
    inputs = inputs_for(layer_of(1), 40)

    def loss(layer: LCALayer) -> torch.Tensor:
        found = layer.encode(inputs)
        misfit = 0.5 * found.recon_errors.square().flatten(1).sum(1)
        return (misfit + layer.lambda_ * found.acts.flatten(1).sum(1)).mean()

    def objective(layer: LCALayer) -> float:
        with torch.no_grad():
            return float(loss(layer))

    local = layer_of(1, tol=1e-3, eta=0.5)
    first = objective(local)
    for _ in range(8):
        with torch.no_grad():
            found = local.encode(inputs)
        local.update_weights(found.acts, found.recon_errors)
    assert objective(local) < 0.97 * first
    by_torch = layer_of(1, tol=1e-4)
    optimizer = torch.optim.SGD(by_torch.parameters(), 0.5)
    for _ in range(8):
        optimizer.zero_grad()
        loss(by_torch).backward()
        optimizer.step()
        by_torch.normalize_weights()
    assert objective(by_torch) < 0.97 * first


def test_inputs_are_prepared_as_asked() -> None:
    layer = layer_of(2, input_zero_mean=True, input_unit_var=True, tol=1e-6)
    inputs = inputs_for(layer)
    inputs[1] = 7.0  # constant: no variance but that of rounding
    with torch.no_grad():
        found = layer.encode(inputs)
    torch.testing.assert_close(found.inputs[0].std(), torch.tensor(1.0, dtype=torch.float64))
    assert (found.inputs[1].abs() < 1e-12).all()
    assert (found.acts[1] == 0).all()
    plain = layer_of(2, input_zero_mean=False, input_unit_var=False, tol=1e-6)
    with torch.no_grad():
        assert torch.equal(plain.encode(inputs).inputs, inputs)
        # One input, and many in two dimensions, are coded as a batch is.
        torch.testing.assert_close(plain(inputs[0]), plain(inputs)[0], atol=1e-2, rtol=0)
        assert plain(inputs.view(3, 1, *inputs.shape[1:])).shape[:2] == (3, 1)
        assert plain(inputs[:0]).shape[0] == 0


def test_a_layer_is_a_module() -> None:
    layer = layer_of(3, tol=1e-4)
    inputs = inputs_for(layer)
    other = layer_of(3, seed=9, tol=1e-4)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        assert torch.equal(other(inputs), layer(inputs))
        assert torch.equal(copy.deepcopy(layer)(inputs), layer(inputs))
    assert "LCA3d(5, 2, kernel_size=(3, 3, 3)" in repr(layer)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel_size": 4}, "odd sides, or pad 'valid', are wanted"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size is (3, 3, 3); an integer, or 2 of them, are wanted"),
        ({"stride": 0}, "stride is 0; an integer of at least 1 is wanted"),
        ({"lambda_": -1.0}, "lambda_ is -1.0; a number above zero is wanted"),
        ({"pad": "full"}, "pad is 'full'; one of same, valid is wanted"),
    ],
)
def test_bad_arguments_are_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="wanted") as caught:
        layer_of(2, **options)
    assert said in str(caught.value)


def test_bad_inputs_are_one_sentence() -> None:
    layer = layer_of(2)
    with pytest.raises(ValueError, match=r"inputs have shape \(3, 3, 7, 6\); \(\*n, 2, H, W\) is wanted"):
        layer(torch.zeros(3, 3, 7, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"inputs is torch\.float32 but weights is torch\.float64"):
        layer(torch.zeros(3, 2, 7, 6))
    with pytest.raises(ValueError, match="acts has shape"):
        layer.update_weights(torch.zeros(1, 5, 2, 2, dtype=torch.float64), torch.zeros(1, 2, 7, 6, dtype=torch.float64))
