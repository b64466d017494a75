"""Which part of a trajectory is recorded, and how the user describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vars_dyn import _checks
from vars_dyn.dynamics.base import State
from vars_dyn.recording.coordinates import signal_coordinates
from vars_dyn.recording.json_facts import Facts, as_facts
from vars_dyn.recording.layout import Layout
from vars_dyn.recording.store import Array

__all__ = ["Description", "Selection", "description_of"]

#: A chunk holds at most this many bytes of states, and at most this many time points.
_CHUNK_BYTES, _CHUNK_POINTS = 1 << 24, 64


@dataclass(frozen=True)
class Selection:
    """The part of a trajectory that is recorded.

    Attributes:
        variables: names of `VARIABLES`; None for all that the field has.
        every: record every n-th time, starting with the first.
        neurons: flat indices of the neurons whose z is recorded; None for all.
        atoms: flat indices of the atoms whose u and code are recorded; None for all.
        chunk: recorded times per commit and per chunk of a store; None for as many as fit in 16 MiB, at most 64.
    """

    variables: Sequence[str] | None = None
    every: int = 1
    neurons: Sequence[int] | None = None
    atoms: Sequence[int] | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        _checks.count("every", self.every)
        if self.chunk is not None:
            _checks.count("chunk", self.chunk)

    def points(self, times: int) -> int:
        """The number of recorded times, of `times` integrated ones."""
        return -(-times // self.every)

    def chunk_for(self, state: State) -> int:
        """The number of recorded times per commit, for states of the size of `state`."""
        if self.chunk is not None:
            return self.chunk
        size = sum(part.numel() * part.element_size() for part in state) * self.every
        return max(1, min(_CHUNK_POINTS, _CHUNK_BYTES // max(size, 1)))


@dataclass(frozen=True)
class Description:
    """What the user says of the signals and of the run.

    Attributes:
        coordinates: one array per coordinate of the signals.
        attributes: attributes of the dataset. They also are facts of the run.
        origin: facts of where signals and parameters come from. Only the provenance holds them.
    """

    coordinates: list[Array]
    attributes: Facts
    origin: Facts

    @property
    def facts(self) -> Facts:
        """All facts that the user gave."""
        return self.attributes | self.origin


def description_of(
    layout: Layout,
    coordinates: Mapping[str, NDArray[np.generic]] | None,
    attributes: Mapping[str, Any] | None,
    origin: Mapping[str, Any] | None = None,
) -> Description:
    """The description in a form that a store can hold, or ValueError; `record` explains the arguments."""
    arrays, own = signal_coordinates(layout, coordinates), as_facts(attributes)
    if "coordinates" in own:
        raise ValueError(
            "attributes holds coordinates, by which xarray knows a dataset's coordinates; another name is wanted"
        )
    return Description(arrays, own, as_facts(origin))
