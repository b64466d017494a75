"""The ODE and its equilibrium as a layer: the same answer, and every gradient mode against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vars_dyn import solve
from vars_dyn.attention import Equilibrium, Ode, Variant, VarsAttention, look_inside
from vars_dyn.integration import gradients

KINDS = ("dynamic", "static", "static+dynamic")
TIGHT = {"horizon": 1.0, "rtol": 1e-8, "atol": 1e-10}


def layer_of(dictionary: str = "dynamic", dim: int = 4, **options: object) -> VarsAttention:
    torch.manual_seed(0)
    sizes = {"feature_ratio": 1.0, "templates": 1, "num_prefix_tokens": 0, "lam": 0.3}
    return VarsAttention(dim, 2, qkv_bias=True, dictionary=dictionary, **{**sizes, **options}).double()


def tokens_of(count: int = 4, dim: int = 4) -> Tensor:
    return torch.randn(2, count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("field", ["sparse_recurrent", "reduced"])
@pytest.mark.parametrize("dictionary", KINDS)
def test_a_long_integration_ends_at_the_equilibrium(dictionary: str, field: str) -> None:
    x = tokens_of()
    at_rest = layer_of(dictionary, solver="equilibrium")
    integrated = layer_of(dictionary, solver=Ode(field=field, horizon=2000.0, method="rkc", rtol=1e-5, gap=1e-9))
    with torch.no_grad():
        code = at_rest.solve(*at_rest.reconstruction(x))
        certificate = solve(at_rest.problem(x), tol=1e-10)
        torch.testing.assert_close(code, certificate.code, rtol=0, atol=1e-7)
        assert float(at_rest.problem(x).relative_gap(code).max()) < 1e-8
        torch.testing.assert_close(integrated(x), at_rest(x), rtol=0, atol=1e-3)


def test_more_time_comes_nearer() -> None:
    x, rest = tokens_of(), layer_of(solver="equilibrium")
    with torch.no_grad():
        errors = [float((layer_of(solver=Ode(horizon=t))(x) - rest(x)).norm()) for t in (0.5, 3.0, 30.0)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


MODES = {
    "backprop": Ode(gradient="backprop", **TIGHT),
    "checkpoint": Ode(gradient="checkpoint", **TIGHT),
    "adjoint": Ode(gradient="adjoint", **TIGHT),
    "reduced": Ode(field="reduced", **TIGHT),
    "implicit": Equilibrium(tol=1e-12),
}
CASES = [(mode, "dynamic") for mode in MODES] + [(m, d) for m in ("reduced", "implicit") for d in KINDS[1:]]


@pytest.mark.parametrize(("mode", "dictionary"), CASES)
def test_every_gradient_mode_against_finite_differences(mode: str, dictionary: str) -> None:
    layer, x = layer_of(dictionary, solver=MODES[mode]), tokens_of()
    weight = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loss = lambda: (layer(x) * weight).sum()  # noqa: E731
    loss().backward()
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in layer.parameters()]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(layer.parameters(), directions, strict=True))

    def moved(by: float) -> float:
        with torch.no_grad():
            for p, d in zip(layer.parameters(), directions, strict=True):
                p.add_(d, alpha=by)
            value = float(loss())
            for p, d in zip(layer.parameters(), directions, strict=True):
                p.sub_(d, alpha=by)
            return value

    # Steps cross kinks at inexact times. This gives the gradient of an unsettled state an error of about sqrt(rtol).
    assert slope == pytest.approx((moved(1e-4) - moved(-1e-4)) / 2e-4, rel=1e-2, abs=1e-3)


def test_names_gradients_and_settings_are_taken() -> None:
    assert layer_of(solver="ode", gradient="adjoint").solver == Ode(gradient="adjoint")
    assert layer_of(solver="equilibrium", gradient="checkpoint").solver == Equilibrium(gradient="checkpoint")
    assert layer_of(solver=Ode(horizon=3.0), gradient=gradients.Checkpoint()).solver.horizon == 3.0
    assert layer_of(solver="fista", gradient="backprop").solver == "fista"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "ista", "gradient": "implicit"}, "backpropagated through"),
        ({"solver": "ode", "gradient": "implicit"}, "not a trajectory"),
        ({"solver": "equilibrium", "gradient": "exact"}, "gradient is 'exact'"),
        ({"solver": "ode", "variant": Variant(threshold="gelu")}, "only a soft threshold"),
        ({"solver": "equilibrium", "variant": "released"}, "only a soft threshold"),
    ],
)
def test_what_does_not_fit_is_refused_at_construction(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_of(**options)
    with pytest.raises(ValueError, match=r"solver\.horizon is 0"):
        Ode(horizon=0.0)


@pytest.mark.parametrize("solver", ["ode", "equilibrium"])
def test_half_precision_outside_stays_outside(solver: str) -> None:
    layer, x = layer_of(solver=solver).float(), tokens_of().float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.float().sum().backward()
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    assert bool(torch.isfinite(layer.qkv.weight.grad).all())


def test_the_inside_of_a_solved_layer_is_its_solution() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = layer_of(solver="equilibrium")

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(x.flatten(2).mT)

    view = look_inside(Model(), torch.randn(1, 4, 2, 2, dtype=torch.float64))["attn"]
    assert view.maps.shape == (1, 1, 2, 2, 2)
    assert float(view.relative_gap.max()) < 1e-8
