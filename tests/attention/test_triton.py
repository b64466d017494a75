"""The kernels of a dynamic dictionary's reconstruction against its plain form in float64.

They run on a GPU if there is one. `test_triton_interpreter` runs this file in Triton's interpreter, on the CPU.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton", reason="Triton is not installed")

from vars_dyn.attention import VarsAttention
from vars_dyn.attention.reconstruct import plain as plain_form
from vars_dyn.attention.reconstruct import triton as kernels
from vars_dyn.attention.reconstruct.triton import launch
from vars_dyn.attention.reconstruct.values import FeatureInputs, Steps

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]


@dataclass(frozen=True)
class Case:
    """Images of two heads, and the layout of their work. If it is None, `launch_plan` chooses it."""

    tokens: int
    c: int
    m: int
    lam: float = 0.05
    num_steps: int = 3
    layout: tuple[int, int, int, bool] | None = None
    batch: int = 2

    def drawn(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Random queries, projection, values, and the incoming gradient of the result."""
        generator = torch.Generator().manual_seed(self.tokens)
        draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
        rows = self.batch, 2, self.tokens, self.c
        q, w, v, grad = draw(*rows), draw(2, self.c, self.m), draw(*rows), draw(*rows)
        return [t.to(DEVICE, dtype) for t in (q, w, v, grad)]


#: A layout: how many tokens at a time, how many shares of tokens, how many features at a time, and whether one program
#: does all.
ONE, SHARED, PARTS = (16, 1, 16, True), (16, 4, 32, False), (16, 1, 16, False)
CASES = {
    "one program": Case(21, 8, 16, layout=ONE),
    "one step, next to no penalty": Case(16, 8, 12, lam=1e-3, num_steps=1, layout=ONE, batch=1),
    "two tokens": Case(2, 8, 16, layout=ONE, batch=1),
    "sizes that are padded, an empty share": Case(65, 20, 24, lam=0.3, num_steps=2, layout=SHARED, batch=1),
    "features in parts": Case(17, 16, 28, num_steps=4, layout=PARTS, batch=1),
}
LARGE = {
    "196": Case(196, 32, 64, lam=0.3),
    "3136": Case(3136, 32, 64, lam=0.3, batch=1),
    "784, head of 64": Case(784, 64, 128, lam=0.3),
    "197, head of 48": Case(197, 48, 96, lam=0.3),
}


def plain(case: Case, q: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return plain_form.reconstruct(FeatureInputs(q, w, None, v), Steps(case.lam, case.num_steps))


def by_kernels(case: Case, q: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return kernels.reconstruct(FeatureInputs(q, w, None, v), Steps(case.lam, case.num_steps))


@contextmanager
def laid_out(case: Case) -> Iterator[None]:
    """Both passes have the case's layout."""
    with pytest.MonkeyPatch.context() as patch:
        if case.layout is not None:
            block, shares, part, together = case.layout
            settings = {"block": block, "shares": shares, "part": part, "together": together}
            usual = launch.launch_plan
            patch.setattr(launch, "launch_plan", lambda *given: usual(*given)._replace(**settings))
        yield


def with_gradients(form: object, case: Case, given: list[Tensor]) -> list[Tensor]:
    """The result of a form and its derivatives in q, w and v."""
    *inputs, grad = (t.detach().clone() for t in given)
    for t in inputs:
        t.requires_grad_()
    with laid_out(case):
        y = form(case, *inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def distances(case: Case, given: list[Tensor]) -> list[float]:
    """Relative distances of the kernels' result and derivatives from the plain form's in float64."""
    found = with_gradients(by_kernels, case, given)
    exact = with_gradients(plain, case, [t.double() for t in given])
    assert [t.dtype for t in found] == [t.dtype for t in (given[2], *given[:3])]
    assert all(float(b.norm()) > 0 for b in exact)
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_the_result_and_all_derivatives_are_the_plain_forms(name: str) -> None:
    assert max(distances(CASES[name], CASES[name].drawn())) < 5e-6


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_is_that_of_the_inputs_alone(dtype: torch.dtype, rounding: float) -> None:
    case = Case(21, 8, 16, layout=ONE, batch=1)
    result, *derivatives = distances(case, case.drawn(dtype))
    assert result < rounding
    # TF32 rounds so coarsely that entries of the code near the threshold may end on its other side.
    assert max(derivatives) < (rounding if INTERPRETED else 0.15)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes minutes for these sizes")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LARGE)
def test_sizes_of_real_layers(name: str, dtype: torch.dtype) -> None:
    result, *derivatives = distances(LARGE[name], LARGE[name].drawn(dtype))
    full = dtype == torch.float32
    assert result < (1e-5 if full else 8e-3)
    assert max(derivatives) < (5e-3 if full else 0.15)


@pytest.mark.parametrize("layout", [ONE, SHARED])
def test_norms_below_what_normalisation_divides_by(layout: tuple[int, int, int, bool]) -> None:
    case = Case(20, 8, 16, layout=layout, batch=1)
    q, w, v, grad = case.drawn()
    q[..., 0] = 9 + q[..., 0].abs()
    w[:, :, :3] = -31 * torch.eye(8)[:, :1].to(DEVICE)
    weak = torch.exp(-31 * torch.nn.functional.normalize(q, dim=-1)[..., 0] - 0.5).norm(dim=-1) / 4
    assert float(weak.max()) < 1e-12
    q[0, 0, 3], q[0, 1, 5] = 0, q[0, 1, 5] * 1e-14
    found = with_gradients(by_kernels, case, [q, w, v, grad])
    exact = with_gradients(plain, case, [t.double() for t in (q, w, v, grad)])
    for a, b in zip(found, exact, strict=True):
        # Compare token by token, since the derivative in a token of length zero is far larger than all others.
        scale = b.norm(dim=-1, keepdim=True).clamp(min=1e-3 * float(b.norm(dim=-1).median()))
        assert float(((a.double() - b) / scale).abs().max()) < 2e-4


def test_an_eigenvalue_close_to_the_largest() -> None:
    case = Case(32, 8, 16, layout=ONE, batch=1)
    q, w, v, grad = case.drawn()
    q *= 0.1
    q[:, :, :15, 0] += 1
    q[:, :, 15:, 1] += 1
    w[:, 0, :8] += 6
    w[:, 1, 8:] += 6
    features = torch.nn.functional.normalize(torch.exp(torch.nn.functional.normalize(q, dim=-1) @ w), dim=-2)
    largest = torch.linalg.eigvalsh((features.mT @ features).double())[..., -2:]
    assert float((largest[..., 0] / largest[..., 1]).max()) > 0.8
    assert max(distances(case, [q, w, v, grad])) < 5e-5


def test_second_derivatives_are_torch_funcs_of_the_plain_form() -> None:
    case = Case(9, 4, 6, layout=ONE, batch=1)
    q, w, _, along = case.drawn()

    def loss(form: object, q: Tensor, w: Tensor) -> Tensor:
        # Values depend on the queries and the projection, so each has two paths to the loss, and both must count
        # once. The transposes give strides that the kernels do not take; copying must not cut the path to the input.
        v = (q.square() + w.sum()).mT.contiguous().mT
        return form(case, q.mT.contiguous().mT, w, v).sin().sum()

    exact = q.double(), w.double()
    slopes = torch.func.grad(functools.partial(loss, plain), (0, 1))
    directions = along.double(), w.double().cos()
    first, second = torch.func.jvp(slopes, exact, directions)
    for create_graph in (False, True):
        leaves = [t.clone().requires_grad_() for t in (q, w)]
        found = torch.autograd.grad(loss(by_kernels, *leaves), leaves, create_graph=create_graph)
        check_near(found, first, 1e-5)
    inner = sum((a * d).sum() for a, d in zip(found, directions, strict=True))
    check_near(torch.autograd.grad(inner, leaves), second, 1e-4)


def check_near(found: tuple[Tensor, ...], exact: tuple[Tensor, ...], distance: float) -> None:
    for a, b in zip(found, exact, strict=True):
        assert float((a.detach().double() - b).norm() / b.norm()) < distance


def layer_of(**options: object) -> VarsAttention:
    torch.manual_seed(0)
    sizes = {"qkv_bias": True, "num_prefix_tokens": 1, "lam": 0.05, "dictionary": "dynamic"}
    return VarsAttention(16, 2, **{**sizes, **options}).to(DEVICE)


def tokens_of(seed: int = 0) -> Tensor:
    return torch.randn(1, 17, 16, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def on_device(y: Tensor) -> bool:
    return "reconstruct_features" in f"{y.grad_fn}{y.grad_fn.next_functions}"


def test_a_layer_takes_the_kernels() -> None:
    layer, x = layer_of(), tokens_of()
    assert on_device(layer.heads(x))
    y = layer(x)
    y.sum().backward()
    exact = layer_of().double()
    exact(x.double()).sum().backward()
    torch.testing.assert_close(y.double(), exact(x.double()), rtol=1e-5, atol=1e-6)
    for one, other in zip(layer.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y.detach(), rtol=0, atol=0)


def test_a_layer_under_autocast_takes_them_in_half_precision() -> None:
    layer, x = layer_of(), tokens_of()
    seen = []
    usual = kernels.reconstruct
    with pytest.MonkeyPatch.context() as patch, torch.autocast(DEVICE, torch.bfloat16):
        patch.setattr(
            kernels, "reconstruct", lambda given, steps: seen.append(given.queries.dtype) or usual(given, steps)
        )
        y = layer(x)
    assert seen == [torch.bfloat16]
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.03)


@pytest.mark.parametrize(
    "options",
    [{"feature_ratio": 20.0}, {"num_steps": 3, "variant": "released"}, {"dictionary": "static"}, {"attn_drop": 0.5}],
    ids=str,
)
def test_a_layer_of_another_kind_does_not(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_of(**options), tokens_of()
    monkeypatch.setattr(kernels, "reconstruct", lambda *given: pytest.fail("the kernels were taken"))
    y = layer(x)
    assert y.shape == x.shape
    assert bool(torch.isfinite(y).all())


def test_nor_do_float64_and_transforms_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_of(), tokens_of().requires_grad_()
    loss = lambda x: layer(x).square().sum()  # noqa: E731
    (slope,) = torch.autograd.grad(loss(x), x)
    y = layer(x).detach()
    monkeypatch.setattr(kernels, "reconstruct", lambda *given: pytest.fail("the kernels were taken"))
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), slope, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.double()(x.double()).float(), y, rtol=1e-4, atol=1e-5)


def test_exporters_and_flop_counters_see_the_operator() -> None:
    layer, x = layer_of(), tokens_of()
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
        y.sum().backward()
    layer.form = "plain"
    layer.zero_grad()
    with FlopCounterMode(display=False) as plain_counter:
        layer(x).sum().backward()
    counted, wanted = (each.get_flop_counts()["Global"] for each in (counter, plain_counter))
    operators = torch.ops.vars_dyn.reconstruct_features, torch.ops.vars_dyn.reconstruct_features_backward
    assert all(counted[each] > 0 for each in operators)
    # The derivatives of L and of a_0 take products that no written-out count has; the forward pass is exact.
    forward = 2 * 2 * 16 * (3 * 17 * 8 + 17 * 16 + 3 * 8 * 16)
    assert counted[operators[0]] == forward
    assert 0.7 < counter.get_total_flops() / plain_counter.get_total_flops() < 1.1
    assert all(each not in wanted for each in operators)
    layer.form = "fastest"
    program = torch.export.export(layer.eval(), (x,))
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    assert "vars_dyn.reconstruct_features.default" in {str(node.target) for graph in graphs for node in graph.nodes}
    torch.testing.assert_close(program.module()(x), y)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_the_operator_keeps_the_rules_of_torch() -> None:
    case = CASES["one program"]
    q, w, v, _ = (t.requires_grad_() for t in case.drawn())
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    operator = torch.ops.vars_dyn.reconstruct_features.default
    found = torch.library.opcheck(operator, (q, w, v, 0.05, 3, True), test_utils=checks)
    assert found == dict.fromkeys(checks, "SUCCESS")
