"""Measure rows, each in a process of its own where there are several, so that none finds the memory another left."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import torch

from experiments.benchmark.alternating import Measured, run_row
from experiments.benchmark.contract import Row
from experiments.benchmark.rows import ROWS

__all__ = ["measure_rows"]


def measure_rows(names: Sequence[str], rounds: int) -> Iterator[tuple[Row, list[Measured]]]:
    """The rows of these names with what was measured of them, one after the other."""
    for name in names:
        if len(names) == 1:
            yield ROWS[name](), _measured(name, rounds)
            continue
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield ROWS[name](), pool.submit(_measured, name, rounds).result()


def _measured(name: str, rounds: int) -> list[Measured]:
    torch.set_num_threads(1)
    return run_row(ROWS[name](), rounds)
