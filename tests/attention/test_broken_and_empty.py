"""Images whose tokens are not finite, and batches without images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.gfnet import GlobalFilter
from vars_dyn.attention import Ode, attention_class
from vars_dyn.attention.spectral import largest_eigenpair, largest_eigenvalue

VARS = ("vars_s", "vars_d", "vars_sd")
SOLVERS = ("ista", "fista", Ode(horizon=0.5), "equilibrium")
CASES = [
    ("softmax", {}),
    ("performer", {}),
    ("crate", {}),
    *((kind, {"solver": solver}) for kind in VARS for solver in SOLVERS),
    *((kind, {"variant": "released"}) for kind in VARS),
]


def layer_of(kind: str, options: dict, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    own = {"grid_size": (2, 3), "num_prefix_tokens": 1, **options} if kind.startswith("vars") else options
    return attention_class(kind, **own)(4, 2, qkv_bias=True, dtype=dtype).eval()


def through(layer: nn.Module, x: Tensor, counted: list[int]) -> tuple[Tensor, Tensor]:
    """The output, and the derivative in the tokens of the squared outputs of the images `counted`."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y[counted].square().sum().backward()
    return y.detach(), x.grad


@pytest.mark.parametrize("entry", [float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_an_image_that_is_not_finite_spoils_itself_alone(kind: str, options: dict, entry: float) -> None:
    layer = layer_of(kind, options)
    x = torch.randn(4, 7, 4, dtype=torch.float64)
    broken, others = x.clone(), [0, 2, 3]
    broken[1, 5, 2] = entry
    y, slope = through(layer, broken, others)
    assert bool(y[1].isnan().all())
    # Adaptive forms choose their steps by the batch, so the test compares them with the batch without the image.
    # Matrix products round by the number of rows, so it compares the other forms with a batch of the same size.
    if options.get("solver") in SOLVERS[2:]:
        expected, expected_slope = through(layer, x[others], [0, 1, 2])
    else:
        expected, expected_slope = (each[others] for each in through(layer, x, others))
    assert torch.equal(y[others], expected)
    assert torch.equal(slope[others], expected_slope)
    _, slope = through(layer, broken, [0, 1, 2, 3])
    assert bool(slope[others].isfinite().all())
    if options.get("solver") != "equilibrium":
        assert bool(layer(torch.full_like(x, entry)).isnan().all())


def test_other_images_of_a_whole_batch_that_is_not_finite() -> None:
    layer = layer_of("vars_d", {"solver": "equilibrium"})
    x = torch.full((2, 7, 4), torch.nan, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert bool(y.isnan().all())
    y.sum().backward()


def test_the_eigenvalue_of_a_matrix_that_is_not_finite_is_nan_and_the_others_stay() -> None:
    gram = torch.randn(5, 4, 4, dtype=torch.float64)
    gram = gram @ gram.mT
    expected = torch.linalg.eigvalsh(gram)[:, -1]
    broken = gram.clone()
    broken[2, 1, 3] = torch.nan
    broken[4, 0, 0] = torch.inf
    rest = [0, 1, 3]
    (value, vector), (alone, alone_vector) = largest_eigenpair(broken), largest_eigenpair(gram[rest])
    assert torch.equal(value[rest], alone)
    assert torch.equal(vector[rest], alone_vector)
    torch.testing.assert_close(alone, expected[rest])
    assert bool(value[[2, 4]].isnan().all())
    value = largest_eigenvalue(broken.requires_grad_())
    torch.testing.assert_close(value[rest], expected[rest])
    assert bool(value[[2, 4]].isnan().all())
    value[rest].sum().backward()
    assert bool(broken.grad.isfinite().all())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_batch_without_images(kind: str, options: dict, dtype: torch.dtype, training: bool) -> None:
    layer = layer_of(kind, options, dtype).train(training)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.zeros(0, 7, 4, dtype=dtype, requires_grad=True)
    y = layer(x)
    assert (y.shape, y.dtype) == ((0, 7, 4), dtype)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_global_filter_of_a_batch_without_images() -> None:
    layer = GlobalFilter(4, (2, 3))
    y = layer(torch.zeros(0, 6, 4, requires_grad=True))
    assert y.shape == (0, 6, 4)
    y.sum().backward()
    assert not layer.complex_weight.grad.any()
