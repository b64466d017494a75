"""The six fields: the paper's formulas, the problem each one solves, its Lyapunov function and its spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.references import Array, One, matrices
from tests.strategies import leads, normal, seeds, signals_for, sparse_fields, states_for
from vars_dyn.solvers.first_order import ista_step

Sparse = vd.SparseRecurrent | vd.Reduced


class Plain(NamedTuple):
    """One signal of a sparse field as plain arrays: P, x, lam, the state, and what the field computes from it."""

    P: Array
    x: Array
    lam: float
    state: tuple[Array, ...]
    derivative: tuple[Array, ...]


def plainly(field: Sparse, state: tuple[Tensor, ...]) -> list[Plain]:
    written = matrices(field.dictionary)

    def flat(parts: tuple[Tensor, ...]) -> list[Array]:
        each = zip(parts, field.event_shapes, strict=True)
        return [part.detach().numpy().reshape(-1, math.prod(event)) for part, event in each]

    x = field.x.numpy().reshape(-1, field.dictionary.signal_size)
    lam = field.lam.numpy().reshape(-1)
    states, derivatives = flat(state), flat(field(0.0, state))
    each = len(x) // len(written)
    return [
        Plain(written[i // each], x[i], float(lam[i]), tuple(s[i] for s in states), tuple(s[i] for s in derivatives))
        for i in range(len(x))
    ]


def gate(u: Array, theta: float, nonnegative: bool) -> Array:
    return np.maximum(u - theta, 0) if nonnegative else np.sign(u) * np.maximum(np.abs(u) - theta, 0)


def quadratic(P: Array, alpha: float, beta: float, gamma: float) -> Array:
    """Q of F(a) = 1/2 a.Q a - b.a / alpha + lam |a|_1 (docs/mathematics.md, "What an equilibrium solves")."""
    return (gamma - 1 / alpha) * P.T @ P + (beta - gamma) * np.eye(P.shape[1])


def scikit_learns_argmin(P: Array, x: Array, lam: float, field: Sparse) -> tuple[Array, One]:
    """The argmin of F by scikit-learn, and the problem that it was given."""
    alpha, beta, gamma = field.alpha, field.beta, field.gamma
    c, ridge = gamma - 1 / alpha, beta - gamma
    if c > 1e-12 and ridge >= 0:
        one = One(P, x / (alpha * c), lam / c, ridge / c, field.nonnegative)
    else:
        R = np.linalg.cholesky(quadratic(P, alpha, beta, gamma)).T
        one = One(R, np.linalg.solve(R.T, P.T @ x / alpha), lam, 0.0, field.nonnegative)
    return one.argmin(), one


@given(field=sparse_fields(), seed=seeds)
def test_sparse_fields_are_eq_18_to_21(field: Sparse, seed: int) -> None:
    alpha, beta, gamma = field.alpha, field.beta, field.gamma
    for P, x, lam, state, derivative in plainly(field, states_for(field, seed)):
        u = state[-1]
        a = gate(u, lam / beta, field.nonnegative)
        z = state[0] if len(state) == 2 else (P @ a + x) / alpha
        du = -beta * u - gamma * (P.T @ P - np.eye(len(a))) @ a + P.T @ z
        np.testing.assert_allclose(derivative[-1], du / field.tau_u, rtol=1e-10, atol=1e-11)
        if len(state) == 2:
            dz = -alpha * z + P @ a + x
            np.testing.assert_allclose(derivative[0], dz / field.tau_z, rtol=1e-10, atol=1e-11)


@given(field=sparse_fields(), seed=seeds)
def test_without_a_gradient_the_derivative_is_the_same(field: Sparse, seed: int) -> None:
    state = states_for(field, seed)
    kept = tuple(part.clone() for part in state)
    plain = field(0.0, state)
    with torch.no_grad():
        quick = field(0.0, state)
    for a, b, c, d in zip(plain, quick, state, kept, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-13, atol=1e-13)
        assert torch.equal(c, d)


@given(P=strategies.dense(), seed=seeds)
def test_the_defaults_are_eq_8_9_and_20(P: vd.DenseDictionary, seed: int) -> None:
    W, signal, theta = P.weight.numpy(), signals_for(P, seed, ()), 0.2
    neurons, encoders = normal(seed + 1, *P.signal_shape), 2 * normal(seed + 2, *P.code_shape)
    x, z, u = signal.numpy(), neurons.numpy(), encoders.numpy()
    a = gate(u, theta, nonnegative=False)
    # lam is the weight in Eq. 10's objective, so the threshold is half of it.
    dz, du = vd.SparseRecurrent(P, signal, lam=2 * theta)(0.0, (neurons, encoders))
    np.testing.assert_allclose(dz, -z + W @ a + x, atol=1e-12)
    np.testing.assert_allclose(du, -2 * u - 2 * (W.T @ W - np.eye(len(a))) @ a + W.T @ z, atol=1e-12)
    (reduced,) = vd.Reduced(P, signal, lam=2 * theta)(0.0, (encoders,))
    np.testing.assert_allclose(reduced, -2 * (u - a) - W.T @ W @ a + W.T @ x, atol=1e-12)


@given(P=strategies.dense(), lead=leads, seed=seeds, alpha=st.sampled_from([0.5, 1.0, 2.0]))
def test_linear_fields_are_eq_2_to_7(P: vd.DenseDictionary, lead: tuple[int, ...], seed: int, alpha: float) -> None:
    W, x = P.weight.numpy(), signals_for(P, seed, lead)
    z, u = states_for(vd.SparseRecurrent(P, x), seed + 1)
    rest = x.numpy() - alpha * z.numpy()
    A = W @ W.T

    def check(got: Tensor, wanted: Array) -> None:
        np.testing.assert_allclose(got, wanted, atol=1e-12)

    check(vd.FeedForward(x, alpha, tau_z=2.0)(0.0, (z,))[0], rest / 2)
    check(vd.Recurrent(P, x, alpha, tau_z=2.0)(0.0, (z,))[0], (rest + z.numpy() @ A) / 2)
    check(vd.Recurrent(torch.from_numpy(A), x, alpha, tau_z=2.0)(0.0, (z,))[0], (rest + z.numpy() @ A) / 2)
    dz, du = vd.EncoderDecoder(P, x, alpha, beta=1.5, tau_z=2.0, tau_u=0.5)(0.0, (z, u))
    check(dz, (rest + u.numpy() @ W.T) / 2)
    check(du, (z.numpy() @ W - 1.5 * u.numpy()) * 2)


@given(field=sparse_fields(), seed=seeds)
def test_v_falls_at_the_stated_rate(field: Sparse, seed: int) -> None:
    state = tuple(part.requires_grad_() for part in states_for(field, seed))
    slopes = torch.autograd.grad(field.lyapunov(state).sum(), state)
    velocities = field(0.0, state)
    rate, wanted = torch.zeros(field.signal_batch).double(), torch.zeros(field.signal_batch).double()
    size = torch.zeros(field.signal_batch).double()
    for name, event, slope, velocity in zip(field.state_names, field.event_shapes, slopes, velocities, strict=True):
        passes = field.gate.derivative(state[-1]) if name == "u" else 1.0
        tau = field.tau_u if name == "u" else field.tau_z
        rate = rate + (slope * velocity).flatten(-len(event)).sum(-1)
        size = size + (slope * velocity).abs().flatten(-len(event)).sum(-1)
        wanted = wanted - tau * (passes * velocity.square()).flatten(-len(event)).sum(-1)
    assert (wanted <= 0).all()
    assert ((rate - wanted).abs() <= 1e-11 * (1 + size)).all()


@given(P=strategies.dense(), lead=leads, seed=seeds)
def test_v_of_the_linear_fields_falls_as_their_speed_squared(
    P: vd.DenseDictionary, lead: tuple[int, ...], seed: int
) -> None:
    x = signals_for(P, seed, lead)
    A = normal(seed, len(P.weight), len(P.weight))
    for field in (
        vd.FeedForward(x, 1.5, 0.5),
        vd.Recurrent(P, x, 1.5, 0.5),
        vd.Recurrent(A @ A.mT, x, 0.7),
        vd.Attention(P, x),
    ):
        (z,) = (part.requires_grad_() for part in states_for(field, seed + 1))
        (slope,) = torch.autograd.grad(field.lyapunov((z,)).sum(), z)
        (velocity,) = field(0.0, (z,))
        torch.testing.assert_close(
            (slope * velocity).sum(-1), -field.tau_z * velocity.square().sum(-1), rtol=1e-9, atol=1e-11
        )


@given(P=strategies.dense(), seed=seeds, nonnegative=st.booleans())
def test_v_at_rest_is_the_objective(P: vd.DenseDictionary, seed: int, nonnegative: bool) -> None:
    x = signals_for(P, seed)
    field = vd.SparseRecurrent(P, x, 0.3, threshold="nonnegative" if nonnegative else "soft")
    _, u = states_for(field, seed + 1)
    code = field.code((x, u))
    z = P.decode(code) + x
    objective = vd.SparseProblem(P, x, 0.3, nonnegative=nonnegative).objective(code)
    torch.testing.assert_close(field.lyapunov((z, u)), objective, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        vd.Reduced(P, x, 0.3, threshold=field.parameters()["threshold"]).lyapunov((u,)), objective
    )
    # V adds half the squared distance of z from P a + x, and every entry of z is off by one here.
    torch.testing.assert_close(field.lyapunov((z + 1, u)) - objective, torch.full((3,), x.shape[-1] / 2).double())


def jacobian(field: vd.Field, state: tuple[Tensor, ...]) -> Array:
    """The Jacobian of the field of one signal, with rows and columns in the order of the state's parts."""
    sizes = [part.numel() for part in state]

    def f(flat: Tensor) -> Tensor:
        parts = tuple(p.reshape(s.shape) for p, s in zip(flat.split(sizes), state, strict=True))
        return torch.cat([part.flatten() for part in field(0.0, parts)])

    return torch.autograd.functional.jacobian(f, torch.cat([part.flatten() for part in state])).numpy()


def check_spectrum(field: vd.Field, state: tuple[Tensor, ...]) -> Array:
    eigenvalues = np.linalg.eigvals(jacobian(field, state))
    bound = float(field.stiffness().max())
    assert np.abs(eigenvalues).max() <= bound * (1 + 1e-7)
    assert np.abs(eigenvalues.imag).max() <= 1e-6 * bound
    return eigenvalues.real


@given(
    P=strategies.dense(), parameters=strategies.constants(), seed=seeds, kind=st.sampled_from(["soft", "nonnegative"])
)
def test_stiffness_bounds_a_real_spectrum_for_every_active_set(
    P: vd.DenseDictionary, parameters: dict[str, float], seed: int, kind: str
) -> None:
    field = vd.SparseRecurrent(P, signals_for(P, seed, ()), 0.4, threshold=kind, **parameters)
    for scale in (0.05, 1.0, 20.0):
        check_spectrum(field, tuple(scale * part for part in states_for(field, seed)))
    del parameters["tau_z"]
    reduced = vd.Reduced(P, field.x, 0.4, threshold=kind, **parameters)
    for scale in (0.05, 1.0, 20.0):
        check_spectrum(reduced, tuple(scale * part for part in states_for(reduced, seed)))


def test_the_stiffness_is_reached_where_all_units_are_active() -> None:
    P, x = vd.DenseDictionary(normal(0, 6, 4)), normal(1, 6)
    active = x.new_full((4,), 9.0)
    for field, state in (
        (vd.SparseRecurrent(P, x, 0.1), (x, active)),
        (vd.SparseRecurrent(P, x, 0.1, alpha=2.0, tau_u=0.5), (x, active)),
        (vd.EncoderDecoder(P, x), (x, active)),
        (vd.Reduced(P, x, 0.1), (active,)),
        (vd.Recurrent(P, x), (x,)),
        (vd.FeedForward(x, 3.0, 2.0), (x,)),
    ):
        largest = np.abs(check_spectrum(field, state)).max()
        assert float(field.stiffness()) == pytest.approx(largest, rel=1e-6)


@given(P=strategies.dense(), seed=seeds, alpha=st.sampled_from([0.1, 1.0, 3.0]))
def test_stiffness_of_linear_fields_bounds_their_spectrum(P: vd.DenseDictionary, seed: int, alpha: float) -> None:
    x = signals_for(P, seed, ())
    A = P.weight @ P.weight.mT
    for field in (
        vd.FeedForward(x, alpha, 0.5),
        vd.Recurrent(P, x, alpha, 0.5),
        vd.Recurrent(A, x, alpha, 0.5),
        vd.Attention(P, x),
        vd.EncoderDecoder(P, x, alpha, 2.0, 0.5, 3.0),
    ):
        check_spectrum(field, states_for(field, seed))


def test_every_element_of_a_batch_has_its_own_stiffness() -> None:
    weight, x = normal(0, 2, 5, 4), normal(1, 2, 3, 5)
    for kind in (vd.SparseRecurrent, vd.Reduced, vd.EncoderDecoder, vd.Recurrent):
        together = kind(vd.DenseDictionary(weight), x).stiffness()
        apart = [kind(vd.DenseDictionary(w), x_).stiffness() for w, x_ in zip(weight, x, strict=True)]
        torch.testing.assert_close(together, torch.stack(apart))


def convex(field: Sparse) -> bool:
    """Whether F is strictly convex, by its eigenvalues. The tests treat c = 0 with beta = gamma separately."""
    return all(
        np.linalg.eigvalsh(quadratic(P, field.alpha, field.beta, field.gamma))[0] > 1e-9
        for P in matrices(field.dictionary)
    )


@given(field=sparse_fields(), seed=seeds)
def test_at_rest_the_code_solves_the_stated_problem(field: Sparse, seed: int) -> None:
    assume(field.instability() is None)
    problem = field.problem()
    solution = vd.solve(problem)
    assert (solution.kkt_residual <= 1e-8).all()
    state = field.state_at(solution.code)
    size = 1 + max(float(part.abs().max()) for part in state)
    for velocity in field(0.0, state):
        assert float(velocity.abs().max()) <= 1e-8 * size / min(field.constants.get("tau_z", 1.0), field.tau_u)
    torch.testing.assert_close(field.code(state), solution.code, rtol=0, atol=1e-8 * size)
    torch.testing.assert_close(
        field.neurons(state), (field.dictionary.decode(solution.code) + field.x) / field.alpha, rtol=1e-9, atol=1e-8
    )
    codes = solution.code.numpy().reshape(-1, field.dictionary.code_size)
    for (P, x, lam, _, _), code in zip(plainly(field, state), codes, strict=True):
        c, ridge = field.gamma - 1 / field.alpha, field.beta - field.gamma
        if abs(c) <= 1e-12 and abs(ridge) <= 1e-12:
            assert (code == 0).all()
            continue
        reference, one = scikit_learns_argmin(P, x, lam, field)
        assert one.objective(code) <= one.objective(reference) + 1e-10 * (1 + one.x @ one.x)
        if one.curvature(code) > 1e-2 and one.kkt(reference) <= 1e-9:
            np.testing.assert_allclose(code, reference, atol=1e-6)


@given(field=sparse_fields(strategies.dense()))
def test_instability_is_said_where_f_has_no_minimum(field: Sparse) -> None:
    c, ridge = field.gamma - 1 / field.alpha, field.beta - field.gamma
    if abs(c) <= 1e-12 and abs(ridge) <= 1e-12:
        drive = field.dictionary.encode(field.x)
        drive = drive.amax(-1).clamp(min=0) if field.nonnegative else drive.abs().amax(-1)
        stable = bool((drive <= field.alpha * field.lam).all())
    else:
        stable = convex(field) or (c >= -1e-12 and ridge >= -1e-12)
    reason = field.instability()
    assert (reason is None) == stable
    if reason is None:
        field.problem()
        return
    # If F is not convex, a signal may still come to rest, but nothing proves that it does. The field must say so.
    said = "has no stable equilibrium" if abs(c) + abs(ridge) <= 1e-12 else "no stable equilibrium is proved"
    assert said in reason
    with pytest.raises(ValueError, match=said):
        field.problem()


#: (alpha, beta, gamma), one choice for each part of the range where F is convex.
CONVEX = {
    "LASSO": (1.0, 2.0, 2.0),
    "elastic net": (1.0, 3.0, 2.0),
    "scaled": (1.6, 1.5, 1.5),
    "no curvature": (2.0, 1.0, 0.5),
    "negative curvature": (0.8, 3.0, 1.0),
    "negative ridge": (1.0, 2.0, 2.3),
}


@pytest.mark.parametrize("threshold", ["soft", "nonnegative"])
@pytest.mark.parametrize("parameters", CONVEX.values(), ids=CONVEX)
def test_trajectories_end_at_scikit_learns_solution(parameters: tuple[float, float, float], threshold: str) -> None:
    alpha = parameters[0]
    # The dictionary is tall, with singular values from 0.8 to 1.4, so every case above is convex and well conditioned.
    left, right = (torch.linalg.qr(normal(seed, *shape))[0] for seed, shape in ((0, (7, 5)), (1, (5, 5))))
    P = vd.DenseDictionary(left @ torch.diag(torch.linspace(0.8, 1.4, 5).double()) @ right)
    x = signals_for(P, 2, (6,))
    lam = P.encode(x).abs().amax(-1) / alpha * torch.tensor([1e-3, 0.05, 0.2, 0.5, 0.9, 1.1]).double()
    field = vd.SparseRecurrent(P, x, lam, *parameters, tau_z=0.7, tau_u=1.3, threshold=threshold)
    reduced = vd.Reduced(P, x, lam, *parameters, threshold=threshold)
    assert convex(field)
    for each in (field, reduced):
        times = torch.tensor([0.0, 300.0])
        end = vd.integrate(each, each.initial_state(), times, gap=1e-12, check_every=10.0)
        assert (end.relative_gap <= 1e-12).all()
        code = each.code(tuple(part[-1] for part in end.states))
        for row, a in enumerate(code.numpy()):
            reference, one = scikit_learns_argmin(P.weight.numpy(), x[row].numpy(), float(lam[row]), each)
            assert one.kkt(reference) <= 1e-9
            np.testing.assert_allclose(a, reference, atol=1e-6)
        polished = vd.solve(each.problem(), start=code)
        assert (polished.kkt_residual <= 1e-8).all()
        torch.testing.assert_close(polished.code, code, rtol=0, atol=1e-6)


@settings(max_examples=8)
@given(P=strategies.dense(max_d=6, max_atoms=9), seed=seeds, threshold=st.sampled_from(["soft", "nonnegative"]))
def test_any_trajectory_leads_to_the_lasso(P: vd.DenseDictionary, seed: int, threshold: str) -> None:
    shares = torch.tensor([1e-3, 0.03, 0.2, 0.5, 0.9, 1.2], dtype=torch.float64)
    x = signals_for(P, seed, (len(shares),))
    field = vd.SparseRecurrent(P, x, shares * P.encode(x).abs().amax(-1), threshold=threshold)
    end = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 60.0]), gap=1e-12, check_every=5.0)
    code = field.code(tuple(part[-1] for part in end.states))
    polished = vd.solve(field.problem(), start=code)
    assert (polished.kkt_residual <= 1e-8).all()
    for row, (near, a) in enumerate(zip(code.numpy(), polished.code.numpy(), strict=True)):
        reference, one = scikit_learns_argmin(P.weight.numpy(), x[row].numpy(), float(field.lam[row]), field)
        assert one.objective(a) <= one.objective(reference) + 1e-12 * (1 + one.x @ one.x)
        gap = float(end.relative_gap[row]) * 0.5 * one.x @ one.x
        assert one.objective(near) - one.objective(a) <= gap + 1e-13
        if one.curvature(a) > 0.1 and one.kkt(reference) <= 1e-9:
            # On the active atoms F is m-strongly convex, so m/2 |near - argmin|^2 <= F(near) - F(argmin) <= gap.
            reach = math.sqrt(2 * gap / one.curvature(a)) if end.relative_gap[row] <= 1e-12 else math.inf
            assert np.linalg.norm(near - reference) <= 2 * reach + 1e-6
    # The last signal's lam is above its critical weight, so its encoders never become active enough to matter.
    assert end.relative_gap[-1] <= 1e-12


def test_one_euler_step_of_a_half_is_one_ista_step() -> None:
    P = vd.DenseDictionary(normal(0, 6, 9) / 3)
    x = signals_for(P, 1, (4,))
    W, lam = P.weight.numpy(), 0.4
    u = 2 * normal(2, 4, 9)
    field = vd.Reduced(P, x, lam)
    trajectory = vd.integrate(field, (u,), torch.tensor([0.0, 0.5]), method="euler")
    code = field.code((trajectory.states[0][-1],))
    a = gate(u.numpy(), lam / 2, nonnegative=False)
    # Eq. 12 with L = 2.
    stepped = gate(a - (a @ W.T - x.numpy()) @ W / 2, lam / 2, nonnegative=False)
    np.testing.assert_allclose(code, stepped, atol=1e-14)
    ista = ista_step(field.problem(), torch.from_numpy(a), torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(code, ista, rtol=0, atol=1e-14)
    assert (np.abs(stepped) > 0).any()


@pytest.mark.parametrize("normalize", [True, False])
def test_one_euler_step_of_attention_is_eq_14(normalize: bool) -> None:
    tokens, projection = normal(0, 2, 6, 3), normal(1, 5, 3)
    field = vd.Attention.from_tokens(tokens, projection, normalize_atoms=normalize)
    with pytest.warns(UserWarning, match="no stable equilibrium"):
        trajectory = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 1.0]), method="euler")
    X = tokens.numpy()
    q = X / np.linalg.norm(X, axis=-1, keepdims=True)
    Phi = np.exp(q @ projection.numpy().T - 0.5) / math.sqrt(5)
    Phi = Phi / np.linalg.norm(Phi, axis=1, keepdims=True) if normalize else Phi
    # This is attention with its residual connection.
    np.testing.assert_allclose(trajectory.states[0][-1].mT, Phi @ Phi.transpose(0, 2, 1) @ X + X, rtol=1e-12)


def scaled(seed: int, sigma: float) -> vd.DenseDictionary:
    weight = normal(seed, 6, 4)
    return vd.DenseDictionary(weight * sigma / torch.linalg.matrix_norm(weight, 2))


@pytest.mark.parametrize("kind", [vd.Recurrent, vd.EncoderDecoder])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_linear_feedback_below_one_settles_where_eq_5_does(kind: type[vd.Field], alpha: float) -> None:
    P = scaled(0, 0.8 * math.sqrt(alpha))
    x = signals_for(P, 1, (3,))
    field = kind(P, x, alpha)
    assert field.instability() is None
    end = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 120.0]), rtol=1e-9, atol=1e-11)
    A = P.weight @ P.weight.mT
    wanted = torch.linalg.solve(alpha * torch.eye(6).double() - A, x.mT).mT
    state = tuple(part[-1] for part in end.states)
    torch.testing.assert_close(field.neurons(state), wanted, rtol=0, atol=1e-7)
    torch.testing.assert_close(field.neurons(field.state_at(vd.solve(field.problem()).code)), wanted, rtol=0, atol=1e-9)
    assert (end.relative_gap <= 1e-6).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda P, x: vd.Recurrent(P, x),
        lambda P, x: vd.Recurrent(P.weight @ P.weight.mT, x),
        lambda P, x: vd.EncoderDecoder(P, x),
        lambda P, x: vd.Attention(P, x),
        lambda P, x: vd.SparseRecurrent(P, x, 0.01, 1.0, 1.0, 1.0),
        lambda P, x: vd.Reduced(P, x, 0.01, 1.0, 1.0, 0.5),
    ],
)
def test_what_has_no_stable_equilibrium_says_so_everywhere(
    make: Callable[[vd.DenseDictionary, Tensor], vd.Field],
) -> None:
    P = scaled(0, 1.2)
    field = make(P, signals_for(P, 1, (3,)))
    assert "no stable equilibrium" in (field.instability() or "")
    times = torch.tensor([0.0, 30.0])
    with pytest.raises(ValueError, match="no stable equilibrium"):
        field.problem()
    with pytest.raises(ValueError, match="no stable equilibrium"):
        vd.equilibrium(field)
    with pytest.raises(ValueError, match=r"^gap is 1e-06, but .* no stable equilibrium"):
        vd.integrate(field, field.initial_state(), times, gap=1e-6)
    with pytest.warns(UserWarning, match="no stable equilibrium"):
        trajectory = vd.integrate(field, field.initial_state(), times)
    assert trajectory.relative_gap.isnan().all()
    # The warning is right: the state grows.
    assert (trajectory.states[-1][-1].norm(dim=-1) > 5 * field.x.norm(dim=-1)).any()


def test_without_curvature_and_ridge_only_a_weak_drive_rests() -> None:
    P, x = vd.DenseDictionary(torch.eye(2).double()), torch.tensor([[0.3, -0.2], [0.1, 0.5]]).double()
    field = vd.SparseRecurrent(P, x, 0.51, 1.0, 1.0, 1.0)
    assert field.instability() is None
    assert (vd.solve(field.problem()).code == 0).all()
    assert "for 1 signals" in str(vd.SparseRecurrent(P, x, 0.4, 1.0, 1.0, 1.0).instability())
    # If codes must not be negative, nothing grows towards negative codes.
    assert vd.SparseRecurrent(P, -x, 0.25, 1.0, 1.0, 1.0, threshold="nonnegative").instability() is None
    assert vd.SparseRecurrent(P, -x, 0.25, 1.0, 1.0, 1.0).instability() is not None


def test_the_reduced_and_the_full_field_end_alike() -> None:
    P = vd.DenseDictionary(normal(0, 12, 6) / 3)
    x = signals_for(P, 1, (5,))
    times = torch.tensor([0.0, 300.0])
    codes = []
    for field in (vd.SparseRecurrent(P, x, 0.2), vd.Reduced(P, x, 0.2)):
        end = vd.integrate(field, field.initial_state(), times, gap=1e-13, check_every=10.0)
        codes.append(field.code(tuple(part[-1] for part in end.states)))
        torch.testing.assert_close(
            field.neurons(tuple(part[-1] for part in end.states)), P.decode(codes[-1]) + x, rtol=0, atol=1e-6
        )
    torch.testing.assert_close(codes[0], codes[1], rtol=0, atol=1e-7)


def test_recurrence_may_be_any_symmetric_positive_semi_definite_matrix() -> None:
    root = normal(0, 5, 3) / 4
    A, x = root @ root.mT, normal(1, 2, 5)
    field = vd.Recurrent(A, x)
    wanted = torch.linalg.solve(torch.eye(5).double() - A, x.mT).mT
    torch.testing.assert_close(vd.solve(field.problem()).code, wanted, rtol=0, atol=1e-10)
    assert float(field.stiffness()) == pytest.approx(1.0, rel=1e-9)
    vd.Recurrent(torch.zeros(5, 5).double(), x)
    with pytest.raises(ValueError, match=r"^feedback is not symmetric"):
        vd.Recurrent(A + torch.triu(torch.full((5, 5), 1e-6).double(), 1), x)
    with pytest.raises(ValueError, match=r"^feedback has the eigenvalue -0.1"):
        vd.Recurrent(A - 0.1 * torch.eye(5).double(), x)
    with pytest.raises(ValueError, match=r"^feedback holds NaN"):
        vd.Recurrent(A * math.nan, x)


def test_feed_forward_signals_may_have_any_event_shape() -> None:
    x = normal(0, 2, 3, 4)
    assert vd.FeedForward(x).signal_batch == (2, 3)
    field = vd.FeedForward(x, alpha=2.0, signal_shape=(3, 4))
    assert field.signal_batch == (2,)
    assert field.lyapunov(field.initial_state()).shape == (2,)
    torch.testing.assert_close(vd.solve(field.problem()).code, x / 2)


@given(field=sparse_fields())
def test_it_starts_at_the_signal_with_silent_encoders(field: Sparse) -> None:
    state = field.initial_state()
    assert isinstance(state, tuple)
    assert not bool(state[-1].any())
    assert state[-1].shape == (*field.signal_batch, *field.dictionary.code_shape)
    if len(state) == 2:
        assert torch.equal(state[0], field.x)
    assert not bool(field.code(state).any())


def test_a_state_of_one_part_may_be_a_bare_tensor() -> None:
    P, x = vd.DenseDictionary(normal(0, 5, 4)), normal(1, 3, 5)
    for field in (vd.FeedForward(x), vd.Recurrent(P, x), vd.Attention(P, x), vd.Reduced(P, x)):
        (part,) = states_for(field, 2)
        bare = field(0.0, part)
        assert isinstance(bare, Tensor)
        assert torch.equal(bare, field(0.0, (part,))[0])
    with pytest.raises(ValueError, match=r"^the state is a tuple of 1; a tuple \(z, u\) is wanted"):
        vd.SparseRecurrent(P, x)(0.0, x)
    with pytest.raises(ValueError, match=r"^z has shape \(3, 4\); \(3, 5\) is wanted"):
        vd.FeedForward(x)(0.0, x[:, :4])


def test_states_that_do_not_fit_are_refused() -> None:
    P, x = vd.DenseDictionary(normal(0, 5, 4)), normal(1, 3, 5)
    field, times = vd.SparseRecurrent(P, x), torch.tensor([0.0, 1.0])
    z, u = field.initial_state()
    for state, message in [
        ((z, u[:2]), r"^u has shape \(2, 4\); \(3, 4\) is wanted"),
        ((u, z), r"^z has shape \(3, 4\); \(3, 5\) is wanted"),
        ((z,), r"^the state is a tuple of 1"),
        ((z.float(), u), r"^z is torch.float32 but x is torch.float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            vd.integrate(field, state, times)


@given(field=sparse_fields(), seed=seeds)
def test_parts_of_a_flattened_field_are_the_fields(field: Sparse, seed: int) -> None:
    state = states_for(field, seed)
    flat = field.flat()
    flattened = tuple(p.reshape(*flat.signal_batch, *e) for p, e in zip(state, field.event_shapes, strict=True))
    whole = flat(0.0, flattened)
    for part, original in zip(whole, field(0.0, state), strict=True):
        torch.testing.assert_close(part.reshape(original.shape), original, rtol=1e-12, atol=1e-13)
    index = torch.tensor([len(flat.x) - 1, 0, 0])
    chosen = flat.select(index)
    taken = tuple(part[index] for part in flattened)
    for part, original in zip(chosen(0.0, taken), whole, strict=True):
        torch.testing.assert_close(part, original[index], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(chosen.lyapunov(taken), flat.lyapunov(flattened)[index], rtol=1e-10, atol=1e-11)


def test_fields_can_be_moved_cut_off_and_given_other_tensors() -> None:
    P, x = vd.DenseDictionary(normal(0, 5, 4).requires_grad_()), normal(1, 3, 5)
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    field = vd.SparseRecurrent(P, x, torch.tensor(0.2, dtype=torch.float64), alpha, beta=2.5)
    state = states_for(field, 2)
    derivative = field(0.0, state)
    gradients = torch.autograd.grad(sum(part.square().sum() for part in derivative), (P.weight, alpha))
    assert all(bool(g.abs().max() > 0) for g in gradients)
    cut = field.detach()
    assert not any(t.requires_grad for t in cut.tensors())
    assert all(torch.equal(a, b) for a, b in zip(cut(0.0, state), derivative, strict=True))
    single = field.to(dtype=torch.float32)
    assert {part.dtype for part in single.initial_state()} == {torch.float32}
    for a, b in zip(single(0.0, tuple(p.float() for p in state)), derivative, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
    other = field.with_tensors(tuple(2 * t for t in field.tensors()))
    assert (other.alpha.item(), other.beta) == (3.0, 2.5)
    assert torch.equal(other.x, 2 * x)
    assert torch.equal(other.lam, 2 * field.lam)
    assert torch.equal(field.x, x)


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma", "tau_z", "tau_u"])
def test_constants_may_be_learned_in_silence(name: str) -> None:
    torch.set_warn_always(True)
    try:
        P, x = vd.DenseDictionary(normal(0, 5, 4)), normal(1, 3, 5)
        value = torch.tensor(1.5 if name == "gamma" else 2.0, dtype=torch.float64, requires_grad=True)
        field = vd.SparseRecurrent(P, x, 0.2, **{name: value})
        value_at = field.lyapunov(states_for(field, 2)).sum() + field.problem().objective(normal(3, 3, 4)).sum()
        assert bool(value_at.isfinite())
        assert field.instability() is None
        assert bool(field.stiffness() > 0)
        assert field.parameters()[name] == value.item()
        end = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 1.0]))
        (slope,) = torch.autograd.grad(sum(part.square().sum() for part in end.states), value)
        assert abs(float(slope)) > 1e-3
    finally:
        torch.set_warn_always(False)


def test_parameters_are_plain_and_complete() -> None:
    P, x = vd.DenseDictionary(normal(0, 5, 4)), normal(1, 3, 5)
    field = vd.SparseRecurrent(P, x, 0.1, torch.tensor(1.5), 2.5, 0.5, 0.25, 4.0, "nonnegative")
    assert field.parameters() == {
        "field": "SparseRecurrent", "alpha": 1.5, "beta": 2.5, "gamma": 0.5, "tau_z": 0.25, "tau_u": 4.0,
        "threshold": "nonnegative",
    }  # fmt: skip
    assert vd.FeedForward(x, 2.0).parameters() == {"field": "FeedForward", "alpha": 2.0, "tau_z": 1.0}
    assert str(field).startswith("SparseRecurrent(lam=0.1, alpha=1.5, beta=2.5, ")
    with pytest.raises(AttributeError, match="has no attribute 'delta'"):
        field.delta  # noqa: B018


P = vd.DenseDictionary(normal(0, 4, 3))
x = normal(1, 2, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vd.SparseRecurrent(P, normal(1, 2, 3)), r"^x has shape \(2, 3\)"),
        (lambda: vd.SparseRecurrent(P, x.float()), r"^x is torch.float32"),
        (lambda: vd.SparseRecurrent(P, x / 0), r"^x holds NaN or infinite"),
        (lambda: vd.SparseRecurrent(P, x, -0.1), r"^lam is -0.1"),
        (lambda: vd.SparseRecurrent(P, x, torch.ones(3).double()), r"^lam has shape \(3,\)"),
        (lambda: vd.SparseRecurrent(P, x, alpha=0.0), r"^alpha is 0.0; a number above zero"),
        (lambda: vd.SparseRecurrent(P, x, beta=-1.0), r"^beta is -1.0"),
        (lambda: vd.SparseRecurrent(P, x, gamma=math.nan), r"^gamma is nan"),
        (lambda: vd.SparseRecurrent(P, x, tau_z=0.0), r"^tau_z is 0.0"),
        (lambda: vd.SparseRecurrent(P, x, tau_u=math.inf), r"^tau_u is inf"),
        (lambda: vd.SparseRecurrent(P, x, beta=torch.ones(2)), r"^beta is torch.float32 but x is torch.float64"),
        (lambda: vd.SparseRecurrent(P, x, beta=torch.ones(4).double()), r"^beta has shape \(4,\); one number per atom"),
        (lambda: vd.SparseRecurrent(P, x, threshold="gelu"), r"^threshold is 'gelu'; one of soft, nonnegative"),
        (lambda: vd.Reduced(P, x, threshold="hard"), r"^threshold is 'hard'"),
        (lambda: vd.FeedForward(x, alpha=-1.0), r"^alpha is -1.0"),
        (lambda: vd.EncoderDecoder(P, x, tau_u=0.0), r"^tau_u is 0.0"),
        (lambda: vd.Attention(vd.DenseDictionary(normal(0, 2, 4, 3)), x), r"^x has shape \(2, 4\)"),
    ],
)
def test_what_makes_no_field_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
