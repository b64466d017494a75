"""The rows of the benchmark by name; a row is added here, and written in a file of its own."""

from __future__ import annotations

from collections.abc import Callable

from experiments.benchmark import lasso, own_dictionaries
from experiments.benchmark.contract import Row

__all__ = ["ROWS"]

ROWS: dict[str, Callable[[], Row]] = {
    "sparse-coding": lasso.sparse_coding,
    "ill-conditioned": lasso.ill_conditioned,
    "own-dictionaries": own_dictionaries.own_dictionaries,
}
