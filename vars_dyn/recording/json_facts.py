"""Facts of a run as strict JSON, which every reader of a store understands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["Facts", "Standing", "as_facts", "as_json", "as_text", "from_text"]

#: Facts by name. The values are of JSON's types: numbers, texts, truth values, lists, and dictionaries with text keys.
Facts = dict[str, Any]

_LARGEST = 1 << 20  # the most entries that a fact may have


@dataclass(frozen=True)
class Standing:
    """How far a stored run has come: the facts that are needed to resume it, under the store's names for them.

    Attributes:
        status: "running", "settled", "reached t_max", or "failed: " and why.
        t_end, t_max: the time reached and the time to reach, in membrane time constants.
        wall_seconds: how long the run has taken.
        snapshot_slot: the snapshot to go on from, 0 or 1.
        snapshot_index: the index of that snapshot's time in the run's times.
        snapshot_times_sha256: the hash of the run's times up to that snapshot's time.
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
        """Read the standing from a store's facts, which `vars_dyn.recording.integrity` checks on opening the store."""
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
    """Facts that a user gives, as values of JSON; ValueError for numbers that JSON does not have."""
    return {str(name): as_json(str(name), value) for name, value in (given or {}).items()}


def as_json(name: str, value: Any) -> Any:
    """`value` as a value of strict JSON. Arrays become lists, None becomes "none", and unknown types become their text.

    Raises ValueError, which names the fact, for NaN and infinity, and for arrays too large for a fact.
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
    """The facts that a text holds; ValueError if it is not a JSON object."""
    found = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(found, dict):
        raise ValueError("the provenance is no JSON object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
