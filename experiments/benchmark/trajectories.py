"""The rows "trajectory": trajectories of the VARS neurons up to a time, against general integrators."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torchdiffeq
from torch import Tensor

import vars_dyn as vd
from experiments.benchmark.contract import Contender, Goal, Row

__all__ = ["long_trajectory", "short_trajectory", "tight_trajectory"]

SIGNALS, NEURONS, ATOMS, LAM = 64, 64, 128, 0.1
#: The number of times at which the states are compared.
POINTS = 8


class _Result(NamedTuple):
    """z and u at the times asked for, side by side, (times, signals, d + d'), and the evaluations of f."""

    states: Tensor
    evaluations: int


@cache
def _data() -> tuple[Tensor, Tensor]:
    """P with atoms of norm 1, and x ~ N(0, I), float64."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(NEURONS, ATOMS, generator=generator, dtype=torch.float64)
    x = torch.randn(SIGNALS, NEURONS, generator=generator, dtype=torch.float64)
    return weight / weight.norm(dim=0), x


def _times(end: float) -> Tensor:
    return torch.linspace(0.0, end, POINTS + 1, dtype=torch.float64)


def _ours(end: float, method: str, rtol: float, cap_steps: bool | None = None) -> Callable[[], _Result]:
    weight, x = _data()
    times = _times(end)

    def work() -> _Result:
        with torch.no_grad():
            field = vd.SparseRecurrent(vd.DenseDictionary(weight), x, lam=LAM)
            start = field.initial_state()
            # The peers' atol is absolute, ours relative to each signal's size: the loudest signal has theirs.
            atol = rtol / 10 / float(x.abs().max())
            path = vd.integrate(field, start, times, method, rtol, atol, cap_steps=cap_steps)
        return _Result(torch.cat(path.states, -1), path.statistics.evaluations)

    return work


def _torchdiffeq(end: float, rtol: float) -> Callable[[], _Result]:
    """torchdiffeq as in its documentation: with a function, tolerances, and no other options."""
    weight, x = _data()
    times = _times(end)

    def work() -> _Result:
        count = 0

        def f(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            nonlocal count
            count += 1
            z, u = state
            a = torch.nn.functional.softshrink(u, LAM / 2)
            image = a @ weight.mT
            return image + x - z, (z - 2 * image) @ weight + 2 * a - 2 * u

        with torch.no_grad():
            start = (x, x.new_zeros(SIGNALS, ATOMS))
            path = torchdiffeq.odeint(f, start, times, rtol=rtol, atol=rtol / 10, method="dopri5")
        return _Result(torch.cat(path, -1), count)

    return work


def _torchode(end: float, rtol: float) -> Callable[[], _Result]:
    """torchode, where every signal has its own steps."""
    import torchode  # deferred: a peer that need not be installed

    weight, x = _data()
    times = _times(end).expand(SIGNALS, -1)

    def f(t: Tensor, y: Tensor) -> Tensor:
        z, u = y[:, :NEURONS], y[:, NEURONS:]
        a = torch.nn.functional.softshrink(u, LAM / 2)
        image = a @ weight.mT
        return torch.cat([image + x - z, (z - 2 * image) @ weight + 2 * a - 2 * u], -1)

    term = torchode.ODETerm(f)
    controller = torchode.IntegralController(atol=rtol / 10, rtol=rtol, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    start = torch.cat([x, x.new_zeros(SIGNALS, ATOMS)], -1)

    def work() -> _Result:
        with torch.no_grad():
            found = solver.solve(torchode.InitialValueProblem(y0=start, t_eval=times))
        return _Result(found.ys.transpose(0, 1), int(found.stats["n_f_evals"].max()))

    return work


def _diffrax(end: float, rtol: float) -> Callable[[], _Result]:
    """diffrax's Tsit5, mapped over signals, each with its own steps. It is compiled beforehand."""
    import diffrax  # deferred: a peer that need not be installed
    import jax  # deferred: diffrax needs it
    import jax.numpy as jnp  # deferred: diffrax needs it

    jax.config.update("jax_enable_x64", True)
    weight, signals = (jnp.asarray(part.numpy()) for part in _data())
    save = diffrax.SaveAt(ts=jnp.asarray(_times(end).numpy()))

    def f(t: Any, y: Any, x: Any) -> Any:
        z, u = y
        a = jnp.sign(u) * jnp.maximum(jnp.abs(u) - LAM / 2, 0)
        image = weight @ a
        return image + x - z, (z - 2 * image) @ weight + 2 * a - 2 * u

    def one(x: Any) -> Any:
        controller = diffrax.PIDController(rtol=rtol, atol=rtol / 10)
        term, start = diffrax.ODETerm(f), (x, jnp.zeros(ATOMS))
        found = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, end, None, start, x, saveat=save, stepsize_controller=controller, max_steps=None
        )
        return found.ys, found.stats["num_steps"]

    compiled = jax.jit(jax.vmap(one))

    def work() -> _Result:
        (z, u), steps = jax.block_until_ready(compiled(signals))
        states = np.concatenate([np.asarray(z), np.asarray(u)], -1)
        # A step has six evaluations, because its seventh is the first of the next step.
        return _Result(torch.from_numpy(states).transpose(0, 1), 6 * int(steps.max()) + 1)

    return work


@cache
def _reference(end: float, rtol: float) -> Tensor:
    """torchdiffeq's states by dopri5. `rtol` is to be a hundredth of the contenders' tolerance."""
    weight, x = _data()

    def f(t: Tensor, state: Tensor) -> Tensor:
        z, u = state[:, :NEURONS], state[:, NEURONS:]
        a = torch.nn.functional.softshrink(u, LAM / 2)
        image = a @ weight.mT
        return torch.cat([image + x - z, (z - 2 * image) @ weight + 2 * a - 2 * u], -1)

    start = torch.cat([x, x.new_zeros(SIGNALS, ATOMS)], -1)
    with torch.no_grad():
        return torchdiffeq.odeint(f, start, _times(end), rtol=rtol, atol=rtol / 10, method="dopri5")


def _judge(end: float, rtol: float, result: _Result) -> dict[str, float]:
    """Errors relative to the state's size. Each is the largest over signals."""
    wanted = _reference(end, rtol)
    error = ((result.states - wanted).norm(dim=-1) / wanted.norm(dim=-1)).amax(-1)
    return {"accuracy": float(error[-1]), "error on the way": float(error.max()), "evaluations": result.evaluations}


RKC, DOPRI5, AUTO = "vars_dyn rkc", "vars_dyn dopri5", "vars_dyn auto"
TORCHDIFFEQ, DIFFRAX = "torchdiffeq dopri5", "diffrax Tsit5"


def _work(end: float) -> str:
    sizes = f"{SIGNALS} signals x ~ N(0, I), d = {NEURONS}, d' = {ATOMS}, lam = .1"
    return f"Eq. 8-9 to T = {end:g}, {sizes}, the state at {POINTS} times, float64"


def short_trajectory() -> Row:
    """The row to T = 80."""
    contenders = (
        Contender(RKC, partial(_ours, 80.0, "rkc", 7e-3), ours=True),
        Contender(AUTO, partial(_ours, 80.0, "auto", 1e-2), ours=True),
        Contender(TORCHDIFFEQ, partial(_torchdiffeq, 80.0, 1e-4)),
        Contender(DIFFRAX, partial(_diffrax, 80.0, 1e-4)),
        Contender("torchode dopri5", partial(_torchode, 80.0, 1e-4), every_round=False),
    )
    goals = (Goal(RKC, TORCHDIFFEQ, 1 / 5), Goal(RKC, DIFFRAX, 1.0))
    judge = partial(_judge, 80.0, 1e-6)
    return Row("trajectory-80", _work(80.0), "relative error at T", 1e-4, contenders, judge, goals)


def long_trajectory() -> Row:
    """The row to T = 600."""
    contenders = (
        Contender(RKC, partial(_ours, 600.0, "rkc", 3e-2), ours=True),
        Contender(AUTO, partial(_ours, 600.0, "auto", 3e-2), ours=True),
        Contender(TORCHDIFFEQ, partial(_torchdiffeq, 600.0, 1e-4)),
    )
    goals = (Goal(RKC, TORCHDIFFEQ, 1 / 25),)
    judge = partial(_judge, 600.0, 1e-6)
    return Row("trajectory-600", _work(600.0), "relative error at T", 1e-4, contenders, judge, goals)


def tight_trajectory() -> Row:
    """The row to T = 20, at a tight tolerance."""
    contenders = (
        Contender(DOPRI5, partial(_ours, 20.0, "dopri5", 7e-6), ours=True),
        Contender(AUTO, partial(_ours, 20.0, "auto", 7e-6), ours=True),
        Contender(TORCHDIFFEQ, partial(_torchdiffeq, 20.0, 1e-6)),
        Contender(DIFFRAX, partial(_diffrax, 20.0, 1e-6)),
        Contender(RKC, partial(_ours, 20.0, "rkc", 1e-6), every_round=False),
    )
    goals = (Goal(DOPRI5, TORCHDIFFEQ, 0.5), Goal(DOPRI5, TORCHDIFFEQ, 1.0, "evaluations"))
    judge = partial(_judge, 20.0, 1e-8)
    return Row("trajectory-20", _work(20.0), "relative error at T", 1e-6, contenders, judge, goals)
