"""The rows of the benchmark by name. A new row is written in a file of its own and added here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.benchmark import attention, lasso, own_dictionaries, recording, training, trajectories
from experiments.benchmark.contract import Row

__all__ = ["ROWS"]

ROWS: dict[str, Callable[[], Row]] = {
    "sparse-coding": lasso.sparse_coding,
    "ill-conditioned": lasso.ill_conditioned,
    "own-dictionaries": own_dictionaries.own_dictionaries,
    "trajectory-80": trajectories.short_trajectory,
    "trajectory-600": trajectories.long_trajectory,
    "trajectory-20": trajectories.tight_trajectory,
    "attention-196": partial(attention.attention, 196),
    "attention-784": partial(attention.attention, 784),
    "attention-block-196": partial(attention.blocks, 196),
    "attention-block-784": partial(attention.blocks, 784),
    "recording": recording.recording,
    "training-64": partial(training.training, 64),
    "training-256": partial(training.training, 256),
}
