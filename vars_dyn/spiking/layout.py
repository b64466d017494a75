"""What a recording of spikes holds: its arrays, their dimensions and units."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vars_dyn.recording.layout import as_numpy, meaning
from vars_dyn.recording.store import Array
from vars_dyn.spiking.events import Spikes, State
from vars_dyn.spiking.neurons import SpikingLCA

__all__ = ["COORDINATES", "Block", "block_of", "empty", "snapshot_arrays", "static_arrays"]

COORDINATES = ("time", "spike_time", "spike_signal", "spike_atom", "spike_sign")

_TAU = {"units": "tau"}
_OF_SPIKES: dict[str, tuple[Any, dict[str, str]]] = {
    "spike_time": (np.float64, _TAU | {"long_name": "time of the spike"}),
    "spike_signal": (np.int32, meaning("index of the signal whose unit fired")),
    "spike_atom": (np.int32, meaning("flat index of the atom whose unit fired")),
    "spike_sign": (np.int8, meaning("1 for an on unit, -1 for an off unit")),
}


class Block(NamedTuple):
    """What a window adds to a recording: entries along `time` and along `spike`, by name."""

    at_times: dict[str, NDArray[np.generic]]
    of_spikes: dict[str, NDArray[np.generic]]


def block_of(neurons: SpikingLCA, state: State, spikes: Spikes, before: int) -> Block:
    """The block of the window that ends with `state`, after `before` spikes in earlier windows."""
    code = neurons.code(state.time, state.counts)
    with torch.no_grad():
        relative, kkt = neurons.problem.certificate(code)
        values = {
            "objective": neurons.problem.objective(code),
            "gap": neurons.problem.gap(code),
            "relative_gap": relative,
            "kkt_residual": kkt,
            "bound": neurons.bound(state.time, code),
        }
    found = {name: as_numpy(value).reshape(1, neurons.signals) for name, value in values.items()}
    found["code"] = as_numpy(code).reshape(1, neurons.signals, *neurons.dictionary.code_shape)
    found["time"] = np.array([state.time])
    found["spike_end"] = np.array([before + len(spikes.time)], dtype=np.int64)
    sign = torch.where(spikes.unit < neurons.atoms, 1, -1)
    of_spikes = {
        "spike_time": spikes.time,
        "spike_signal": spikes.signal,
        "spike_atom": spikes.unit % neurons.atoms,
        "spike_sign": sign,
    }
    return Block(found, {name: as_numpy(v).astype(_OF_SPIKES[name][0]) for name, v in of_spikes.items()})


def empty(neurons: SpikingLCA) -> list[Array]:
    """The arrays that grow, along `time` or along `spike`, without entries."""
    code_dims = _dims(neurons.dictionary.code_shape, {1: ("atom",), 2: ("y", "x"), 3: ("channel", "y", "x")}, "atom")
    about = {
        "objective": "objective E of the averaged code",
        "gap": "duality gap of the averaged code",
        "relative_gap": "duality gap of the averaged code over |x|^2 / 2; where lam = 0, the relative KKT residual",
        "kkt_residual": "KKT residual of the averaged code",
        "bound": "bound on E(a) - E* that was known from the time alone, of order log T / T",
    }
    found = [
        Array("time", ("time",), np.zeros(0), _TAU | {"long_name": "end of the averaging, which starts at 0"}, True)
    ]
    shape = (0, neurons.signals, *neurons.dictionary.code_shape)
    found.append(Array("code", ("time", "signal", *code_dims), np.zeros(shape), meaning("averaged code q n / t"), True))
    found += [
        Array(name, ("time", "signal"), np.zeros((0, neurons.signals)), meaning(text), True)
        for name, text in about.items()
    ]
    until = meaning("number of spikes until then: those of window k are from spike_end[k - 1] to spike_end[k]")
    found.append(Array("spike_end", ("time",), np.zeros(0, dtype=np.int64), until, True))
    found += [
        Array(name, ("spike",), np.zeros(0, dtype=dtype), attributes, True)
        for name, (dtype, attributes) in _OF_SPIKES.items()
    ]
    return found


def static_arrays(neurons: SpikingLCA) -> list[Array]:
    """What is known before the run."""
    names = {1: ("neuron",), 2: ("row", "column"), 3: ("colour", "row", "column")}
    dims = _dims(neurons.dictionary.signal_shape, names, "neuron")
    signals = as_numpy(neurons.problem.x).reshape(neurons.signals, *neurons.dictionary.signal_shape)
    lam = as_numpy(neurons.problem.lam).reshape(-1)
    return [
        Array("signals", ("signal", *dims), signals, meaning("signals x")),
        Array("lam", ("signal",), lam, meaning("weight of |a|_1 in the objective")),
        Array(
            "quantum",
            ("signal",),
            as_numpy(neurons.quantum),
            {"units": "tau", "long_name": "code times tau of a spike"},
        ),
        Array("atoms", (), np.asarray(neurons.atoms), meaning("number of atoms")),
        Array("nonnegative", (), np.asarray(neurons.problem.nonnegative), meaning("whether there are no off units")),
        Array("leak", (), np.asarray(neurons.leak), {"units": "1/tau", "long_name": "leak of the membrane"}),
    ]


def snapshot_arrays(state: State, slot: int) -> list[Array]:
    """The state from which a run goes on, in slot 0 or 1 of a store."""
    return [
        Array(f"snapshot/{slot}/potential", ("signal", "unit"), as_numpy(state.potential), meaning("potential v")),
        Array(f"snapshot/{slot}/counts", ("signal", "unit"), as_numpy(state.counts), meaning("number of spikes")),
    ]


def _dims(shape: tuple[int, ...], names: dict[int, tuple[str, ...]], name: str) -> tuple[str, ...]:
    return names.get(len(shape), tuple(f"{name}_{k}" for k in range(len(shape))))
