"""Search for false certificates: random problems over hundreds of orders of magnitude, judged in long double.

    python -m tests.campaigns.certificates [--count N] [--seed S]

Half of the problems have weights per atom, zero and infinity among them, or a bias within or beyond the penalties; a
tenth are hierarchies. Every code that a solver returns, and codes that are not optimal, are certified by the package in
float32 and float64. The judge shares no code with it. It runs coordinate descent from the code in NumPy's long double,
whose exponent has 15 bits. The decrease of the objective is a lower bound on E(a) - E*, so a certificate that claims
less is false. The KKT residual is computed in long double too. The numbers of a problem are those that it stores: the
judge takes lam, the weights and the roots of a hierarchy's couplings as rounded to the dtype. Prints one line of counts
as JSON; the exit status is 1 if any claim was false.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import vars_dyn as vd

Array = NDArray[Any]
Wide = np.longdouble
#: Exponents of ten that the dtypes hold, subnormal numbers included.
RANGE = {torch.float64: (-320, 300), torch.float32: (-44, 37)}
KINDS = ("plain", "coherent", "duplicate", "uneven atoms", "zero atoms", "integers")


class Draw(NamedTuple):
    """A batch of problems of one shape; `matrix` is their dictionary in long double, (1 or batch, d, n)."""

    problem: vd.SparseProblem
    matrix: Array
    kind: str
    method: str


def draw(rng: np.random.Generator, batch: int, dtype: torch.dtype) -> Draw:
    """Draw a batch of problems, with one dictionary each or one for all, and with a scale for each signal."""
    if rng.random() < 0.1:
        return hierarchies(rng, batch, dtype)
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
    lam = penalties(rng, pull, dtype)
    middle = Wide(10) ** Wide(2 * float(np.median(size_p)))
    weight_of_ridge = Wide(10) ** Wide(rng.choice([-3, -1, 0, 0, 2, rng.uniform(-40, 40)])) * middle
    ridge = 0.0 if rng.random() < 0.6 else float(np.clip(weight_of_ridge, 0, Wide(torch.finfo(dtype).max)))
    nonnegative = bool(rng.random() < 0.4)
    given = tensor(weight[0] if shared else weight, dtype), tensor(x if shared else x[:, None], dtype)
    lam_ = tensor(lam if shared else lam[:, None], dtype)
    own = atoms(rng, n, pull, lam, dtype) if rng.random() < 0.5 else (None, None)
    weights, bias = (t if t is None or shared or t.ndim == 1 else t[:, None] for t in own)
    P_ = vd.DenseDictionary(given[0])
    problem = vd.SparseProblem(P_, given[1], lam_, ridge, nonnegative, weights=weights, bias=bias)
    return Draw(problem, tensor_of(given[0]).reshape(elements, d, n), kind, method_of(rng))


def penalties(rng: np.random.Generator, pull: Array, dtype: torch.dtype) -> Array:
    """lam of each signal: a share of its largest pull, or zero for all."""
    batch = len(pull)
    share = 10.0 ** rng.uniform(-4, 0.3, batch) if rng.random() < 0.6 else 10.0 ** rng.uniform(-40, 40, batch)
    share = np.where(rng.random(batch) < 0.02, 10.0 ** rng.uniform(-300, 300, batch), share)
    lam = share.astype(Wide) * pull
    lam = np.zeros(batch) if rng.random() < 0.15 else lam
    return np.clip(lam, 0, Wide(torch.finfo(dtype).max))


def atoms(
    rng: np.random.Generator, n: int, pull: Array, lam: Array, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Weights and a bias of the atoms; either may be None, and either may differ from signal to signal."""
    batch, weights, bias = len(pull), None, None
    span = float(rng.choice([0.0, 1.0, 1.0, 3.0, 40.0 if dtype == torch.float64 else 10.0]))
    level = np.ones((batch, n), Wide)
    if rng.random() < 0.8:
        each = Wide(10) ** rng.uniform(-span, span, (batch if rng.random() < 0.5 else 1, n)).astype(Wide)
        each = np.where(rng.random(each.shape) < rng.choice([0.0, 0.2]), np.inf, each)
        free = rng.choice([0, 0, 1, 2])
        # Atoms of weight zero are the same for all signals, and more of them than entries would be dependent.
        each[:, rng.permutation(n)[:free]] = 0.0
        if rng.random() < 0.05:
            each = np.where(rng.random(n) < 0.3, Wide(10) ** rng.uniform(-300, 300), each)
        weights = tensor(np.clip(each, 0, Wide(torch.finfo(dtype).max)) + np.where(np.isinf(each), np.inf, 0), dtype)
        weights = weights[0] if len(each) == 1 else weights
        level = np.broadcast_to(each, (batch, n))
    if rng.random() < 0.6:
        # Within the penalty, at its border, beyond it, or relative to what the signals themselves send.
        box = lam[:, None] * np.where(np.isinf(level), 0, level)
        sizes = box if rng.random() < 0.7 else np.broadcast_to(pull[:, None], box.shape)
        share = rng.choice([0.3, 0.9, 0.95, 1.0, 1.1, 2.0, 10.0 ** rng.uniform(-20, 20)])
        sign = rng.choice([-1.0, 0.0, 1.0], (batch, n)) * (1.0 if rng.random() < 0.5 else rng.random((batch, n)))
        q = np.where(level == 0, 0, share * sign * sizes)
        limit = Wide(torch.finfo(dtype).max)
        bias = tensor(np.clip(np.nan_to_num(q, posinf=limit), -limit, limit), dtype)
        bias = bias[0] if rng.random() < 0.3 else bias
    return weights, bias


def hierarchies(rng: np.random.Generator, batch: int, dtype: torch.dtype) -> Draw:
    """Hierarchies of two or three layers for a batch of signals, of layers with sizes of their own."""
    low, high = RANGE[dtype]
    levels = int(rng.integers(2, 4))
    sizes = [int(rng.integers(1, 6)) for _ in range(levels + 1)]
    wide = rng.random() < 0.6
    sizes_p = rng.uniform(low / 3, high / 3, levels) if wide else rng.uniform(-2, 2, levels)
    matrices = [into(rng.standard_normal((m, k)), s, dtype) for (m, k), s in zip(pairwise(sizes), sizes_p, strict=True)]
    size_x = rng.uniform(low, high, (batch, 1)) if wide else rng.uniform(-3, 3, (batch, 1))
    x = into(rng.standard_normal((batch, sizes[0])), size_x, dtype)
    # The coupling of a layer balances its error with that of the layers below, up to some orders of magnitude.
    balance = np.cumsum(sizes_p)[:-1]
    span = 3 if rng.random() < 0.7 else (high - low) / 8
    limit = Wide(torch.finfo(dtype).max)
    roots = Wide(10) ** (balance + rng.uniform(-span, span, levels - 1)).astype(Wide)
    tiny = Wide(torch.finfo(dtype).tiny)
    coupling = [float(np.clip(root**2, tiny, limit)) for root in roots]
    layers = [vd.DenseDictionary(tensor(P, dtype)) for P in matrices]
    pull, lam = np.abs(x @ matrices[0]).max(1), list[float]()
    for level in range(levels):
        each = penalties(rng, pull * Wide(10) ** Wide(sizes_p[1 : level + 1].sum()), dtype)
        # One for all signals, since a weight must not underflow to zero at some signals only.
        lam.append(float(tensor(np.median(each, keepdims=True), dtype)))
    bias: list[Tensor | None] = [None] * levels
    if rng.random() < 0.3:
        level = int(rng.integers(levels))
        q = Wide(rng.choice([0.5, 1.0, 2.0])) * lam[level] * rng.choice([-1.0, 0.0, 1.0], (batch, sizes[level + 1]))
        q = np.clip(q, -limit, limit)
        bias[level] = tensor(q, dtype)
    problem = vd.hierarchy_problem(tensor(x, dtype), layers, lam, coupling, bool(rng.random() < 0.4), bias=bias)
    B = np.zeros((problem.dictionary.signal_size, problem.dictionary.code_size), Wide)
    row, column = 0, 0
    for level, P in enumerate(matrices):
        root = Wide(1) if level == 0 else Wide(float(problem.dictionary.roots[level - 1]))
        m, k = P.shape
        B[row : row + m, column : column + k] = root * P
        if level:
            B[row : row + m, column - m : column] = -root * np.eye(m)
        row, column = row + m, column + k
    return Draw(problem, B[None], "hierarchy", method_of(rng))


def method_of(rng: np.random.Generator) -> str:
    return str(rng.choice(["auto", "fista", "admm", "ista"], p=[0.5, 0.2, 0.2, 0.1]))


def tensor_of(value: Tensor) -> Array:
    return value.double().numpy().astype(Wide)


def into(value: Array, size: Array, dtype: torch.dtype) -> Array:
    """value 10^size, clipped to the dtype's range and rounded to the dtype."""
    number = torch.finfo(dtype)
    scaled = np.clip(value.astype(Wide) * Wide(10) ** size.astype(Wide), -Wide(number.max), Wide(number.max))
    return scaled.astype(np.float64 if dtype == torch.float64 else np.float32).astype(Wide)


def tensor(value: Array, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value.astype(np.float64))).to(dtype)


class Judge(NamedTuple):
    """Problems in long double; silenced atoms have an infinite `level`.

    Attributes:
        P, x: (b, d, n) and (b, d).
        lam, level: (b,), and lam w_i, (b, n).
        ridge, bias: a number, and q, (b, n).
        nonnegative: whether codes must not be negative.
    """

    P: Array
    x: Array
    lam: Array
    level: Array
    ridge: Any
    bias: Array
    nonnegative: bool

    @classmethod
    def of(cls, problem: vd.SparseProblem, matrix: Array | None = None) -> Judge:
        x = tensor_of(problem.x).reshape(-1, problem.x.shape[-1])
        matrix = tensor_of(problem.dictionary.matrix()) if matrix is None else matrix
        P = np.broadcast_to(matrix, (len(x), *matrix.shape[-2:]))
        lam = tensor_of(problem.lam).reshape(-1)
        shape = (*problem.batch_shape, problem.dictionary.code_size)
        ones = torch.ones(shape, dtype=torch.float64)
        w, q = (
            tensor_of(d if t is None else t.expand(shape)).reshape(len(x), -1)
            for t, d in ((problem.weights, ones), (problem.bias, 0 * ones))
        )
        level = np.where(np.isinf(w), np.inf, lam[:, None] * np.where(np.isinf(w), 0, w))
        return cls(P, x, lam, level, Wide(float(problem.ridge)), q, problem.nonnegative)

    def pull(self, a: Array) -> Array:
        r = self.x - np.einsum("bdn,bn->bd", self.P, a)
        return np.einsum("bdn,bd->bn", self.P, r) + self.bias - self.ridge * a

    def kkt(self, a: Array) -> Array:
        c, level = self.pull(a), self.level
        idle = np.maximum((c if self.nonnegative else np.abs(c)) - level, 0)
        # A silenced atom that is active has no condition that could hold; certificates call that infinite.
        active = np.abs(c - np.where(np.isinf(level), 0, level) * np.sign(a))
        worst = np.where(a == 0, idle, active).max(1)
        return np.maximum(worst, (-a).max(1)) if self.nonnegative else worst

    def falls(self, a: Array, sweeps: int) -> Array:
        """The decrease of E from `a` in that many sweeps of coordinate descent. It is at most E(a) - E*."""
        a = a.copy()
        silent = np.isinf(self.level)
        level = np.where(silent, 0, self.level)
        r = self.x - np.einsum("bdn,bn->bd", self.P, a)
        curvature = np.einsum("bdn,bdn->bn", self.P, self.P) + self.ridge
        size, length = np.sqrt(curvature), np.sqrt(np.einsum("bd,bd->b", self.x, self.x))
        fallen = np.where((silent & (a != 0)).any(1), Wide(np.inf), Wide(0))
        for _ in range(sweeps):
            before = fallen.copy()
            for j in range(a.shape[1]):
                h, old, own = curvature[:, j], a[:, j].copy(), level[:, j]
                g = np.einsum("bd,bd->b", self.P[:, :, j], r) + self.bias[:, j] - self.ridge * old
                aim = old * h + g
                shrunk = np.maximum(aim - own, 0)
                if not self.nonnegative:
                    shrunk = shrunk - np.maximum(-aim - own, 0)
                new = np.where(h > 0, shrunk / np.where(h > 0, h, 1), np.where(own > 0, 0, old))
                step = np.where(silent[:, j], 0, new - old)
                # E(old) - E(new) along the coordinate. Only the difference of the penalties can cancel in this form.
                gain = step * (g - h * step / 2) - own * (np.abs(new) - np.abs(old))
                # Long double rounds too. Its errors, which are 2000 times smaller, must not count as false claims.
                reach = length + np.einsum("bn,bn->b", size, np.abs(a))
                off = size[:, j] * reach + np.abs(self.bias[:, j]) + self.ridge * np.abs(old) + own
                gain = gain - 1e-18 * off * (np.abs(new) + np.abs(old)) * (step != 0)
                better = (gain > 0) & ~silent[:, j]
                a[:, j] = np.where(better, new, old)
                r = r - self.P[:, :, j] * np.where(better, step, 0)[:, None]
                fallen = fallen + np.where(better, gain, 0)
            if np.all((fallen - before <= 1e-6 * fallen) | np.isinf(fallen)):
                break
        return fallen


@np.errstate(invalid="ignore", over="ignore")
def half_square(problem: vd.SparseProblem, judge: Judge) -> Array:
    """What relative gaps are relative to: 1/2 (|x|^2 + |P b|^2 + ridge |b|^2) with the anchor b of the certificate."""
    half = np.einsum("bd,bd->b", judge.x, judge.x) / 2
    own = problem.prepared()
    b = own.problem.anchor().code
    if b is None:
        return half
    # b may lie beyond the range of the dtype, but not of long double.
    exponent = (own.units.f - own.units.e).reshape(-1, 1).numpy() if not own.units.plain else np.zeros((1, 1), int)
    wide = np.ldexp(tensor_of(b).reshape(judge.bias.shape), -exponent)
    image = np.einsum("bdn,bn->bd", judge.P, wide)
    # The package takes P b as it computes it, which a long b may cancel in.
    size = np.sqrt(np.einsum("bdn,bdn->bn", judge.P, judge.P))
    off = 1e-15 * np.einsum("bn,bn->b", size, np.abs(wide))
    length = np.sqrt(np.einsum("bd,bd->b", image, image)) + off
    return half + (length**2 + judge.ridge * np.einsum("bn,bn->b", wide, wide)) / 2


@np.errstate(invalid="ignore", over="ignore")
def judged(
    problem: vd.SparseProblem, judge: Judge, code: Tensor, tol: float, sweeps: int
) -> tuple[Counter[str], list[str]]:
    """Counts of the claims about `code`, and a description of every false one."""
    a = tensor_of(code).reshape(len(judge.x), -1)
    relative, kkt = (tensor_of(t).reshape(-1) for t in problem.certificate(code))
    gap = tensor_of(problem.gap(code)).reshape(-1)
    finite = np.isfinite(a).all(1)
    counts: Counter[str] = Counter(certificates=len(a), within_tol=int((relative <= tol).sum()))
    counts["infinite_or_nan"] = int((~np.isfinite(relative)).sum())
    false = [
        f"a certificate of {relative[i]} for the code {a[i]}" for i in np.flatnonzero(~finite & (relative < np.inf))
    ]
    a = np.where(finite[:, None], a, 0)
    true_kkt, fallen = judge.kkt(a), judge.falls(a, sweeps)
    half = half_square(problem, judge)
    length = np.sqrt(np.einsum("bd,bd->b", judge.x, judge.x))
    pull = np.abs(np.einsum("bdn,bd->bn", judge.P, judge.x) + judge.bias).max(1)
    size = np.sqrt(np.einsum("bdn,bdn->bn", judge.P, judge.P))
    reach = size.max(1) * length
    noise_c = 1e-18 * (size.max(1) * (length + np.einsum("bn,bn->b", size, np.abs(a))) + np.abs(judge.bias).max(1))
    claims = {
        "gap": (gap, fallen),
        "relative gap": (np.where(judge.lam > 0, relative * half, np.inf), fallen),
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
            f"lam w {judge.level[i].tolist()}, q {judge.bias[i].tolist()}, nonnegative {judge.nonnegative}"
            for i in np.flatnonzero(finite & (claimed < true))
        ]
    return counts, false


def batch_judged(seed: int, number: int, size: int, sweeps: int) -> tuple[Counter[str], list[str]]:
    """Judge one batch of `size` problems: counts, and a description of every false certificate."""
    rng = np.random.default_rng([seed, number])
    dtype = (torch.float64, torch.float32)[number % 2]
    problem, matrix, kind, method = draw(rng, size, dtype)
    counts: Counter[str] = Counter({"problems": size, kind.replace(" ", "_"): size})
    counts["with_weights"] = size * (problem.weights is not None)
    counts["with_bias"] = size * (problem.bias is not None)
    judge, tol = Judge.of(problem, matrix), 1e-8 if dtype == torch.float64 else 1e-5
    try:
        bounded = problem.bounded()
    except ValueError as error:
        # Atoms without a penalty that are dependent: the whole batch is refused.
        if "linearly dependent" not in str(error):
            raise
        counts["refused"] = size
        return counts, []
    counts["not_bounded"] = int((~bounded).sum())
    codes = {"zero": problem.x.new_zeros(*problem.batch_shape, problem.dictionary.code_size)}
    if bool(bounded.all()):
        solution = vd.solve(problem, method, max_iterations=200, polish=bool(rng.random() < 0.8))
        counts["solved_claimed_converged"] = int(solution.converged.sum())
        start = codes["solved"] = solution.code
    else:
        # `solve` refuses all of these, so random codes take its place, whose size is often far from that of solutions.
        drawn = torch.from_numpy(rng.standard_normal(codes["zero"].shape))
        scale = problem.drive().double().abs().amax(-1, keepdim=True).clamp(max=1e300)
        start = codes["drawn"] = (drawn.abs() if problem.nonnegative else drawn).mul(scale).to(dtype)
    off = start.double() * torch.from_numpy(1 + 10.0 ** rng.uniform(-17, 0) * rng.standard_normal(start.shape))
    codes["moved"] = off.to(dtype)
    false = []
    for name, code in codes.items():
        found, wrong = judged(problem, judge, code, tol, sweeps)
        counts.update({f"{name}_{key}": value for key, value in found.items()})
        false += [f"{dtype} {kind} {method} {name}: {text}" for text in wrong]
    return counts, false


def campaign(count: int, seed: int, batch: int = 200, sweeps: int = 60) -> tuple[Counter[str], list[str]]:
    """Judge `count` problems, half in each dtype. Returns counts, and a description of every false certificate.

    An error that is not the refusal of dependent atoms counts as false too.
    """
    counts: Counter[str] = Counter()
    false: list[str] = []
    for number in tqdm(range(-(-count // batch)), unit="batch", disable=not sys.stderr.isatty()):
        try:
            found, wrong = batch_judged(seed, number, min(batch, count - number * batch), sweeps)
        except Exception as error:
            found, wrong = Counter[str](), [f"{type(error).__name__}: {error}"]
        counts.update(found)
        false += [f"[{seed}, {number}] {text}" for text in wrong]
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
