"""The row "own-dictionaries": problems that each have a dictionary, as in attention, against unrolled ISTA."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

import vars_dyn as vd
from experiments.benchmark.contract import Contender, Goal, Row

__all__ = ["own_dictionaries"]

IMAGES, HEADS, TOKENS, ATOMS, CHANNELS = 500, 6, 196, 64, 32
LAM, STEPS = 0.3, 20
OURS, ISTA = 'vars_dyn.solve(method="admm")', f"{STEPS} plain ISTA steps, float32"


class _Data(NamedTuple):
    """P, (problems, d, d'), and the signals, (problems, n, d), float32."""

    weight: Tensor
    x: Tensor


@cache
def _data() -> _Data:
    """Random features of random tokens, and standard normal signals."""
    generator = torch.Generator().manual_seed(0)
    problems = IMAGES * HEADS
    tokens = torch.randn(problems, TOKENS, CHANNELS, generator=generator)
    features = torch.randn(ATOMS, CHANNELS, generator=generator)
    x = torch.randn(problems, CHANNELS, TOKENS, generator=generator)
    return _Data(vd.RandomFeatureDictionary(tokens, features).matrix(), x)


def _problem() -> vd.SparseProblem:
    return vd.SparseProblem(vd.DenseDictionary(_data().weight.double()), _data().x.double(), LAM)


def _ours() -> Callable[[], Tensor]:
    problem = _problem()
    return lambda: vd.solve(problem, method="admm", tol=1e-6, polish=False).code


def _ista() -> Callable[[], Tensor]:
    weight, x = _data()

    def work() -> Tensor:
        gram, a = weight.mT @ weight, x @ weight
        drive, largest = a, torch.linalg.eigvalsh(gram)[:, -1, None, None]
        threshold = LAM / largest
        for _ in range(STEPS):
            v = a + (drive - a @ gram) / largest
            a = v - torch.minimum(torch.maximum(v, -threshold), threshold)
        return a

    return work


def own_dictionaries() -> Row:
    """The row "own-dictionaries". Our contenders get float64, work in float32, and refine and certify in float64."""

    def judge(code: Tensor) -> dict[str, float]:
        gap = torch.cat([_gap(rows, code[rows]) for rows in torch.arange(len(code)).split(100)])
        return {"accuracy": float(gap.max()), "median relative gap": float(gap.median())}

    def _gap(rows: Tensor, code: Tensor) -> Tensor:
        weight, x = _data()
        return vd.SparseProblem(vd.DenseDictionary(weight[rows].double()), x[rows].double(), LAM).relative_gap(
            code.double()
        )

    return Row(
        "own-dictionaries",
        f"{IMAGES * HEADS} LASSO problems of {CHANNELS} signals and an own dictionary each, "
        f"d = {TOKENS}, d' = {ATOMS}, lam = .3",
        "largest relative gap",
        1e-6,
        (Contender(OURS, _ours, ours=True), Contender(ISTA, _ista)),
        judge,
        (Goal(OURS, ISTA, 2.5),),
    )
