"""Which form of the reconstruction is chosen in each case, and that each form equals the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vars_dyn.attention import Variant, VarsAttention
from vars_dyn.attention.reconstruct import cpu_features, cpu_grid, plain, reconstruct
from vars_dyn.attention.reconstruct.compiled import form as compiled
from vars_dyn.attention.reconstruct.values import FeatureInputs, Steps

FULL = Variant(static="full")
#: Options of a layer, and the form that is chosen for them on the CPU, with numba.
FORMS = [
    ({"dictionary": "dynamic"}, cpu_features),
    ({"dictionary": "static"}, compiled),
    ({"dictionary": "static+dynamic", "variant": FULL}, cpu_features),
    ({"dictionary": "static+dynamic"}, compiled),
    ({"dictionary": "static", "variant": FULL}, plain),
    ({"dictionary": "dynamic", "variant": "released"}, plain),
    ({"dictionary": "static", "variant": "released"}, plain),
    ({"dictionary": "static", "variant": Variant(bound="row_sum")}, plain),
    ({"dictionary": "dynamic", "variant": Variant(normalize_atoms=False)}, plain),
    ({"dictionary": "dynamic", "solver": "fista"}, plain),
    ({"dictionary": "dynamic", "solver": "equilibrium"}, plain),
    ({"dictionary": "dynamic", "lam": 0.0}, plain),
    ({"dictionary": "dynamic", "attn_drop": 0.5}, plain),
]


def layer_of(options: dict[str, object]) -> VarsAttention:
    torch.manual_seed(0)
    sizes = {"grid_size": (3, 4), "num_prefix_tokens": 1, "lam": 0.05}
    return VarsAttention(8, 2, qkv_bias=True, **{**sizes, **options}).double()


def tokens() -> Tensor:
    return torch.randn(2, 13, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("options", "form"), FORMS, ids=str)
def test_a_layer_is_computed_by_the_form_made_for_it(
    options: dict[str, object], form: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = layer_of(options), tokens()
    taken = []
    for each in (cpu_features, cpu_grid, compiled, plain):
        usual = each.reconstruct
        monkeypatch.setattr(
            each, "reconstruct", lambda *given, own=each, usual=usual: (taken.append(own), usual(*given))[1]
        )
    layer.heads(x)
    assert taken == [form]
    layer.form = "plain"
    layer.heads(x)
    assert taken[1:] == [plain]


@pytest.mark.parametrize(("options", "form"), [(o, f) for o, f in FORMS if f is not plain], ids=str)
def test_the_plain_form_on_request_gives_the_same(options: dict[str, object], form: object) -> None:
    layer, x = layer_of(options), tokens().requires_grad_()
    found = []
    for name in ("fastest", "plain"):
        layer.form = name
        y = layer(x)
        found.append([y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * float(b.abs().max()))


def test_the_layer_is_not_asked_again_in_the_backward_pass() -> None:
    """Second derivatives are those at the values that the forward pass saw."""
    layer, x = layer_of({"dictionary": "dynamic", "attn_drop": 0.5}).eval(), tokens().requires_grad_()
    found = []
    for later in (False, True):
        layer.eval()
        y = layer.heads(x)
        if later:
            layer.train().lam = 5.0
        (slope,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
        layer.lam = 0.05
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_penalty_that_is_learned_has_a_gradient() -> None:
    torch.manual_seed(0)
    q, projection, v = (torch.randn(s, dtype=torch.float64) for s in ((1, 2, 5, 3), (2, 3, 4), (1, 2, 5, 3)))
    lam = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    y = reconstruct(FeatureInputs(q, projection, None, v), Steps(lam, 3))
    (slope,) = torch.autograd.grad(y.sum(), lam)
    with torch.no_grad():
        above, below = (reconstruct(FeatureInputs(q, projection, None, v), Steps(at, 3)).sum() for at in (0.101, 0.099))
    assert float(slope) == pytest.approx(float(above - below) / 2e-3, rel=1e-3)
