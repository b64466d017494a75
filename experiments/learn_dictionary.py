"""`python -m experiments.learn_dictionary`: recover a planted dictionary by gradient descent through the equilibrium.

Signals are sparse combinations of planted atoms. The dictionary is learned on  1/2 |x - P a|^2 + share lam |a|_1, where
a = a(P, x) is the certified equilibrium for lam (for gradients through trajectories, the neurons' code at a horizon).
The steps are those of `vars_dyn.learning` with its gradient rule, Adam, and atoms on the unit sphere.
With share = 1 the gradient through a would vanish (the envelope theorem). With any other share a wrong gradient of the
code gives a wrong gradient of the loss.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import vars_dyn as vd
from experiments import cli
from vars_dyn.learning import Atoms, Equilibrium, Gradient, Integrate, Learner

__all__ = ["SMALL", "Learning", "learn", "main"]

#: The case that is small enough to differentiate through trajectories.
SMALL: dict[str, Any] = {
    "neurons": 8,
    "atoms": 12,
    "signals": 256,
    "active": 2,
    "batch": 64,
    "lam": 0.2,
    "share": 0.8,
    "steps": 150,
    "lr": 0.1,
}


@dataclass
class Learning:
    """What is planted, and how it is learned.

    Attributes:
        gradient: how the code is differentiated: implicit, backprop, checkpoint or adjoint.
        small: take a case of 256 signals of 8 neurons and 12 atoms, with its own defaults for the other options.
        neurons: size d of a signal.
        atoms: number d' of planted atoms, normal directions of norm 1.
        signals: how many signals there are.
        active: atoms in each signal, with weights of random sign between 0.5 and 1.5.
        lam: weight of the l1 penalty in the equilibrium's problem.
        share: factor of lam in the loss.
        tol: relative gap to which the implicit gradient solves for the equilibrium.
        horizon: time of the code for the other gradients, in membrane time constants; it need not have settled by then.
        rtol: relative tolerance of the integration up to the horizon.
        steps: steps of Adam, whose rate falls to zero as a cosine.
        batch: signals in a step.
        lr: learning rate of the first step.
        seed: the seed of everything random.
        json: print one JSON object as the last line.
    """

    gradient: str = "implicit"
    small: bool = False
    neurons: int = 16
    atoms: int = 24
    signals: int = 2000
    active: int = 3
    lam: float = 0.1
    share: float = 0.5
    tol: float = 1e-4
    horizon: float = 20.0
    rtol: float = 1e-3
    steps: int = 300
    batch: int = 250
    lr: float = 0.03
    seed: int = 0
    json: bool = False


def learn(options: Learning) -> dict[str, Any]:
    """Learn, and return the course of it and the share of planted atoms that were found.

    A planted atom is found if its cosine with a learned one is above 0.98 in absolute value.
    """
    generator = torch.Generator().manual_seed(options.seed)
    planted, x = _planted(options, generator)
    first = torch.randperm(len(x), generator=generator)[: options.atoms]
    learner = Learner(
        vd.DenseDictionary(x[first].T), options.lam, _rule(options), _codes(options), Atoms(patience=None)
    )
    began, losses = time.perf_counter(), []
    with tqdm(total=options.steps, desc=options.gradient, disable=None) as bar:
        for _ in range(options.steps):
            batch = x[torch.randint(0, len(x), (options.batch,), generator=generator)]
            losses.append(_loss(learner, options, batch))
            bar.update()
            bar.set_postfix(loss=losses[-1])
    (weight,) = learner.dictionary.tensors()
    cosine = _cosines(weight, planted)
    return {
        **asdict(options),
        "recovered": float((cosine > 0.98).double().mean()),
        "median_cosine": float(cosine.median()),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "seconds": time.perf_counter() - began,
    }


def _rule(options: Learning) -> Gradient:
    return Gradient(
        lambda tensors: torch.optim.Adam(tensors, options.lr),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps),
        options.share,
    )


def _codes(options: Learning) -> Equilibrium | Integrate:
    if options.gradient == "implicit":
        return Equilibrium(options.tol)
    return Integrate(options.horizon, rtol=options.rtol, gradient=options.gradient)


def _loss(learner: Learner, options: Learning, batch: Tensor) -> float:
    """Take a step, and return the batch's loss before it."""
    step = learner.step(batch)
    return step.objective - (1 - options.share) * options.lam * step.magnitude


def _planted(options: Learning, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The planted atoms (d, d') and the signals (n, d)."""
    real: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    weight = torch.nn.functional.normalize(torch.randn(options.neurons, options.atoms, **real), dim=0)
    shape = (options.signals, options.active)
    places = torch.rand(options.signals, options.atoms, **real).argsort(-1)[:, : options.active]
    values = torch.randn(*shape, **real).sign() * (0.5 + torch.rand(*shape, **real))
    codes = torch.zeros(options.signals, options.atoms, dtype=torch.float64).scatter(1, places, values)
    return weight, codes @ weight.T


def _cosines(weight: Tensor, planted: Tensor) -> Tensor:
    """For each planted atom the largest |cosine| with a learned one."""
    return (torch.nn.functional.normalize(weight, dim=0).T @ planted).abs().amax(0)


def _checked(options: Learning) -> Learning:
    for name in ("neurons", "atoms", "signals", "active", "lam", "tol", "horizon", "rtol", "steps", "batch", "lr"):
        if not getattr(options, name) > 0:
            raise ValueError(f"{name} is {getattr(options, name)}; a number above zero is wanted")
    if options.active > options.atoms or options.atoms > options.signals:
        raise ValueError(
            f"active, atoms and signals are {options.active}, {options.atoms} and {options.signals}; "
            "no more active atoms than atoms, and no more atoms than signals are wanted"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("learn_dictionary", "Recover a planted dictionary through the equilibrium.")
    parser.add_class_arguments(Learning, None)

    def command(values: Any) -> None:
        chosen = {name: getattr(values, name) for name in Learning.__dataclass_fields__}
        if values.small:
            untouched = {name for name, value in chosen.items() if value == getattr(Learning, name)}
            chosen |= {name: value for name, value in SMALL.items() if name in untouched}
        options = _checked(Learning(**chosen))
        found = learn(options)
        print(
            f"{100 * found['recovered']:.1f} % of {options.atoms} atoms recovered (cosine above 0.98), "
            f"median cosine {found['median_cosine']:.5f}, {options.steps} steps in {found['seconds']:.1f} s "
            f"with gradient {options.gradient}"
        )
        if options.json:
            print(json.dumps(found))

    return cli.run(parser, command, arguments, None)


if __name__ == "__main__":
    sys.exit(main())
