"""The registry has one value for each method, and every part of the package finds a new method there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal
from vars_dyn.dynamics.base import State
from vars_dyn.integration import METHODS, method_for, start_of, stream
from vars_dyn.integration.steppers import REGISTRY
from vars_dyn.integration.steppers.base import Control, Marched, Stepper, Taken, tolerated


class Heun(Stepper):
    """The trapezoidal step, whose difference from Euler's step estimates the error."""

    control = Control(aim=0.5, proportional=0.35, integral=0.2, order=2)

    def first(self, func: object, y: State, f: State, t0: Tensor) -> float:
        return 1e-3

    def take(self, func: Callable[[Tensor, State], State], y: State, f: State, t0: Tensor, h: float) -> Taken:
        euler = tuple(a + h * b for a, b in zip(y, f, strict=True))
        slopes = zip(y, f, func(t0 + h, euler), strict=True)
        new = tuple(a + h / 2 * (b + c) for a, b, c in slopes)
        with torch.no_grad():
            error = tolerated(tuple(a - b for a, b in zip(new, euler, strict=True)), y, new, self.rtol, self.atol)

        def between(share: float) -> State:
            return tuple(a + share * h * b + share**2 * (c - a - h * b) for a, b, c in zip(y, f, new, strict=True))

        return Taken(new, func(t0 + h, new), error, between)


HEUN = Marched("heun", limit=2.0, build=lambda s: Heun(s.rtol, s.atol, s.norm, s.longest))


def test_a_new_method_integrates_streams_and_has_both_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "heun", HEUN)
    weight = normal(0, 6, 9) / 3
    times = torch.linspace(0, 3, 7, dtype=torch.float64)

    def path(method: str, rtol: float, gradient: str) -> tuple[vd.Trajectory, Tensor]:
        leaf = weight.clone().requires_grad_()
        field = vd.SparseRecurrent(vd.DenseDictionary(leaf), normal(1, 3, 6), 0.1)
        found = vd.integrate(field, field.initial_state(), times, method, rtol, rtol, gradient=gradient)
        return found, torch.autograd.grad(found.states[0].square().sum(), leaf)[0]

    exact, wanted = path("dopri5", 1e-9, "backprop")
    found, gradient = path("heun", 1e-5, "backprop")
    assert float((found.states[0] - exact.states[0]).detach().abs().max()) < 1e-3
    assert float((gradient - wanted).norm() / wanted.norm()) < 1e-2
    again = path("heun", 1e-5, "checkpoint")[1]
    torch.testing.assert_close(again, gradient, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match='method is "heun", which has no adjoint'):
        path("heun", 1e-5, "adjoint")
    field = vd.SparseRecurrent(vd.DenseDictionary(weight), normal(1, 3, 6), 0.1)
    begin = start_of(field, field.initial_state())
    whole = list(stream(field, begin, times, method="heun", rtol=1e-5, chunk=3))
    resumed = list(stream(field, whole[0][2], times[3:], method="heun", rtol=1e-5, chunk=3))
    for (_, states, _), (_, others, _) in zip(whole[1:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(states, others, strict=True))


def test_methods_are_found_by_name_and_no_other_name_is() -> None:
    assert [method_for(name).name for name in METHODS] == list(METHODS)
    assert tuple(REGISTRY) == METHODS
    with pytest.raises(ValueError, match=r"^method is .heun.; one of .*dopri5.*auto is wanted"):
        method_for("heun")


def test_no_file_but_a_steppers_own_compares_the_names_of_methods() -> None:
    package = Path(vd.__file__).parent
    names = "|".join(f'"{name}"' for name in METHODS if name != "auto")  # "auto" is also a solver's name
    compared = re.compile(rf"(==|!=|\bin) *[(\[{{]?({names})|\b(ADAPTIVE|FIXED|STABILISED|COARSE)_METHODS")
    files = itertools.chain(
        *(sorted((package / part).rglob("*.py")) for part in ("integration", "recording", "simulate"))
    )
    assert [f.name for f in files if compared.search(f.read_text())] == []
