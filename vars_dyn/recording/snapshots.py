"""The integrator's snapshot as arrays of a store. A run that goes on from them ends with the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from vars_dyn.dynamics.base import Field
from vars_dyn.integration import Snapshot, Statistics
from vars_dyn.recording.layout import Layout, as_numpy, meaning
from vars_dyn.recording.store import Array

__all__ = ["arrays", "read"]


def arrays(layout: Layout, snapshot: Snapshot, slot: int) -> list[Array]:
    """The arrays that hold a snapshot in slot 0 or 1."""
    prefix = f"snapshot/{slot}/"
    parts = {"z": layout.neurons, "u": layout.atoms}
    found = []
    for name, part in zip(layout.field.state_names, snapshot.state, strict=True):
        values = as_numpy(part).reshape(layout.signals, *parts[name].shape)
        found.append(
            Array(prefix + name, ("signal", *parts[name].all_dims), values, meaning(f"{name} at the snapshot"))
        )
    tau = {"units": "tau"}
    step = math.nan if snapshot.step is None else float(snapshot.step)
    per_signal = {
        "live": (snapshot.live, meaning("whether the signal is still integrated")),
        "relative_gap": (snapshot.relative_gap, meaning("relative gap where it was last looked at")),
        "settled_at": (snapshot.settled_at, tau | {"long_name": "time at which the signal was found settled"}),
    }
    found += [
        Array(prefix + name, ("signal",), as_numpy(values).reshape(-1), attributes)
        for name, (values, attributes) in per_signal.items()
    ]
    statistics = np.asarray([int(value) for value in snapshot.statistics], dtype=np.int64)
    return [
        *found,
        Array(
            prefix + "at", (), np.asarray(snapshot.time, dtype=np.float64), tau | {"long_name": "time of the snapshot"}
        ),
        Array(prefix + "step", (), np.asarray(step, dtype=np.float64), tau | {"long_name": "step to try next"}),
        Array(prefix + "statistics", ("statistic",), statistics, meaning(", ".join(Statistics._fields))),
    ]


def read(field: Field, array: Callable[[str], NDArray[np.generic]], slot: int) -> Snapshot:
    """The snapshot in slot 0 or 1. `array` returns an array of the store by name."""
    prefix, device = f"snapshot/{slot}/", field.device

    def tensor(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(np.array(array(prefix + name))).to(device=device, dtype=dtype).reshape(shape)

    state = tuple(
        tensor(name, field.dtype, (*field.signal_batch, *event))
        for name, event in zip(field.state_names, field.event_shapes, strict=True)
    )
    step = float(array(prefix + "step"))
    batch, real = field.signal_batch, field.lam.dtype
    return Snapshot(
        time=float(array(prefix + "at")),
        state=state,
        step=None if math.isnan(step) else step,
        live=tensor("live", torch.bool, batch),
        relative_gap=tensor("relative_gap", real, batch),
        settled_at=tensor("settled_at", real, batch),
        statistics=Statistics(*(int(value) for value in array(prefix + "statistics"))),
    )
