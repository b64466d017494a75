"""Facts of a run as strict JSON holds them, so that every reader of a store takes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["Facts", "Standing", "as_facts", "as_json", "as_text", "from_text"]

#: Facts by name. Values are what JSON has: numbers, texts, truth values, lists, and dictionaries by text.
Facts = dict[str, Any]

_LARGEST = 1 << 20  # entries of a fact


@dataclass(frozen=True)
class Standing:
    """Where a stored run stands: the facts that a resumption reads, under the names that the store gives them.

    Attributes:
        status: "running", "settled", "reached t_max", or "failed: " and why.
        t_end, t_max: the time reached and the time to reach, in membrane time constants.
        wall_seconds: how long the run has taken.
        snapshot_slot: which of the two snapshots to go on from, 0 or 1.
        snapshot_index: the index of its time in the run's times.
        snapshot_times_sha256: the hash of the run's times up to that one.
    """

    status: str
    t_end: float
    t_max: float
    wall_seconds: float
    snapshot_slot: int
    snapshot_index: int
    snapshot_times_sha256: str

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """What a store's facts say; they are checked when the store is opened (`vars_dyn.recording.integrity`)."""
        return cls(
            status=str(facts["status"]),
            t_end=float(facts["t_end"]),
            t_max=float(facts["t_max"]),
            wall_seconds=float(facts["wall_seconds"]),
            snapshot_slot=int(facts["snapshot_slot"]),
            snapshot_index=int(facts["snapshot_index"]),
            snapshot_times_sha256=str(facts["snapshot_times_sha256"]),
        )

    def is_complete(self, t_max: float) -> bool:
        """Whether a run to `t_max` has nothing left to do."""
        return self.status == "settled" or (self.status == "reached t_max" and self.t_max == t_max)


def as_facts(given: Mapping[str, Any] | None) -> Facts:
    """Facts that a user gives, as JSON has them; ValueError for what JSON has not."""
    return {str(name): as_json(str(name), value) for name, value in (given or {}).items()}


def as_json(name: str, value: Any) -> Any:
    """`value` as strict JSON has it: arrays become lists, None becomes "none", and what JSON does not know its text.

    Raises ValueError, which names the fact, for numbers that JSON has not, and for arrays too large for a fact.
    """
    if value is None:
        return "none"
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "mMV":
        value = value.astype(str)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # numpy, torch, xarray
        if np.prod(value.shape) > _LARGEST:
            raise ValueError(
                f"attribute {name} has {np.prod(value.shape)} entries; keep it in a file, and its name here"
            )
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): as_json(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(name, inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f'attribute {name} holds {value}, which JSON has not; a finite number, text or "none" is wanted'
        )
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def as_text(facts: Facts) -> str:
    """The facts as strict JSON."""
    return json.dumps(facts, allow_nan=False)


def from_text(text: str) -> Facts:
    """The facts that a text holds; ValueError where it is not a JSON object."""
    found = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(found, dict):
        raise ValueError("the provenance is no JSON object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
