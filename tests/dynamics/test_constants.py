"""Constants of single signals, neurons and atoms: the field, its V, its problem, its rates, its runs and records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests.references import interior_point
from tests.strategies import normal, seeds, states_for

SIGNALS = 3
KINDS = (vd.SparseRecurrent, vd.Reduced)
#: What alpha, beta and gamma are each of.
SPREADS = [
    ("neuron", "number", "number"),
    ("number", "atom", "number"),
    ("neuron", "atom", "number"),
    ("signal", "signal", "signal"),
    ("signal", "both", "number"),
    ("number", "atom", "signal"),
]
spreads = st.sampled_from(SPREADS)


def dictionary_of(seed: int, conv: bool = False) -> vd.Dictionary:
    if conv:
        return vd.ConvDictionary(normal(seed, 3, 2, 2, 2) / 8**0.5, (2, 3, 2))
    return vd.DenseDictionary(torch.nn.functional.normalize(normal(seed, 5, 8), dim=0))


def spread(seed: int, of: str, low: float, high: float, dictionary: vd.Dictionary, constant: str) -> float | Tensor:
    """Numbers between `low` and `high`; of every signal, unit, both, or one for all."""
    if of == "number":
        return 0.5 * (low + high)
    event = dictionary.signal_shape if constant == "alpha" else dictionary.code_shape
    shape = {"signal": (SIGNALS,), "both": (SIGNALS, *event)}.get(of, event)
    return low + (high - low) * normal(seed, *shape).sigmoid()


def constants_of(
    seed: int, spread_of: tuple[str, str, str], dictionary: vd.Dictionary, regime: str = "net"
) -> dict[str, float | Tensor]:
    """Constants for which F is an elastic net, or of a convex F with gamma < 1/alpha, or with beta < gamma."""
    ranges = {
        "net": ((0.8, 1.6), (2.2, 3.5), (1.5, 2.1)),
        "weak": ((0.8, 1.2), (3.5, 5.0), (0.2, 0.5)),
        "any": ((0.5, 2.0), (0.5, 3.0), (-0.5, 3.0)),
    }[regime]
    names = zip(("alpha", "beta", "gamma"), spread_of, ranges, strict=True)
    return {name: spread(seed + k, of, *r, dictionary, name) for k, (name, of, r) in enumerate(names)}


def plainly(value: float | Tensor, field: vd.Field, event: tuple[int, ...]) -> np.ndarray:
    """A constant of the field, one number per signal and unit."""
    shape = (SIGNALS, *event)
    return torch.as_tensor(value, dtype=torch.float64).detach().expand(shape).reshape(SIGNALS, -1).numpy()


def written(field: vd.Field) -> list[dict[str, np.ndarray]]:
    """P, x, alpha, beta and gamma of every signal as plain arrays."""
    signal, code = field.dictionary.signal_shape, field.dictionary.code_shape
    P, x = field.dictionary.matrix().numpy(), field.x.reshape(SIGNALS, -1).numpy()
    alpha, beta = plainly(field.alpha, field, signal), plainly(field.beta, field, code)
    gamma = plainly(field.gamma, field, code)
    return [{"P": P, "x": x[k], "alpha": alpha[k], "beta": beta[k], "gamma": gamma[k, :1]} for k in range(SIGNALS)]


def form(of: dict[str, np.ndarray]) -> np.ndarray:
    """Q of F(a) = 1/2 a.Q a - b.a + lam |a|_1."""
    return of["P"].T @ np.diag(of["gamma"] - 1 / of["alpha"]) @ of["P"] + np.diag(of["beta"] - of["gamma"])


@settings(max_examples=10)
@given(
    seed=seeds,
    of=spreads,
    kind=st.sampled_from(KINDS),
    conv=st.booleans(),
    gate=st.sampled_from(["soft", "nonnegative"]),
)
def test_the_field_is_its_formula_and_v_falls_at_its_rate(
    seed: int, of: tuple[str, str, str], kind: type[vd.SparseRecurrent | vd.Reduced], conv: bool, gate: str
) -> None:
    dictionary = dictionary_of(seed, conv)
    chosen = constants_of(seed, of, dictionary, "any")
    field = kind(dictionary, normal(seed + 5, SIGNALS, *dictionary.signal_shape), 0.3, threshold=gate, **chosen)
    state = tuple(part.requires_grad_() for part in states_for(field, seed))
    slopes = torch.autograd.grad(field.lyapunov(state).sum(), state)
    velocities = field(0.0, state)
    with torch.no_grad():
        for a, b in zip(velocities, field(0.0, tuple(part.detach() for part in state)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    parts = [part.detach().reshape(SIGNALS, -1).numpy() for part in (*state, *velocities, *slopes)]
    n = len(state)
    for k, one in enumerate(written(field)):
        u = parts[n - 1][k]
        theta = 0.3 / one["beta"]
        a = np.maximum(u - theta, 0) if gate == "nonnegative" else np.sign(u) * np.maximum(np.abs(u) - theta, 0)
        z = parts[0][k] if n == 2 else (one["P"] @ a + one["x"]) / one["alpha"]
        du = -one["beta"] * u - one["gamma"] * (one["P"].T @ one["P"] @ a - a) + one["P"].T @ z
        np.testing.assert_allclose(parts[2 * n - 1][k], du, rtol=1e-9, atol=1e-11)
        rate, wanted = (parts[3 * n - 1][k] * du).sum(), -(du**2)[a != 0].sum()
        if n == 2:
            dz = -one["alpha"] * z + one["P"] @ a + one["x"]
            np.testing.assert_allclose(parts[n][k], dz, rtol=1e-9, atol=1e-11)
            rate, wanted = rate + (parts[2 * n][k] * dz).sum(), wanted - dz @ dz
        np.testing.assert_allclose(rate, wanted, rtol=1e-9, atol=1e-9)


@settings(max_examples=6)
@given(seed=seeds, of=spreads, kind=st.sampled_from(KINDS), regime=st.sampled_from(["net", "weak"]), conv=st.booleans())
def test_the_problem_is_that_of_the_rest(
    seed: int, of: tuple[str, str, str], kind: type[vd.SparseRecurrent | vd.Reduced], regime: str, conv: bool
) -> None:
    """The field rests at the problem's solution, and that is Clarabel's minimum of F within the problem's gap."""
    dictionary = dictionary_of(seed, conv)
    field = kind(
        dictionary,
        normal(seed + 5, SIGNALS, *dictionary.signal_shape),
        0.2,
        bias=0.1 * normal(seed + 6, *dictionary.code_shape),
        **constants_of(seed, of, dictionary, regime),
    )
    each = written(field)
    # A common curvature and ridge of all signals must be enough, or the problem has no dictionary for all of them.
    assume(field.instability() is None)
    solution = vd.equilibrium(field, tol=1e-11)
    assert bool(solution.converged.all())
    for part in field(0.0, solution.state):
        torch.testing.assert_close(part, torch.zeros_like(part), rtol=0, atol=1e-6)
    codes, q = solution.code.reshape(SIGNALS, -1).numpy(), field.bias.flatten().numpy()
    for one, code in zip(each, codes, strict=True):
        values, vectors = np.linalg.eigh(form(one))
        R = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
        b = one["P"].T @ (one["x"] / one["alpha"]) + q
        best = interior_point([(1.0, R, np.linalg.lstsq(R.T, b, rcond=None)[0])], np.full(len(b), 0.2), 0 * b, False)
        assert best is not None

        def value(a: np.ndarray, one: dict[str, np.ndarray] = one, b: np.ndarray = b) -> float:
            return float(a @ form(one) @ a / 2 - b @ a + 0.2 * np.abs(a).sum())

        assert value(code) <= value(best) + 1e-8


@settings(max_examples=20)
@given(seed=seeds, of=spreads, kind=st.sampled_from(KINDS))
def test_no_rate_exceeds_the_stiffness(
    seed: int, of: tuple[str, str, str], kind: type[vd.SparseRecurrent | vd.Reduced]
) -> None:
    """The eigenvalues of the Jacobian on a random active set, written out in NumPy, are real and within the bound."""
    dictionary = dictionary_of(seed)
    field = kind(dictionary, normal(seed + 5, SIGNALS, 5), 0.3, **constants_of(seed, of, dictionary, "any"))
    active = np.random.default_rng(seed).random(8) < 0.6
    for one in written(field):
        P, n = one["P"], len(active)
        inner = -np.diag(one["beta"]) - one["gamma"] * (P.T @ P - np.eye(n)) * active
        if kind is vd.Reduced:
            jacobian = inner + P.T @ np.diag(1 / one["alpha"]) @ P * active
        else:
            jacobian = np.block([[-np.diag(one["alpha"]), P * active], [P.T, inner]])
        values = np.linalg.eigvals(jacobian)
        assert np.abs(values.imag).max() < 1e-6 * np.abs(values).max()
        assert np.abs(values).max() <= float(field.stiffness()) * (1 + 1e-9)


@pytest.mark.parametrize("of", [SPREADS[2], SPREADS[3]])
def test_a_run_settles_at_its_code_in_any_units(of: tuple[str, str, str]) -> None:
    dictionary = dictionary_of(1)
    chosen, x = constants_of(2, of, dictionary), normal(3, SIGNALS, 5)
    field = vd.SparseRecurrent(dictionary, x, 0.2, **chosen)
    code, times = vd.equilibrium(field).code, torch.tensor([0.0, 300.0], dtype=torch.float64)
    large = vd.SparseRecurrent(dictionary, x * 2.0**60, 0.2 * 2.0**60, **chosen)
    for own, size in ((field, 1.0), (large, 2.0**60)):
        run = vd.integrate(own, own.initial_state(), times, gap=1e-4, rtol=1e-2)
        assert float(run.relative_gap.max()) <= 1e-4
        found = own.code(tuple(part[-1] for part in run.states))
        torch.testing.assert_close(found / size, code, rtol=0, atol=1e-2)


def test_equal_constants_are_a_number() -> None:
    dictionary, x = dictionary_of(1), normal(3, SIGNALS, 5)
    numbers = {"alpha": 1.3, "beta": 2.6, "gamma": 1.9, "tau_z": 0.5, "tau_u": 1.5}
    number, shapes = vd.SparseRecurrent(dictionary, x, 0.2, **numbers), ((SIGNALS,), (SIGNALS, 1), (1, 1))
    state = states_for(number, 4)
    for shape in shapes:
        each = {k: torch.full(shape, v, dtype=torch.float64) for k, v in numbers.items()}
        field = vd.SparseRecurrent(dictionary, x, 0.2, **each)
        assert torch.equal(field.stiffness(), number.stiffness())
        for a, b in zip(field(0.0, state), number(0.0, state), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(field.lyapunov(state), number.lyapunov(state))
        torch.testing.assert_close(vd.equilibrium(field).code, vd.equilibrium(number).code, rtol=1e-9, atol=1e-11)
        assert field.flat().select(torch.tensor([2])).problem().objective(normal(1, 1, 8)) == pytest.approx(
            float(number.problem().objective(normal(1, 1, 8).expand(3, 8))[2]), rel=1e-12
        )


@pytest.mark.parametrize("of", [SPREADS[2], SPREADS[3]])
def test_the_implicit_gradient_is_that_through_the_run(of: tuple[str, str, str]) -> None:
    dictionary, x, at = dictionary_of(1), normal(3, SIGNALS, 5), normal(4, SIGNALS, 8)
    chosen = constants_of(2, of, dictionary)
    names = [name for name, value in chosen.items() if isinstance(value, Tensor)]

    def slopes(gradient: str, tol: float) -> tuple[Tensor, ...]:
        own = {name: chosen[name].clone().requires_grad_() for name in names}
        field = vd.SparseRecurrent(dictionary, x, 0.2, **(chosen | own))
        return torch.autograd.grad((vd.equilibrium(field, gradient, tol=tol).code * at).sum(), tuple(own.values()))

    for a, b in zip(slopes("implicit", 1e-12), slopes("backprop", 1e-6), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("of", "kind"),
    [(SPREADS[2], vd.SparseRecurrent), (SPREADS[3], vd.SparseRecurrent), (SPREADS[3], vd.Reduced)],
)
def test_interventions_leave_the_problem_of_the_free_units(of: tuple[str, str, str], kind: type[vd.Field]) -> None:
    dictionary = dictionary_of(1)
    field = kind(dictionary, normal(3, SIGNALS, 5), 0.2, **constants_of(2, of, dictionary))  # type: ignore[arg-type]
    acts: list[Any] = [
        vd.Silence(atoms=[1]),
        vd.Clamp(0.3, atoms=[2], of="output"),
        vd.Inject(0.2, atoms=[4]),
        vd.Inject(0.1, neurons=[0]),
        vd.Scale(0.8, atoms=[5]),
    ]
    times = torch.tensor([0.0, 200.0], dtype=torch.float64)
    run = vd.integrate(field, field.initial_state(), times, interventions=acts, gap=1e-4, rtol=1e-3)
    assert float(run.relative_gap.max()) <= 1e-4
    if kind is vd.SparseRecurrent:
        held = [vd.Clamp(0.5, neurons=[1])]
        if of == SPREADS[3]:
            with pytest.raises(ValueError, match="run them apart"):
                vd.integrate(field, field.initial_state(), times, interventions=held, gap=1e-6)
        else:
            run = vd.integrate(field, field.initial_state(), times, interventions=held, gap=1e-4, rtol=1e-3)
            assert float(run.relative_gap.max()) <= 1e-4


@pytest.mark.parametrize("of", [SPREADS[2], SPREADS[4]])
def test_a_record_keeps_them(tmp_path: Path, of: tuple[str, str, str]) -> None:
    dictionary = dictionary_of(1)
    chosen, x = constants_of(2, of, dictionary), normal(3, SIGNALS, 5)
    field, times = vd.SparseRecurrent(dictionary, x, 0.2, **chosen), torch.arange(0.0, 3.0, 0.5).double()
    run = vd.record(field, tmp_path / "a.zarr", times, rtol=1e-3)
    dims = {"neuron": ("neuron",), "atom": ("atom",), "signal": ("signal",), "both": ("signal", "atom"), "number": ()}
    for name, spread_of in zip(("alpha", "beta", "gamma"), of, strict=True):
        assert run[name].dims == dims[spread_of]
        np.testing.assert_array_equal(run[name].to_numpy(), chosen[name])
    gain = (written(field)[k] for k in range(SIGNALS))
    for k, one in enumerate(gain):
        rebuilt = (one["alpha"] * one["gamma"] - 1) * (one["P"] @ run["code_end"].to_numpy()[k])
        np.testing.assert_allclose(run["reconstruction_end"][k], rebuilt, rtol=1e-10, atol=1e-12)
    vd.record(field, tmp_path / "a.zarr", times, rtol=1e-3, resume=True)
    other = vd.SparseRecurrent(dictionary, x, 0.2, **(chosen | {"beta": 1.01 * chosen["beta"]}))
    with pytest.raises(ValueError, match="cannot be resumed with another beta"):
        vd.record(other, tmp_path / "a.zarr", times, rtol=1e-3, resume=True)


def test_linear_fields_with_leaks_of_their_own() -> None:
    P, x = vd.DenseDictionary(0.3 * normal(0, 5, 8) / 5**0.5), normal(1, SIGNALS, 5)
    A = P.matrix() @ P.matrix().mT
    for alpha in (1 + normal(2, SIGNALS).abs(), 1 + normal(2, 5).abs()):
        leak = alpha[:, None] if len(alpha) == SIGNALS else alpha
        for field in (vd.FeedForward(x, alpha), vd.Recurrent(P, x, alpha), vd.Recurrent(A, x, alpha)):
            code = vd.equilibrium(field).code
            back = 0.0 if isinstance(field, vd.FeedForward) else code @ A
            torch.testing.assert_close(leak * code - back, x, rtol=1e-9, atol=1e-10)
            values = [float(v) for v in torch.linalg.eigvalsh(torch.diag(leak.expand(3, 5)[0]) - A)]
            assert max(map(abs, values)) <= float(field.stiffness()) * (1 + 1e-9) or isinstance(field, vd.FeedForward)
    two = vd.EncoderDecoder(P, x, alpha=1 + normal(2, SIGNALS).abs(), beta=1 + normal(3, SIGNALS).abs())
    for part in two(0.0, vd.equilibrium(two).state):
        torch.testing.assert_close(part, torch.zeros_like(part), rtol=0, atol=1e-8)
    fast = vd.Recurrent(P, x, torch.tensor([1.0, 2.0, 0.01], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"not below alpha = 0\.01"):
        vd.equilibrium(fast)


@pytest.mark.parametrize(
    ("constants", "sentence"),
    [
        ({"gamma": torch.ones(8).double()}, r"a number or one per signal, \(3,\), is wanted; one per atom is refused"),
        ({"alpha": torch.ones(3, 5).double()}, "alpha is one per signal and neuron; one per signal or one per neuron"),
        ({"alpha": torch.ones(5).double(), "gamma": torch.ones(3).double()}, "a number is wanted for one of them"),
        ({"alpha": torch.tensor([1.0, 0.0, 1.0]).double()}, "the smallest alpha is 0.0; a number above zero"),
        ({"beta": torch.full((8,), torch.inf).double()}, "beta holds NaN or infinite"),
        ({"gamma": torch.tensor([0.1, 2.0, 2.0]).double()}, "above zero for some signals and not for others"),
    ],
)
def test_what_is_refused(constants: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        vd.equilibrium(vd.SparseRecurrent(dictionary_of(0), normal(1, SIGNALS, 5), 0.2, **constants))
