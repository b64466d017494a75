"""No change of a layer's tokens within the radius changes a support."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from vars_dyn import solve
from vars_dyn.attention import VarsAttention, support_radius

KINDS = ["static", "dynamic", "static+dynamic"]


def layer_of(kind: str, **options: object) -> VarsAttention:
    torch.manual_seed(0)
    layer = VarsAttention(8, 2, True, kind, grid_size=(3, 3), num_prefix_tokens=0, templates=2, **options).double()
    with torch.no_grad():
        layer_weight = layer.v.weight if kind == "static" else layer.qkv.weight
        layer_weight.mul_(2)
    return layer.eval()


def tokens() -> Tensor:
    return torch.randn(2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def codes(layer: VarsAttention, x: Tensor) -> Tensor:
    return layer.by_head(solve(layer.problem(x), tol=1e-12).code)


def attacks(layer: VarsAttention, x: Tensor) -> list[Tensor]:
    """Directions (B, N, C) of norm one: random ones, and the descent of each margin that is nearest its border."""
    generator = torch.Generator().manual_seed(2)
    found = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(4)]
    code = solve(layer.problem(x), tol=1e-12).code
    moving = x.clone().requires_grad_()
    problem = layer.problem(moving)
    slack = layer.lam - problem.dictionary.encode(problem.x - problem.dictionary.decode(code)).abs()
    slack = torch.where(code == 0, slack, torch.inf)
    for image in range(len(x)):
        (slope,) = torch.autograd.grad(slack[image].min(), moving, retain_graph=True)
        found.append(-slope)
    return [each / each.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None] for each in found]


@pytest.mark.parametrize("kind", KINDS)
def test_no_attack_within_the_radius_changes_a_support(kind: str) -> None:
    layer, x = layer_of(kind, lam=0.4), tokens()
    radius = support_radius(layer, x)
    assert radius.shape == (2, 2, 4)
    assert float((radius > 0).double().mean()) > 0.9
    before = codes(layer, x).sign()
    order = radius.flatten(1).sort(1).values
    for direction in attacks(layer, x):
        for column in (0, 3, 7):
            size = 0.99 * order[:, column]
            after = codes(layer, x + size[:, None, None] * direction).sign()
            same = (after == before).all(-1)
            assert bool(same[radius > size[:, None, None]].all())


def test_with_templates_alone_the_radius_is_exact() -> None:
    """The change that moves one channel's signal alone, in its worst direction, changes the support just outside."""
    layer, x = layer_of("static", lam=0.4), tokens()
    radius, problem = support_radius(layer, x), layer.problem(x)
    code = codes(layer, x)
    P = problem.dictionary.matrix().reshape(2, 8, 9, -1)[0, 0]
    a, signal = code[0, 0, 0], layer.by_head(problem.x)[0, 0, 0]
    on = a != 0
    inverse = torch.linalg.inv(P[:, on].T @ P[:, on])
    slopes = torch.cat(
        [inverse @ P[:, on].T * -a[on].sign()[:, None], ((P - P[:, on] @ inverse @ P[:, on].T @ P).T)[~on]]
    )
    c = (P.T @ (signal - P @ a))[~on]
    slopes[int(on.sum()) :] *= c.sign()[:, None]
    margins = torch.cat([a[on].abs(), layer.lam - c.abs()])
    nearest = (margins / slopes.norm(dim=1)).argmin()
    direction = slopes[nearest] / slopes[nearest].norm()
    row = layer.v.weight[0]
    change = direction[:, None] * row / row.norm()
    for share, same in ((0.999, True), (1.001, False)):
        moved = codes(layer, x[:1] + share * radius[0, 0, 0] * change)[0, 0, 0]
        assert torch.equal(moved.sign(), a.sign()) == same


def test_scikit_learn_finds_the_same_supports_at_the_border_of_the_radius() -> None:
    layer, x = layer_of("dynamic", lam=0.4), tokens()[:1]
    radius = support_radius(layer, x)[0]
    before = codes(layer, x)[0].sign().numpy()
    direction = attacks(layer, x)[-1]
    for head in range(2):
        for channel in range(4):
            dictionary, signal = layer.reconstruction(x + 0.99 * radius[head, channel] * direction)
            P, v = dictionary.weight[0, head].detach().numpy(), signal[0, head, channel].detach().numpy()
            model = Lasso(0.4 / len(v), fit_intercept=False, tol=1e-12, max_iter=50_000).fit(P, v)
            assert (np.sign(model.coef_) == before[head, channel]).all()


def test_what_no_radius_is_proved_for_is_refused() -> None:
    with pytest.raises(ValueError, match="solves a problem"):
        support_radius(layer_of("dynamic", variant="released"), tokens())
    with pytest.raises(ValueError, match="queries without a norm"):
        support_radius(layer_of("dynamic", qk_norm=True, norm_layer=torch.nn.LayerNorm), tokens())
