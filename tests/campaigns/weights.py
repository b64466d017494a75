"""Random weighted and hierarchical problems against independent solvers.

    python -m tests.campaigns.weights [--count N] [--seed S]

Half are problems with weights, zero and infinity among them, some with a bias within or beyond the penalties, some with
a ridge. scikit-learn solves those with weights above zero and no bias, with columns P_i / w_i; Clarabel, an interior
point method for quadratic programs, solves the others. Half are hierarchies of two or three layers with weights and
biases of their own. Clarabel minimises their energy from its terms, layer by layer, and never sees the joint
dictionary. The objective of every code that `vars_dyn.solve` returns must lie within the gap claimed of the other
solver's, and not below the true minimum, of which the other solver's objective is an upper bound. Where Clarabel proves
that there is no minimum, `solve` must refuse. Prints one line of counts as JSON; the exit status is 1 if any claim was
false or any problem was not solved. Counted as `uncertified` are codes whose KKT residual is rounding, but whose gap is
not within the tolerance: biases exactly at the border of their penalties may leave no dual point with a margin, and
atoms without a penalty that are nearly dependent leave little. `not_proved` are biases that `solve` refuses because no
lower bound was found, where there is one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import vars_dyn as vd
from tests.references import One, interior_point

Array = NDArray[Any]


class Layers(NamedTuple):
    """The energy sum_l mu_l/2 |a_{l-1} - P_l a_l|^2 + lam_l sum_i w_li |a_li| - q_l.a_l, with a_0 = x and mu_1 = 1.

    Without weights and biases, w = 1 and q = 0.
    """

    matrices: list[Array]
    lam: list[float]
    coupling: list[float]
    nonnegative: bool
    weights: list[Array] | None = None
    bias: list[Array] | None = None

    def level(self, k: int) -> Array:
        """lam w of layer k + 1; infinite for a silenced atom."""
        own = np.ones(self.matrices[k].shape[1]) if self.weights is None else self.weights[k]
        return np.where(np.isinf(own), np.inf, self.lam[k] * np.where(np.isinf(own), 0, own))

    def drive(self, k: int) -> Array:
        """q of layer k + 1."""
        return np.zeros(self.matrices[k].shape[1]) if self.bias is None else self.bias[k]

    def energy(self, x: Array, codes: list[Array]) -> float:
        total, below = 0.0, x
        for k, (P, mu, a) in enumerate(zip(self.matrices, [1.0, *self.coupling], codes, strict=True)):
            busy = a != 0
            total += 0.5 * mu * ((below - P @ a) ** 2).sum() + (self.level(k)[busy] * np.abs(a[busy])).sum()
            total -= self.drive(k) @ a
            below = a
        return total

    def solved(self, x: Array) -> list[Array] | None:
        """The minimiser by Clarabel, from the terms of the energy; None where there is none."""
        sizes = [P.shape[1] for P in self.matrices]
        ends = np.cumsum([0, *sizes])
        terms = []
        for k, (P, mu) in enumerate(zip(self.matrices, [1.0, *self.coupling], strict=True)):
            A = np.zeros((P.shape[0], ends[-1]))
            A[:, ends[k] : ends[k + 1]] = P
            if k:
                A[:, ends[k - 1] : ends[k]] = -np.eye(P.shape[0])
            terms.append((mu, A, x if k == 0 else np.zeros(P.shape[0])))
        level = np.concatenate([self.level(k) for k in range(len(sizes))])
        drive = np.concatenate([self.drive(k) for k in range(len(sizes))])
        found = interior_point(terms, level, drive, self.nonnegative)
        return None if found is None else np.split(found, ends[1:-1])


class Outcome(NamedTuple):
    """One problem: how far the objective lies above the other solver's, the gap claimed, and whether it was solved.

    `at_rounding` says whether the KKT residual is no more than its own rounding, `refused` why `solve` did not take the
    problem, and `unbounded` whether the other solver found no minimum.
    """

    excess: float = 0.0
    gap: float = 0.0
    size: float = 1.0
    converged: bool = False
    at_rounding: bool = False
    refused: str = ""
    unbounded: bool = False


def weighted(rng: np.random.Generator) -> Outcome:
    """A random weighted problem; scikit-learn's or Clarabel's solution is the reference."""
    d, n = (int(rng.integers(2, 12)) for _ in range(2))
    P, x = rng.standard_normal((d, n)) / np.sqrt(d), rng.standard_normal(d)
    weights = atom_weights(rng, n)
    lam = float(10.0 ** rng.uniform(-2, 0) * np.abs(P.T @ x).max())
    nonnegative, ridge = bool(rng.random() < 0.5), float(rng.choice([0.0, 0.0, 0.1]))
    bias = None if rng.random() < 0.4 else atom_bias(rng, lam * np.where(np.isinf(weights), 1, weights))
    own = torch.from_numpy(weights)
    problem = vd.SparseProblem(
        vd.DenseDictionary(torch.from_numpy(P)),
        torch.from_numpy(x)[None],
        lam,
        ridge,
        nonnegative,
        weights=own,
        bias=None if bias is None else torch.from_numpy(bias),
    )
    one = One(P, x, lam, ridge, nonnegative, weights, bias)
    plain = bias is None and ridge == 0 and weights.min() > 0
    best = one.rescaled_argmin() if plain else one.programmed()
    return _outcome(problem, str(rng.choice(["auto", "fista", "admm"])), None if best is None else one.objective(best))


def atom_weights(rng: np.random.Generator, n: int) -> Array:
    """Weights of n atoms: about one in ten infinite, and zero for none, one or two of them."""
    weights = 10.0 ** rng.uniform(-1, 1, n)
    weights[rng.random(n) < 0.1] = np.inf
    weights[rng.permutation(n)[: rng.choice([0, 0, 1, 2])]] = 0.0
    return weights


def atom_bias(rng: np.random.Generator, level: Array) -> Array:
    """Biases within or beyond the penalties `level`; atoms without a penalty get a small one at times."""
    bias = level * rng.choice([0.0, 0.5, 0.9, 1.0, 1.2], len(level)) * rng.choice([-1.0, 1.0], len(level))
    return bias + (0.1 * rng.standard_normal(len(level)) * (level == 0) if rng.random() < 0.5 else 0.0)


def hierarchical(rng: np.random.Generator) -> Outcome:
    """A random hierarchy; Clarabel's minimum of its energy is the reference."""
    levels = int(rng.integers(2, 4))
    sizes = [int(rng.integers(2, 8)) for _ in range(levels + 1)]
    matrices = [rng.standard_normal((a, b)) / np.sqrt(a) for a, b in pairwise(sizes)]
    x = rng.standard_normal(sizes[0])
    lam = [float(10.0 ** rng.uniform(-2, 0) * np.abs(matrices[0].T @ x).max()) for _ in range(levels)]
    coupling = [float(10.0 ** rng.uniform(-1, 1)) for _ in range(levels - 1)]
    weights = [atom_weights(rng, n) for n in sizes[1:]] if rng.random() < 0.5 else None
    own = [np.ones(n) for n in sizes[1:]] if weights is None else weights
    bias = None
    if rng.random() < 0.5:
        level = [value * np.where(np.isinf(w), 1, w) for value, w in zip(lam, own, strict=True)]
        # Cues at the top, and currents into any layer.
        bias = [atom_bias(rng, v) if rng.random() < 0.6 else np.zeros_like(v) for v in level]
    stack = Layers(matrices, lam, coupling, bool(rng.random() < 0.5), weights, bias)
    problem = vd.hierarchy_problem(
        torch.from_numpy(x)[None],
        [vd.DenseDictionary(torch.from_numpy(P)) for P in matrices],
        lam,
        coupling,
        stack.nonnegative,
        None if weights is None else [torch.from_numpy(w) for w in weights],
        None if bias is None else [torch.from_numpy(q) for q in bias],
    )
    best = stack.solved(x)
    return _outcome(
        problem, str(rng.choice(["auto", "fista", "admm"])), None if best is None else stack.energy(x, best)
    )


def _outcome(problem: vd.SparseProblem, method: str, best: float | None) -> Outcome:
    try:
        solution = vd.solve(problem, method)
    except ValueError as error:
        return Outcome(refused=str(error), unbounded=best is None)
    if best is None:
        return Outcome(unbounded=True)
    value, gap = float(problem.objective(solution.code)), float(problem.gap(solution.code))
    size = 0.5 * float(problem.x.square().sum()) + abs(best)
    at_rounding = bool(solution.kkt_residual <= 2.1 * problem.rounding(solution.code))
    return Outcome(value - best, gap, size, bool(solution.converged), at_rounding)


def campaign(count: int, seed: int) -> tuple[dict[str, float], list[str]]:
    """`count` problems, every second one a hierarchy; counts, and a description of every failure."""
    failures, largest = [], 0.0
    counts: Counter[str] = Counter()
    for number in range(count):
        found = (weighted, hierarchical)[number % 2](np.random.default_rng([seed, number]))
        rounding = 1e-12 * found.size
        name = f"[{seed}, {number}]"
        if found.refused:
            kind = "dependent" if "dependent" in found.refused else "unbounded" if found.unbounded else "not_proved"
            counts[kind] += 1
        elif found.unbounded:
            failures.append(f"{name} has no minimum, but was solved")
        # Below: lower than the other's by more than that solver may still be off, which the gap does not bound.
        elif not (found.excess <= found.gap + rounding and found.excess >= -1e-7 * found.size):
            failures.append(f"{name} excess {found.excess}, gap {found.gap}, size {found.size}")
        elif found.at_rounding and not found.converged:
            counts["uncertified"] += 1
        elif not found.converged:
            failures.append(f"{name} was not solved: gap {found.gap}, size {found.size}")
        counts["solved"] += found.converged
        largest = max(largest, found.excess / found.size)
    totals = {"problems": count, **counts, "failures": len(failures), "largest_relative_excess": largest}
    return totals, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1000, help="problems")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    counts, failures = campaign(options.count, options.seed)
    for text in failures[:20]:
        print(text)
    print(json.dumps({**counts, "seed": options.seed, "seconds": round(time.monotonic() - started, 1)}))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
