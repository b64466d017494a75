"""Planted dictionaries over many seeds: `python -m tests.campaigns.planted_dictionaries [SEEDS]`.

For every seed it plants atoms, learns from random ones, and prints the share of planted atoms that a learned one
matches with a cosine above .98. Convolutional templates of 5 x 5 pixels are learned as 9 x 9, in which a template may
lie anywhere, and are compared at all shifts. The last line has the median and the least.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import vars_dyn as vd
from vars_dyn.learning import Atoms, Learner, Online, Solve, random_dictionary

REAL: dict[str, Any] = {"dtype": torch.float64}
RULE = Online(forgetting=5.0)
#: Batches between attempts to leave a local minimum.
MOVES = 10


def sparse(shape: tuple[int, ...], share: float, generator: torch.Generator) -> Tensor:
    """Codes of random signs and magnitudes from .5 to 1.5, of which a share is not zero."""
    values = torch.randn(shape, generator=generator, **REAL).sign() * (
        0.5 + torch.rand(shape, generator=generator, **REAL)
    )
    return torch.where(torch.rand(shape, generator=generator, **REAL) < share, values, 0.0)


def dense(seed: int, steps: int = 300) -> float:
    """24 atoms of 16 entries, two or so in each signal."""
    generator = torch.Generator().manual_seed(seed)
    planted = F.normalize(torch.randn(16, 24, generator=generator, **REAL), dim=0)
    start = random_dictionary(vd.DenseDictionary(planted), seed + 1000)
    learner = Learner(start, 0.3, RULE, atoms=Atoms(patience=1000, moves=MOVES))
    for _ in range(steps):
        learner.step(sparse((128, 24), 0.1, generator) @ planted.mT)
    (weight,) = learner.dictionary.tensors()
    return found((weight.mT @ planted).abs().amax(0))


def convolutional(seed: int, steps: int = 80) -> float:
    """6 templates of 5 x 5 pixels on images of 24 x 24, about ten in each."""
    generator = torch.Generator().manual_seed(seed)
    planted = F.normalize(torch.randn(6, 25, generator=generator, **REAL), dim=1).reshape(6, 1, 5, 5)
    source = vd.ConvDictionary(planted, (1, 24, 24))
    start = vd.ConvDictionary(torch.ones(6, 1, 9, 9, **REAL), (1, 24, 24), padding=4)
    learner = Learner(
        random_dictionary(start, seed + 1000), 0.3, RULE, Solve(tol=1e-3), Atoms(patience=300, moves=MOVES)
    )
    for _ in range(steps):
        learner.step(source.decode(sparse((8, *source.code_shape), 0.004, generator)))
    (weight,) = learner.dictionary.tensors()
    windows = F.conv2d(F.pad(weight, (4, 4, 4, 4)), planted)
    return found(windows.abs().amax((0, 2, 3)))


def found(cosine: Tensor) -> float:
    """The share of atoms that were found."""
    return float((cosine > 0.98).double().mean())


def main() -> int:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    for kind in (dense, convolutional):
        shares = []
        for seed in seeds:
            began = time.process_time()
            shares.append(kind(seed))
            print(f"{kind.__name__} {seed}: {shares[-1]:.3f}, {time.process_time() - began:.1f} s", flush=True)
        print(f"{kind.__name__}: median {statistics.median(shares):.3f}, least {min(shares):.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
