"""Random weighted and hierarchical problems against independent solvers.

    python -m tests.campaigns.weights [--count N] [--seed S]

Half are weighted: scikit-learn solves the problem with columns P_i / w_i. Half are hierarchies of two or three layers:
coordinate descent in NumPy minimises their energy, layer by layer, and never sees the joint dictionary. The
objective of every code that `vars_dyn.solve` returns must lie within the gap claimed of the other solver's, and not
below the true minimum, of which the other solver's objective is an upper bound. Prints one line of counts as JSON; the
exit status is 1 if any claim was false or any problem was not solved.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import vars_dyn as vd
from tests.references import One

Array = NDArray[Any]


class Layers(NamedTuple):
    """The energy sum_l mu_l/2 |a_{l-1} - P_l a_l|^2 + lam_l |a_l|_1 of one signal, with a_0 = x and mu_1 = 1."""

    matrices: list[Array]
    lam: list[float]
    coupling: list[float]
    nonnegative: bool

    def energy(self, x: Array, codes: list[Array]) -> float:
        total, below = 0.0, x
        for P, lam, mu, a in zip(self.matrices, self.lam, [1.0, *self.coupling], codes, strict=True):
            total += 0.5 * mu * ((below - P @ a) ** 2).sum() + lam * np.abs(a).sum()
            below = a
        return total

    def solved(self, x: Array, sweeps: int) -> list[Array]:
        """The minimiser, by coordinate descent over all layers."""
        codes = [np.zeros(P.shape[1]) for P in self.matrices]
        weights = [1.0, *self.coupling, 0.0]
        for _ in range(sweeps):
            moved = 0.0
            for k, P in enumerate(self.matrices):
                a, below = codes[k], x if k == 0 else codes[k - 1]
                up, down = weights[k + 1], weights[k]
                predicted = self.matrices[k + 1] @ codes[k + 1] if up else np.zeros_like(a)
                r = below - P @ a
                for i in range(len(a)):
                    curvature = down * (P[:, i] @ P[:, i]) + up
                    aim = down * (P[:, i] @ r) + up * (predicted[i] - a[i]) + curvature * a[i]
                    low = 0.0 if self.nonnegative else max(-aim - self.lam[k], 0)
                    step = (max(aim - self.lam[k], 0) - low) / curvature - a[i]
                    r = r - P[:, i] * step
                    a[i] += step
                    moved = max(moved, abs(step))
            if moved < 1e-14:
                break
        return codes


class Outcome(NamedTuple):
    """One problem: how far the objective lies above the other solver's, the gap claimed, and whether it was solved."""

    excess: float
    gap: float
    size: float
    converged: bool


def weighted(rng: np.random.Generator) -> Outcome:
    """A random weighted problem; scikit-learn's solution is the reference."""
    d, n = (int(rng.integers(2, 12)) for _ in range(2))
    P, x = rng.standard_normal((d, n)) / np.sqrt(d), rng.standard_normal(d)
    weights = 10.0 ** rng.uniform(-1, 1, n)
    weights[rng.random(n) < 0.1] = np.inf
    lam = float(10.0 ** rng.uniform(-2, 0) * np.abs(P.T @ x).max())
    nonnegative = bool(rng.random() < 0.5)
    own = torch.from_numpy(weights)
    problem = vd.SparseProblem(
        vd.DenseDictionary(torch.from_numpy(P)), torch.from_numpy(x)[None], lam, nonnegative=nonnegative, weights=own
    )
    one = One(P, x, lam, 0.0, nonnegative, weights)
    return _outcome(problem, str(rng.choice(["auto", "fista", "admm"])), one.objective(one.rescaled_argmin()))


def hierarchical(rng: np.random.Generator) -> Outcome:
    """A random hierarchy; coordinate descent over its layers is the reference."""
    levels = int(rng.integers(2, 4))
    sizes = [int(rng.integers(2, 8)) for _ in range(levels + 1)]
    matrices = [rng.standard_normal((a, b)) / np.sqrt(a) for a, b in pairwise(sizes)]
    x = rng.standard_normal(sizes[0])
    lam = [float(10.0 ** rng.uniform(-2, 0) * np.abs(matrices[0].T @ x).max()) for _ in range(levels)]
    coupling = [float(10.0 ** rng.uniform(-1, 1)) for _ in range(levels - 1)]
    stack = Layers(matrices, lam, coupling, bool(rng.random() < 0.5))
    dictionaries = [vd.DenseDictionary(torch.from_numpy(P)) for P in matrices]
    problem = vd.hierarchy_problem(torch.from_numpy(x)[None], dictionaries, lam, coupling, stack.nonnegative)
    return _outcome(problem, str(rng.choice(["auto", "fista", "admm"])), stack.energy(x, stack.solved(x, 100_000)))


def _outcome(problem: vd.SparseProblem, method: str, best: float) -> Outcome:
    solution = vd.solve(problem, method)
    value, gap = float(problem.objective(solution.code)), float(problem.gap(solution.code))
    return Outcome(value - best, gap, 0.5 * float(problem.x.square().sum()), bool(solution.converged))


def campaign(count: int, seed: int) -> tuple[dict[str, float], list[str]]:
    """`count` problems, every second one a hierarchy; counts, and a description of every failure."""
    failures, largest = [], 0.0
    solved = 0
    for number in range(count):
        found = (weighted, hierarchical)[number % 2](np.random.default_rng([seed, number]))
        rounding = 1e-12 * found.size
        # Below: lower than the other's by more than that solver may still be off, which the gap does not bound.
        if not (found.excess <= found.gap + rounding and found.excess >= -1e-6 * found.size):
            failures.append(f"[{seed}, {number}] excess {found.excess}, gap {found.gap}, size {found.size}")
        elif not found.converged:
            failures.append(f"[{seed}, {number}] was not solved: gap {found.gap}, size {found.size}")
        solved += found.converged
        largest = max(largest, found.excess / found.size)
    return {
        "problems": count,
        "solved": solved,
        "failures": len(failures),
        "largest_relative_excess": largest,
    }, failures


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
