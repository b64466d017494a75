"""Measure rows. Where there are several, each has a process of its own, so that none finds memory another one left."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import torch

from experiments.benchmark.alternating import Measured, run_row
from experiments.benchmark.contract import Row
from experiments.benchmark.rows import ROWS

__all__ = ["measure_rows"]


def measure_rows(names: Sequence[str], rounds: int) -> Iterator[tuple[Row, list[Measured]]]:
    """Yield the rows of these names, one after the other, with what was measured of them."""
    for name in names:
        yield ROWS[name](), _measured(name, rounds) if len(names) == 1 else _apart(name, rounds)


def _apart(name: str, rounds: int) -> list[Measured]:
    """Measure in a process that ends with its row, and also if this process is killed meanwhile."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, name, rounds), daemon=True)
    process.start()
    there.close()
    try:
        found: list[Measured] = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process that measured {name} ended with status {process.exitcode}") from None
    process.join()
    return found


def _send(to: Connection, name: str, rounds: int) -> None:
    to.send(_measured(name, rounds))


def _measured(name: str, rounds: int) -> list[Measured]:
    torch.set_num_threads(1)
    return run_row(ROWS[name](), rounds)
