"""Search for false certificates: random problems over hundreds of orders of magnitude, judged in long double.

    python -m tests.campaigns.certificates [--count N] [--seed S]

Every code that a solver returns, and codes that are not optimal, are certified by the package in float32 and float64.
The judge shares no code with it. It runs coordinate descent from the code in NumPy's long double, whose exponent has 15
bits. The decrease of the objective is a lower bound on E(a) - E*, so a certificate that claims less is false. The KKT
residual is computed in long double too. Prints one line of counts as JSON; the exit status is 1 if any claim was false.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vars_dyn as vd

Array = NDArray[Any]
Wide = np.longdouble
#: Exponents of ten that the dtypes hold, subnormal numbers included.
RANGE = {torch.float64: (-320, 300), torch.float32: (-44, 37)}
KINDS = ("plain", "coherent", "duplicate", "uneven atoms", "zero atoms", "integers")


class Draw(NamedTuple):
    """A batch of problems of one shape."""

    problem: vd.SparseProblem
    kind: str
    method: str


def draw(rng: np.random.Generator, batch: int, dtype: torch.dtype) -> Draw:
    """Draw a batch of problems, with one dictionary each or one for all, and with a scale for each signal."""
    low, high = RANGE[dtype]
    d, n = (int(rng.integers(1, 8)) for _ in range(2))
    shared = bool(rng.random() < 0.4)
    kind = str(rng.choice(KINDS))
    elements = 1 if shared else batch
    P = rng.standard_normal((elements, d, n))
    if kind == "coherent":
        P = rng.standard_normal((elements, d, 1)) + 10.0 ** rng.uniform(-12, -1, (elements, 1, 1)) * P
    elif kind == "duplicate":
        P[:, :, n // 2 :] = P[:, :, : n - n // 2] * rng.choice([1.0, -1.0, 2.0])
    elif kind == "uneven atoms":
        P = P * 10.0 ** rng.uniform(-20, 20, (elements, 1, n))
    elif kind == "zero atoms":
        P = P * (rng.random((elements, 1, n)) < 0.7)
    elif kind == "integers":
        P = np.round(P)
    x = rng.standard_normal((batch, d))
    if rng.random() < 0.3:
        # These signals lie in the range of the dictionary, exactly or nearly.
        code = rng.standard_normal((batch, n)) * (rng.random((batch, n)) < 0.5)
        x = np.einsum("bdn,bn->bd", np.broadcast_to(P, (batch, d, n)), code) + rng.choice([0.0, 1e-9, 0.1]) * x
    x = x * (rng.random((batch, 1)) < 0.95)
    # The sizes of x and P lie within the dtype's range. The size of their product often does not.
    wide = rng.random() < 0.7
    size_p = rng.uniform(low, high, (elements, 1, 1)) if wide else rng.uniform(-3, 3, (elements, 1, 1))
    size_x = rng.uniform(low, high, (batch, 1)) if wide else rng.uniform(-3, 3, (batch, 1))
    weight, x = into(P, size_p, dtype), into(x, size_x, dtype)
    pull = np.abs(np.einsum("bdn,bd->bn", np.broadcast_to(weight, (batch, d, n)), x)).max(1)
    share = 10.0 ** rng.uniform(-4, 0.3, batch) if rng.random() < 0.6 else 10.0 ** rng.uniform(-40, 40, batch)
    share = np.where(rng.random(batch) < 0.02, 10.0 ** rng.uniform(-300, 300, batch), share)
    lam = share.astype(Wide) * pull
    lam = np.zeros(batch) if rng.random() < 0.15 else lam
    lam = np.clip(lam, 0, Wide(torch.finfo(dtype).max))
    middle = Wide(10) ** Wide(2 * float(np.median(size_p)))
    weight_of_ridge = Wide(10) ** Wide(rng.choice([-3, -1, 0, 0, 2, rng.uniform(-40, 40)])) * middle
    ridge = 0.0 if rng.random() < 0.6 else float(np.clip(weight_of_ridge, 0, Wide(torch.finfo(dtype).max)))
    nonnegative = bool(rng.random() < 0.4)
    given = tensor(weight[0] if shared else weight, dtype), tensor(x if shared else x[:, None], dtype)
    lam_ = tensor(lam if shared else lam[:, None], dtype)
    problem = vd.SparseProblem(vd.DenseDictionary(given[0]), given[1], lam_, ridge, nonnegative)
    method = str(rng.choice(["auto", "fista", "admm", "ista"], p=[0.5, 0.2, 0.2, 0.1]))
    return Draw(problem, kind, method)


def into(value: Array, size: Array, dtype: torch.dtype) -> Array:
    """value 10^size, clipped to the dtype's range and rounded to the dtype."""
    number = torch.finfo(dtype)
    scaled = np.clip(value.astype(Wide) * Wide(10) ** size.astype(Wide), -Wide(number.max), Wide(number.max))
    return scaled.astype(np.float64 if dtype == torch.float64 else np.float32).astype(Wide)


def tensor(value: Array, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value.astype(np.float64))).to(dtype)


class Judge(NamedTuple):
    """Problems in long double: P (b, d, n), x (b, d), lam (b,), ridge, and whether codes must not be negative."""

    P: Array
    x: Array
    lam: Array
    ridge: Any
    nonnegative: bool

    @classmethod
    def of(cls, problem: vd.SparseProblem) -> Judge:
        x = problem.x.double().numpy().astype(Wide).reshape(-1, problem.x.shape[-1])
        P = problem.dictionary.matrix().double().numpy().astype(Wide)
        P = np.broadcast_to(P, (len(x), *P.shape[-2:]))
        lam = problem.lam.double().numpy().astype(Wide).reshape(-1)
        return cls(P, x, lam, Wide(float(problem.ridge)), problem.nonnegative)

    def pull(self, a: Array) -> Array:
        r = self.x - np.einsum("bdn,bn->bd", self.P, a)
        return np.einsum("bdn,bd->bn", self.P, r) - self.ridge * a

    def kkt(self, a: Array) -> Array:
        c, lam = self.pull(a), self.lam[:, None]
        idle = np.maximum((c if self.nonnegative else np.abs(c)) - lam, 0)
        worst = np.where(a == 0, idle, np.abs(c - lam * np.sign(a))).max(1)
        return np.maximum(worst, (-a).max(1)) if self.nonnegative else worst

    def falls(self, a: Array, sweeps: int) -> Array:
        """The decrease of E from `a` in that many sweeps of coordinate descent. It is at most E(a) - E*."""
        a = a.copy()
        r = self.x - np.einsum("bdn,bn->bd", self.P, a)
        curvature = np.einsum("bdn,bdn->bn", self.P, self.P) + self.ridge
        fallen = np.zeros(len(a), Wide)
        for _ in range(sweeps):
            before = fallen.copy()
            for j in range(a.shape[1]):
                h, old = curvature[:, j], a[:, j].copy()
                g = np.einsum("bd,bd->b", self.P[:, :, j], r) - self.ridge * old
                aim = old * h + g
                shrunk = np.maximum(aim - self.lam, 0)
                if not self.nonnegative:
                    shrunk = shrunk - np.maximum(-aim - self.lam, 0)
                new = np.where(h > 0, shrunk / np.where(h > 0, h, 1), np.where(self.lam > 0, 0, old))
                step = new - old
                # E(old) - E(new) along the coordinate. Only the difference of the penalties can cancel in this form.
                gain = step * (g - h * step / 2) - self.lam * (np.abs(new) - np.abs(old))
                better = gain > 0
                a[:, j] = np.where(better, new, old)
                r = r - self.P[:, :, j] * np.where(better, step, 0)[:, None]
                fallen = fallen + np.where(better, gain, 0)
            if np.all(fallen - before <= 1e-6 * fallen):
                break
        return fallen


@np.errstate(invalid="ignore", over="ignore")
def judged(problem: vd.SparseProblem, code: Tensor, tol: float, sweeps: int) -> tuple[Counter[str], list[str]]:
    """Counts of the claims about `code`, and a description of every false one."""
    judge = Judge.of(problem)
    a = code.double().numpy().astype(Wide).reshape(len(judge.x), -1)
    relative, kkt = (t.double().numpy().astype(Wide).reshape(-1) for t in problem.certificate(code))
    gap = problem.gap(code).double().numpy().astype(Wide).reshape(-1)
    finite = np.isfinite(a).all(1)
    counts: Counter[str] = Counter(certificates=len(a), within_tol=int((relative <= tol).sum()))
    counts["infinite_or_nan"] = int((~np.isfinite(relative)).sum())
    false = [
        f"a certificate of {relative[i]} for the code {a[i]}" for i in np.flatnonzero(~finite & (relative < np.inf))
    ]
    a = np.where(finite[:, None], a, 0)
    true_kkt, fallen = judge.kkt(a), judge.falls(a, sweeps)
    half = np.einsum("bd,bd->b", judge.x, judge.x) / 2
    pull = np.abs(np.einsum("bdn,bd->bn", judge.P, judge.x)).max(1)
    reach = np.sqrt(np.einsum("bdn,bdn->bn", judge.P, judge.P)).max(1) * np.sqrt(2 * half)
    # Long double rounds too. Its errors, which are 2000 times smaller, must not count as false claims.
    size = np.sqrt(np.einsum("bdn,bdn->bn", judge.P, judge.P))
    noise_c = 1e-18 * size.max(1) * (np.sqrt(2 * half) + np.einsum("bn,bn->b", size, np.abs(a)))
    noise = noise_c * np.abs(a).sum(1) * 1e-2
    claims = {
        "gap": (gap, fallen - noise),
        "relative gap": (np.where(judge.lam > 0, relative * half, np.inf), fallen - noise),
        "KKT residual": (kkt, true_kkt - noise_c),
        "relative KKT residual": (
            np.where(
                judge.lam > 0, np.inf, np.where(finite, relative, np.inf) * np.where(pull > 1e-13 * reach, pull, reach)
            ),
            np.where(judge.lam > 0, 0, true_kkt - noise_c),
        ),
    }
    for name, (claimed, true) in claims.items():
        false += [
            f"{name}: claimed {claimed[i]}, true at least {true[i]}; relative {relative[i]}, lam {judge.lam[i]}, "
            f"ridge {judge.ridge}, x {judge.x[i].tolist()}, P {judge.P[i].tolist()}, a {a[i].tolist()}, "
            f"nonnegative {judge.nonnegative}"
            for i in np.flatnonzero(finite & (claimed < true))
        ]
    return counts, false


def campaign(count: int, seed: int, batch: int = 200, sweeps: int = 60) -> tuple[Counter[str], list[str]]:
    """Judge `count` problems, half in each dtype. Returns counts, and a description of every false certificate."""
    counts: Counter[str] = Counter()
    false: list[str] = []
    done, number = 0, 0
    while done < count:
        rng = np.random.default_rng([seed, number])
        dtype = (torch.float64, torch.float32)[number % 2]
        size, number = min(batch, count - done), number + 1
        problem, kind, method = draw(rng, size, dtype)
        tol = 1e-8 if dtype == torch.float64 else 1e-5
        solution = vd.solve(problem, method, max_iterations=200, polish=bool(rng.random() < 0.8))
        off = solution.code * torch.from_numpy(
            1 + 10.0 ** rng.uniform(-17, 0) * rng.standard_normal(solution.code.shape)
        )
        codes = {"solved": solution.code, "moved": off.to(dtype), "zero": torch.zeros_like(solution.code)}
        for name, code in codes.items():
            found, wrong = judged(problem, code, tol, sweeps)
            counts.update({f"{name}_{key}": value for key, value in found.items()})
            false += [f"[{seed}, {number - 1}] {dtype} {kind} {method} {name}: {text}" for text in wrong]
        counts["problems"] += size
        counts["solved_claimed_converged"] += int(solution.converged.sum())
        done += size
    return counts, false


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=100_000, help="problems")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    counts, false = campaign(options.count, options.seed)
    for text in false[:20]:
        print(text[:400])
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({**counts, "false": len(false), "seed": options.seed, "seconds": seconds}))
    return 1 if false else 0


if __name__ == "__main__":
    raise SystemExit(main())
