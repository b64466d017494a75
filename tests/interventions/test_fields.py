"""Fields with interventions: what is certified, closed forms, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from sklearn.linear_model import Lasso
from torch import Tensor

import vars_dyn as vd
from tests.references import interior_point
from tests.strategies import normal, seeds, states_for
from vars_dyn.dictionaries.reweighted import Reweighted
from vars_dyn.interventions import Course, Intervention, with_interventions

D, ATOMS = 6, 9


def dictionary(seed: int = 0) -> vd.DenseDictionary:
    return vd.DenseDictionary(torch.nn.functional.normalize(normal(seed, D, ATOMS), dim=0))


def sparse(seed: int = 0, **constants: float) -> vd.SparseRecurrent:
    return vd.SparseRecurrent(dictionary(seed), normal(seed + 1, 3, D), lam=0.3, **constants)


def at(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


CONVEX = {"alpha": 1.3, "beta": 3.0, "gamma": 2.0, "tau_z": 0.5, "tau_u": 1.5}
CASES: list[list[Intervention]] = [
    [vd.Silence(atoms=[3, 5])],
    [vd.Lesion(atoms=[0]), vd.Silence(neurons=[2])],
    [vd.Clamp(0.7, atoms=[2]), vd.Silence(atoms=[1])],
    [vd.Clamp([0.7, -0.4], atoms=[2, 4], of="output"), vd.Inject(0.5, neurons=[1])],
    [vd.Clamp(0.7, neurons=[1]), vd.Lesion(neurons=[3]), vd.Clamp(-0.5, atoms=[0])],
    [vd.Clamp(0.3, neurons=[1], of="output"), vd.Clamp(0.9, atoms=[5], of="output")],
    [vd.Scale([0.5, 2.0], neurons=[0, 1]), vd.Scale(1.4, atoms=[3]), vd.Inject(0.3, neurons=[0])],
    [vd.Inject([0.2, -0.1], atoms=[3, 4]), vd.Silence(atoms=[7])],
]


@pytest.mark.parametrize("case", range(len(CASES)))
@settings(max_examples=4)
@given(seed=seeds)
def test_v_falls_at_every_state_while_the_same_interventions_act(case: int, seed: int) -> None:
    """dV/dt <= 0 along f, by a difference quotient of V; a wrong term in V, f or what is held breaks it."""
    field = with_interventions(sparse(1, **CONVEX), CASES[case]).at(0.0)
    state = field.held(0.0, states_for(field, seed))
    slope, h = field.derivative(0.0, state), 1e-7
    ahead, behind = (tuple(y + s * h * f for y, f in zip(state, slope, strict=True)) for s in (1, -1))
    rate = (field.lyapunov(ahead) - field.lyapunov(behind)) / (2 * h)
    assert bool((rate <= 1e-5 * (1 + rate.abs())).all())
    assert bool((rate < 0).any())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_field_rests_where_its_problem_has_its_argmin(case: int) -> None:
    field = sparse(2, **CONVEX)
    run = vd.integrate(
        field, field.initial_state(), at(0.0, 200.0), rtol=1e-5, gap=1e-10, check_every=5.0, interventions=CASES[case]
    )
    assert bool(run.settled_at.isfinite().all())
    acting = with_interventions(field, CASES[case]).at(200.0)
    code = vd.solve(acting.problem(), tol=1e-13).code
    state = tuple(part[-1] for part in run.states)
    torch.testing.assert_close(acting.unknowns(state), code, rtol=0, atol=2e-5)
    # A gap is no false certificate: another code has a gap that is not small.
    assert float(acting.problem().relative_gap(code + 0.1 * (code != 0)).max()) > 1e-3


#: Currents into atoms of an overcomplete dictionary, within and beyond the penalty, with what else may act.
CURRENTS: list[list[Intervention]] = [
    [vd.Inject([0.2, -0.1], atoms=[3, 4])],
    [vd.Inject([0.45, -0.3], atoms=[0, 5])],
    [vd.Inject(0.4, atoms=[2]), vd.Silence(atoms=[7]), vd.Clamp(0.6, atoms=[1], of="output")],
    [vd.Inject(0.35, atoms=[2, 6]), vd.Clamp(0.5, neurons=[1], of="output"), vd.Inject(-0.2, neurons=[3])],
    [vd.Inject(-0.35, atoms=[4]), vd.Clamp(-0.3, neurons=[0], of="output"), vd.Lesion(atoms=[5])],
]
FIELDS = {
    "paper": {},
    "nonnegative": {"threshold": "nonnegative"},
    "other constants": {"alpha": 1.5, "beta": 3.0, "gamma": 3.0},
    "weights": {"weights": at(*[0.5 + 0.2 * k for k in range(8)], torch.inf), "bias": at(0.1, *[0.0] * 8)},
}


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("case", range(len(CURRENTS)))
def test_currents_into_atoms_of_an_overcomplete_dictionary_are_certified(case: int, kind: str) -> None:
    """F(a) of docs/howto/interventions.md, minimised by an interior point method that knows nothing of the field."""
    field = vd.SparseRecurrent(dictionary(11), normal(12, 2, D), lam=0.3, **FIELDS[kind])
    acting = with_interventions(field, CURRENTS[case]).at(0.0)
    assert acting.instability() is None
    problem = acting.problem()
    found = vd.solve(problem, tol=1e-12)
    assert bool(found.converged.all())
    effect, c = acting.effect, field.constants
    held, gone = effect.neurons.fixed, effect.atoms.fixed
    rows = torch.full((D,), c["gamma"] - 1 / c["alpha"], dtype=torch.float64)
    target = field.x / c["alpha"] + (0 if effect.neurons.current is None else effect.neurons.current.value / c["alpha"])
    sent = torch.zeros(ATOMS, dtype=torch.float64)
    if held is not None:
        rows = rows.masked_fill(held, c["gamma"])
        target = torch.where(held, effect.neurons.output.value, target)
    if gone is not None and effect.atoms.output is not None:
        sent = torch.where(gone, effect.atoms.output.value, 0.0)
    level = 0.3 * (torch.ones(ATOMS) if field.weights is None else field.weights)
    level = level.double() if gone is None else level.double().masked_fill(gone, torch.inf)
    q = effect.atoms.current.value + (0 if field.bias is None else field.bias)
    P = field.dictionary.matrix()
    for row in range(2):
        # sum_j w_j/2 (P a)_j^2 - t_j (P a)_j, as squares of the rows.
        squares = [
            (float(rows[j]), P[j : j + 1].numpy(), (target[row, j] / rows[j] - P[j] @ sent).reshape(1).numpy())
            for j in range(D)
        ]
        wanted = interior_point(squares, level.numpy(), q.numpy(), field.nonnegative)
        np.testing.assert_allclose(found.code[row].numpy(), wanted, rtol=0, atol=1e-6)
    # Another code has a gap that is at least the rise of the objective.
    off = found.code + 0.05 * (found.code != 0)
    assert bool((problem.gap(off) >= problem.objective(off) - problem.objective(found.code)).all())


def test_a_current_into_one_of_two_equal_atoms_has_its_closed_form() -> None:
    """Two atoms e_1: the one with the current q takes all, a = x + q - lam, as long as 0 < q < 2 lam."""
    P = vd.DenseDictionary(at(1.0, 1.0)[None])
    field = vd.SparseRecurrent(P, at(1.0)[None], lam=0.3)
    for q in (0.1, 0.45):
        acts = [vd.Inject(q, atoms=[0])]
        run = vd.integrate(field, field.initial_state(), at(0, 200.0), gap=1e-7, interventions=acts)
        assert float(run.relative_gap) <= 1e-7
        code = with_interventions(field, acts).at(200.0).code(tuple(part[-1] for part in run.states))
        assert code[0].tolist() == pytest.approx([1.0 + q - 0.3, 0.0], abs=1e-3)
    # Beyond, the objective falls for ever along (1, -1).
    acts = [vd.Inject(0.65, atoms=[0])]
    with pytest.raises(ValueError, match="no stable equilibrium is proved: bias currents exceed"):
        vd.integrate(field, field.initial_state(), at(0, 1.0), gap=1e-6, interventions=acts)
    acts.append(vd.Clamp(0.5, neurons=[0], of="output"))
    with pytest.raises(ValueError, match="these interventions no stable equilibrium is proved: currents exceed"):
        vd.integrate(field, field.initial_state(), at(0, 1.0), gap=1e-6, interventions=acts)


def test_gradients_reach_a_current_through_the_equilibrium() -> None:
    field = vd.SparseRecurrent(dictionary(11), normal(12, 2, D), lam=0.3)

    def loss(q: Tensor) -> Tensor:
        acting = with_interventions(field, [vd.Inject(q, atoms=[2, 4])]).at(0.0)
        return vd.equilibrium(acting.problem(), tol=1e-12).code.square().sum()

    q = at(0.4, -0.2).requires_grad_()
    (slope,) = torch.autograd.grad(loss(q), q)
    for k in range(2):
        step = 1e-5 * torch.eye(2, dtype=torch.float64)[k]
        with torch.no_grad():
            assert float(slope[k]) == pytest.approx(float(loss(q + step) - loss(q - step)) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("constants", [{}, CONVEX])
def test_silencing_for_good_is_solving_without_the_atom(constants: dict[str, float]) -> None:
    """To 1e-10: the problem, its gap at any state, and the end of a run; the LASSO against scikit-learn too."""
    field, gone = sparse(3, **constants), [1, 4]
    kept = [k for k in range(ATOMS) if k not in gone]
    weight = field.dictionary.matrix()[:, kept].clone()
    removed = vd.SparseRecurrent(vd.DenseDictionary(weight), field.x, lam=0.3, **constants).problem()
    acting = with_interventions(field, [vd.Silence(atoms=gone)]).at(0.0)
    solved, without = (vd.solve(problem, tol=1e-14).code for problem in (acting.problem(), removed))
    torch.testing.assert_close(solved[:, kept], without, rtol=0, atol=1e-10)
    assert bool((solved[:, gone] == 0).all())
    state = states_for(field, 5)
    gaps = acting.problem().gap(acting.unknowns(state)), removed.gap(acting.code(state)[:, kept])
    torch.testing.assert_close(*gaps, rtol=1e-10, atol=0)
    if not constants:
        for row, signal in enumerate(field.x.numpy()):
            oracle = Lasso(alpha=0.3 / D, fit_intercept=False, tol=1e-14, max_iter=10**5).fit(weight.numpy(), signal)
            np.testing.assert_allclose(without[row], oracle.coef_, rtol=0, atol=1e-6)
        return
    # Started near the end, so that the run settles to rounding soon.
    run = vd.integrate(
        field, acting.state_at(solved), at(0.0, 60.0), rtol=1e-12, atol=1e-13, interventions=[vd.Silence(atoms=gone)]
    )
    code = acting.code(tuple(part[-1] for part in run.states))
    torch.testing.assert_close(code[:, kept], without, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("method", "rtol", "allowed"), [("dopri5", 1e-8, 1e-6), ("rkc", 1e-4, 2e-3)])
def test_a_trajectory_past_interventions_is_scipys(method: str, rtol: float, allowed: float) -> None:
    """The formulas written out in NumPy, with jumps, a ramp and synapses of one way, by LSODA piece by piece."""
    field = sparse(4, **CONVEX)
    course = Course([0.5, 1.0, 2.0], [0.0, 1.0, -0.5], between="linear")
    acts: list[Intervention] = [
        vd.Silence(atoms=[3], start=0.3, stop=1.7),
        vd.Clamp(course, neurons=[1], start=0.5, stop=2.2),
        vd.Clamp(course, atoms=[6], of="output", start=0.7, stop=2.5),
        vd.Inject(course, atoms=[2], start=0.2),
        vd.Scale(0.5, atoms=[4], synapses="feedforward", start=1.2),
        vd.Scale(1.5, neurons=[0], synapses="feedback", start=1.2),
        vd.Scale(0.7, atoms=[5], synapses="inhibition", start=1.2),
    ]
    with pytest.warns(UserWarning, match="one of their two ways"):
        run = vd.integrate(
            field,
            field.initial_state(),
            at(0.0, 0.6, 1.5, 3.0),
            method=method,
            rtol=rtol,
            atol=1e-2 * rtol,
            interventions=acts,
        )
    weight, x = field.dictionary.matrix().numpy(), field.x.numpy()[0]
    c = CONVEX

    def value(t: float) -> float:
        return float(np.interp(t, [0.5, 1.0, 2.0], [0.0, 1.0, -0.5]))

    def slope(t: float, y: np.ndarray, low: float) -> np.ndarray:
        z, u = y[:D].copy(), y[D:]
        a = np.sign(u) * np.maximum(np.abs(u) - 0.3 / c["beta"], 0)
        a[3] *= not 0.3 <= low < 1.7
        if 0.7 <= low < 2.5:
            a[6] = value(t)
        late = low >= 1.2
        forward = weight.T @ z * np.where(np.arange(ATOMS) == 4, 0.5 if late else 1, 1)
        back = weight @ a * np.where(np.arange(D) == 0, 1.5 if late else 1, 1)
        lateral = (weight.T @ (weight @ a) - a) * np.where(np.arange(ATOMS) == 5, 0.7 if late else 1, 1)
        dz = (back + x - c["alpha"] * z) / c["tau_z"]
        if 0.5 <= low < 2.2:
            dz[1] = 1 / 0.5 if low < 1.0 else -1.5 if low < 2.0 else 0.0
        du = (forward - c["gamma"] * lateral - c["beta"] * u) / c["tau_u"]
        du[2] += value(t) / c["tau_u"] if low >= 0.2 else 0
        return np.concatenate([dz, du])

    knots = sorted({0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 1.0, 1.2, 1.5, 1.7, 2.0, 2.2, 2.5, 3.0})
    y, seen = np.concatenate([x, np.zeros(ATOMS)]), {}
    for low, high in itertools.pairwise(knots):
        if low == 0.5:
            y[1] = value(0.5)
        y = solve_ivp(slope, (low, high), y, "LSODA", rtol=1e-11, atol=1e-13, args=(low,)).y[:, -1]
        seen[high] = y
    found = torch.cat([run.states[0][:, 0], run.states[1][:, 0]], -1)
    for row, time in enumerate((0.6, 1.5, 3.0), start=1):
        np.testing.assert_allclose(found[row], seen[time], rtol=0, atol=allowed)


def test_a_feedforward_neuron_under_current_and_clamp_has_its_closed_form() -> None:
    field = vd.FeedForward(at(1.0, 2.0, 3.0)[None], alpha=2.0)
    acts = [vd.Inject(4.0, neurons=[0], start=1.0, stop=2.0), vd.Clamp(5.0, neurons=[1], start=1.0, stop=2.0)]
    times = at(0.0, 1.0, 1.5, 2.0, 3.0)
    run = vd.integrate(field, field.initial_state(), times, rtol=1e-10, atol=1e-12, interventions=acts)
    z = run.states[0][:, 0]

    def decay(start: float, rest: float, time: float) -> float:
        return rest + (start - rest) * math.exp(-2 * time)

    one = decay(1.0, 0.5, 1.0)
    two = decay(one, 2.5, 1.0)
    assert z[:, 0].tolist() == pytest.approx([1.0, one, decay(one, 2.5, 0.5), two, decay(two, 0.5, 1.0)], abs=1e-8)
    assert z[1:4, 1].tolist() == [5.0, 5.0, 5.0]
    assert z[4, 1].item() == pytest.approx(decay(5.0, 1.0, 1.0), abs=1e-8)
    # At the end nothing acts, and the gap is that of the field itself.
    torch.testing.assert_close(run.relative_gap, field.problem().relative_gap(run.states[0][-1]))


def test_scaling_every_synapse_is_another_dictionary() -> None:
    field = sparse(5)
    other = vd.SparseRecurrent(vd.DenseDictionary(1.5 * field.dictionary.matrix()), field.x, lam=0.3)
    one = vd.integrate(field, field.initial_state(), at(0, 2.0), rtol=1e-10, interventions=[vd.Scale(1.5, atoms="all")])
    two = vd.integrate(other, other.initial_state(), at(0, 2.0), rtol=1e-10)
    torch.testing.assert_close(one.states[1], two.states[1], rtol=0, atol=1e-8)
    torch.testing.assert_close(one.relative_gap, two.relative_gap, rtol=1e-5, atol=0)


def test_a_lesioned_unit_keeps_its_potential_and_a_silenced_one_does_not() -> None:
    field = sparse(6)
    for kind, stays in ((vd.Lesion, True), (vd.Silence, False)):
        start = states_for(field, 1)
        run = vd.integrate(field, start, at(0, 1.0, 2.0), interventions=[kind(atoms=[2], start=0.5), kind(neurons=[1])])
        u, z = run.states[1][:, :, 2], run.states[0][:, :, 1]
        assert bool((u[1] == u[2]).all()) == stays
        assert bool((z[0] == z[2]).all()) == stays


def test_signals_settle_only_after_the_last_intervention() -> None:
    field = sparse(7, **CONVEX)
    acts = [vd.Silence(atoms=[0], start=30.0, stop=40.0)]
    run = vd.integrate(field, field.initial_state(), at(0, 200.0), gap=1e-8, interventions=acts)
    assert bool((run.settled_at > 40).all())
    assert float(field.problem().relative_gap(field.code(tuple(p[-1] for p in run.states))).max()) <= 1e-8


def test_synapses_of_one_way_have_no_certificate() -> None:
    field = sparse(8)
    act = vd.Scale(0.5, atoms=[1], synapses="feedforward")
    acting = with_interventions(field, [act]).at(0.0)
    assert bool(acting.lyapunov(acting.initial_state()).isnan().all())
    with pytest.raises(ValueError, match="breaks the symmetry"):
        acting.problem()
    with pytest.raises(ValueError, match="breaks the symmetry"):
        vd.integrate(field, field.initial_state(), at(0, 1.0), gap=1e-6, interventions=[act])
    with pytest.warns(UserWarning, match="breaks the symmetry"):
        run = vd.integrate(field, field.initial_state(), at(0, 1.0), interventions=[act])
    assert bool(run.relative_gap.isnan().all())


@settings(max_examples=10)
@given(seed=seeds, one_way=st.sampled_from(["feedforward", "feedback", "inhibition"]), factor=st.floats(-2, 3))
def test_the_stiffness_bounds_the_spectrum_of_scaled_synapses(seed: int, one_way: str, factor: float) -> None:
    field = sparse(seed, **CONVEX)
    acts = [
        vd.Scale(factor, atoms=[0, 3], synapses=one_way),
        vd.Scale(1.5, atoms=[1], start=0.0),
        vd.Silence(atoms=[2]),
    ]
    whole = with_interventions(field, acts)
    acting = whole.at(0.0)
    state = tuple(part[:1].expand_as(part) for part in states_for(field, seed))

    def flow(y: Tensor) -> Tensor:
        parts = (y[:D].expand(3, D), y[D:].expand(3, ATOMS))
        return torch.cat([part[0] for part in acting.derivative(0.0, parts)])

    jacobian = torch.autograd.functional.jacobian(flow, torch.cat([part[0] for part in state]))
    assert float(torch.linalg.eigvals(jacobian).abs().max()) <= float(whole.stiffness()) * (1 + 1e-9)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_gradients_through_interventions(gradient: str) -> None:
    """With respect to a clamp's course, a current, x and the dictionary, against finite differences."""
    field = vd.EncoderDecoder(vd.DenseDictionary(0.4 * dictionary(9).matrix()), normal(1, 2, D))

    def end(values: Tensor, current: Tensor, x: Tensor) -> Tensor:
        own = vd.EncoderDecoder(field.dictionary, x)
        acts = [
            vd.Clamp(Course([0.5, 1.0], values), neurons=[1], start=0.5, stop=1.4),
            vd.Inject(current, atoms=[2, 3], start=0.2),
            vd.Silence(atoms=[0], start=0.3),
        ]
        run = vd.integrate(own, (torch.zeros_like(x), x.new_zeros(2, ATOMS)), at(0, 2.0), rtol=1e-9, atol=1e-11,
                           gradient=gradient, interventions=acts)  # fmt: skip
        return sum((part[-1] ** 2).sum() for part in run.states)

    given_ = [normal(2, 2).requires_grad_(), normal(3, 2).requires_grad_(), normal(4, 2, D).requires_grad_()]
    found = torch.autograd.grad(end(*given_), given_)
    for index, grad in enumerate(found):
        direction = normal(5, *grad.shape)
        moved = [[t + s * 1e-4 * direction if k == index else t for k, t in enumerate(given_)] for s in (1, -1)]
        with torch.no_grad():
            difference = (end(*moved[0]) - end(*moved[1])) / 2e-4
        assert float((grad * direction).sum()) == pytest.approx(float(difference), rel=3e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("acts", "said"),
    [
        ([vd.Silence(atoms=[ATOMS])], f"atoms holds {ATOMS}; indices from 0 to {ATOMS - 1} are wanted"),
        ([vd.Clamp([1.0, 2.0], atoms=[1])], "2 values for 1 units"),
        ([vd.Silence(atoms=[1, 2]), vd.Clamp(1.0, atoms=[2], start=3.0)], "act on atom 2 at the same time"),
        ([vd.Clamp(1.0, neurons=[2], stop=3.0), vd.Inject(1.0, neurons="all", start=2.0)], "act on neuron 2 at the"),
        ([vd.Clamp(torch.ones(1, dtype=torch.float32), atoms=[1])], "torch.float32 but x is torch.float64"),
    ],
)
def test_what_does_not_fit_the_field_is_refused(acts: list[Intervention], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_interventions(sparse(), acts)


def test_interventions_one_after_another_on_a_unit_are_fine() -> None:
    field = with_interventions(sparse(), [vd.Silence(atoms=[1], stop=2.0), vd.Clamp(1.0, atoms=[1], start=2.0)])
    assert field.boundaries == (2.0,)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: vd.Silence(), "neither neurons nor atoms; one of them is wanted"),
        (lambda: vd.Silence(atoms=[1], neurons=[1]), "neurons and atoms together"),
        (lambda: vd.Silence(atoms=[1, 1]), "distinct indices"),
        (lambda: vd.Silence(atoms=[1], start=2.0, stop=2.0), "a stop after the start is wanted"),
        (lambda: vd.Clamp(math.nan, atoms=[1]), "a finite number is wanted"),
        (lambda: vd.Scale(2.0, neurons=[1], synapses="inhibition"), "atoms are wanted"),
        (lambda: Course([1.0, 1.0], [0.0, 0.0]), "numbers that increase"),
        (lambda: Course([0.0, 1.0], [0.0]), "values of a course have shape"),
    ],
)
def test_what_is_no_intervention_is_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


def test_fields_refuse_what_they_have_not() -> None:
    reduced = vd.Reduced(dictionary(), normal(1, 3, D))
    with pytest.raises(ValueError, match="at rest at every moment"):
        with_interventions(reduced, [vd.Clamp(1.0, neurons=[0])])
    with pytest.raises(ValueError, match="no encoding neurons"):
        with_interventions(vd.FeedForward(normal(1, 3, D)), [vd.Silence(atoms=[0])])


def test_an_intervention_is_a_value() -> None:
    one = vd.Clamp([1.0, 2.0], atoms=[1, 2], start=1, stop=2.0)
    assert one == vd.Clamp((1.0, 2.0), atoms=(1, 2), start=1.0, stop=2.0) != vd.Clamp(1.0, atoms=[1, 2])
    assert repr(one) == "Clamp(atoms=[1, 2], start=1.0, stop=2.0, value=[1.0, 2.0], of='potential')"
    assert one.parameters() == {"kind": "Clamp", "neurons": "none", "atoms": [1, 2], "start": 1.0, "stop": 2.0,
                                "value": [1.0, 2.0], "of": "potential"}  # fmt: skip


def test_scaled_signals_have_scaled_trajectories() -> None:
    """Fact of homogeneity: x, lam, clamps and currents times 2^100 give the states times 2^100, bit for bit."""
    size = 2.0**100
    runs = []
    for s in (1.0, size):
        field = vd.SparseRecurrent(dictionary(), s * normal(1, 3, D), lam=0.3 * s)
        acts = [vd.Clamp(0.5 * s, neurons=[0], start=0.5), vd.Inject([0.1 * s], atoms=[1]), vd.Silence(atoms=[2])]
        with_acts = vd.integrate(field, field.initial_state(), at(0, 1.0, 2.0), interventions=acts)
        runs.append(with_acts.states)
    torch.testing.assert_close(runs[1][1] / size, runs[0][1], rtol=1e-9, atol=1e-12)


@settings(max_examples=10)
@given(seed=seeds)
def test_a_reweighted_dictionary_is_its_matrix(seed: int) -> None:
    inner, rows, columns = dictionary(seed), normal(seed, D), normal(seed + 1, ATOMS)
    columns[0] = 0
    whole = Reweighted(inner, rows, columns)
    plain = vd.DenseDictionary(rows[:, None] * inner.matrix() * columns)
    torch.testing.assert_close(whole.matrix(), plain.matrix())
    x, a = normal(seed, 2, D), normal(seed, 2, ATOMS)
    torch.testing.assert_close((whole.encode(x) * a).sum(), (x * whole.decode(a)).sum())
    assert float(whole.lipschitz()) >= float(torch.linalg.matrix_norm(plain.matrix(), 2) ** 2)
    one, two = (vd.SparseProblem(P, x, 0.2) for P in (whole, plain))
    torch.testing.assert_close(one.gap(a), two.gap(a), rtol=1e-9, atol=0)
    torch.testing.assert_close(whole.scaled(torch.tensor(3)).matrix(), 8 * plain.matrix())
