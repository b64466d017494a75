"""The method that changes between "dopri5" and "rkc". It costs little more than the better one, and resumes exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal
from vars_dyn.integration import Statistics, start_of
from vars_dyn.integration.integrate import stream
from vars_dyn.integration.steppers import auto
from vars_dyn.integration.steppers.auto import Switch
from vars_dyn.integration.steppers.dopri5 import Dopri5
from vars_dyn.integration.steppers.rkc import Rkc


def stiff_field() -> vd.SparseRecurrent:
    """A field with eigenvalues up to about 24, whose support takes long to settle."""
    weight = normal(0, 16, 32)
    P = vd.DenseDictionary(weight / weight.norm(dim=0) * 1.5)
    return vd.SparseRecurrent(P, normal(1, 8, 16), 0.2)


def evaluations(end: float, rtol: float) -> dict[str, Statistics]:
    field, times = stiff_field(), torch.tensor([0.0, end])
    methods = ("dopri5", "rkc", "auto")
    return {m: vd.integrate(field, field.initial_state(), times, m, rtol, rtol / 10).statistics for m in methods}


@pytest.mark.parametrize(
    ("end", "rtol", "better", "apart"),
    [(2.0, 1e-7, "dopri5", 2.5), (80.0, 1e-2, "rkc", 2.5), (20.0, 1e-4, None, 1.0)],
)
def test_it_takes_about_the_evaluations_of_the_better_one(
    end: float, rtol: float, better: str | None, apart: float
) -> None:
    taken = {name: found.evaluations for name, found in evaluations(end, rtol).items()}
    one, other = sorted((taken["dopri5"], taken["rkc"]))
    assert other > apart * one
    assert better is None or taken[better] == one
    assert taken["auto"] <= 1.2 * one


def test_it_goes_where_both_go() -> None:
    field, times = stiff_field(), torch.linspace(0, 10, 21, dtype=torch.float64)
    exact = vd.integrate(field, field.initial_state(), times, "dopri5", 1e-8, 1e-9).states
    for rtol in (1e-3, 1e-5):
        for method in ("dopri5", "rkc", "auto"):
            found = vd.integrate(field, field.initial_state(), times, method, rtol, rtol / 10).states
            for part, wanted in zip(found, exact, strict=True):
                assert float((part - wanted).abs().max()) < 5 * rtol * float(wanted.abs().max())


class Steps:
    """A log of the method and the length of every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[str, float]] = []
        for kind in (Dopri5, Rkc):
            monkeypatch.setattr(kind, "take", self.watched(kind, kind.take))

    def watched(self, kind: type, take: object) -> object:
        def watching(stepper: object, func: object, y: object, f: object, t0: object, h: float) -> object:
            self.taken.append((kind.__name__, h))
            return take(stepper, func, y, f, t0, h)  # type: ignore[operator]

        return watching

    def runs(self) -> list[str]:
        return [name for name, _ in itertools.groupby(name for name, _ in self.taken)]


def test_it_begins_with_dopri5_and_ends_with_rkc_where_the_way_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    field = stiff_field()
    vd.integrate(field, field.initial_state(), torch.tensor([0.0, 80.0]), "auto", 1e-2, 1e-3)
    assert steps.runs()[0] == "Dopri5"
    assert steps.runs()[-1] == "Rkc"
    limit = auto._BEYOND / float(field.stiffness())
    assert max(h for name, h in steps.taken if name == "Dopri5") < 1.5 * limit
    assert max(h for name, h in steps.taken if name == "Rkc") > 5 * limit


def switch(rho: float = 1.0) -> Switch:
    def norm(error: tuple[Tensor, ...]) -> Tensor:
        return error[0].norm()

    return Switch(Dopri5(1e-4, 1e-5, norm), Rkc(1e-4, 1e-5, norm, rho))


def test_a_trial_that_fails_returns_to_where_dopri5_was_and_waits_twice_as_long() -> None:
    it = switch()
    stepper, h = it.begin(None), 3.0
    assert stepper is it.dopri5
    waited = []
    for _ in range(3):
        count = 0
        while stepper is it.dopri5:
            stepper, h = it.follow(stepper, 3.0, 3.1)
            count += 1
        waited.append(count)
        assert h == 3.1
        for _ in range(3):  # here rkc costs 8/3.1 evaluations per unit of time, and dopri5 would cost 6/3.1
            assert stepper is it.rkc
            stepper, h = it.follow(stepper, 3.1 / 4, 3.1 / 4)
        assert stepper is it.dopri5
        assert h == 3.1
    assert waited == [3, 6, 12]


def test_a_trial_that_pays_goes_on_and_steps_that_are_not_stiff_are_left_alone() -> None:
    it = switch()
    for _ in range(50):
        assert it.follow(it.dopri5, 1.9, 1.95) == (it.dopri5, 1.95)
    for h in (3.0, 3.0, 3.0):
        stepper, _ = it.follow(it.dopri5, h, h)
    assert stepper is it.rkc
    for h in (0.5, 0.5, 3.0, 0.5, 0.5, 10.0, 100.0):  # no three expensive steps follow one another
        assert it.follow(it.rkc, h, h) == (it.rkc, h)


def test_a_run_begins_with_the_method_that_its_step_is_for() -> None:
    rho = 20.0
    assert switch(rho).begin(0.2).__class__ is Dopri5
    assert switch(rho).begin(0.3).__class__ is Rkc


@pytest.mark.parametrize("gap", [None, 1e-8])
def test_a_stream_taken_up_in_either_method_gives_the_same_bits(
    gap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, times = stiff_field(), torch.linspace(0, 60, 49, dtype=torch.float64)
    begin, options = start_of(field, field.initial_state()), {"method": "auto", "gap": gap, "chunk": 8, "rtol": 1e-4}
    whole = list(stream(field, begin, times, **options))
    steps = Steps(monkeypatch)
    first: set[str] = set()
    for number, (_, _, snapshot) in enumerate(whole[:-1]):
        steps.taken.clear()
        again = list(stream(field, snapshot, times[times > snapshot.time], **options))
        first.add(steps.taken[0][0])
        for (_, states, after), (_, others, then) in zip(again, whole[number + 1 :], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(states, others, strict=True))
            assert (after.step, after.statistics) == (then.step, then.statistics)
    assert first == {"Dopri5", "Rkc"}


def test_gradients_through_both_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpointing gives the gradient of backpropagation. "dopri5" at a tighter tolerance gives nearly the same."""
    field, times, steps = stiff_field(), torch.tensor([0.0, 8.0]), Steps(monkeypatch)

    def gradient(method: str, rtol: float, mode: str) -> Tensor:
        x = field.x.clone().requires_grad_()
        moved = field.with_tensors((*field.dictionary.tensors(), x, field.lam))
        path = vd.integrate(moved, field.initial_state(), times, method, rtol, rtol / 10, gradient=mode)
        return torch.autograd.grad(path.states[0][-1].square().sum(), x)[0]

    wanted = gradient("dopri5", 1e-6, "backprop")
    steps.taken.clear()
    found = gradient("auto", 1e-4, "backprop")
    assert set(steps.runs()) == {"Dopri5", "Rkc"}
    torch.testing.assert_close(gradient("auto", 1e-4, "checkpoint"), found, rtol=1e-9, atol=1e-12)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_it_has_no_adjoint() -> None:
    field = stiff_field()
    field.x.requires_grad_()
    with pytest.raises(ValueError, match='method is "auto", which has no adjoint'):
        vd.integrate(field, field.initial_state(), torch.tensor([0.0, 1.0]), method="auto", gradient="adjoint")
