"""Read a recorded run for display, in pieces whose cost does not grow with the length of the run or its neurons."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from vars_dyn.plotting.style import clock
from vars_dyn.recording import StoreError, facts
from vars_dyn.recording.rebuilding import Reconstruction

__all__ = ["Recorded"]

#: Bytes of chunks that are kept in memory, the most that one picture may read, and the most that curves may read.
_KEPT, _PICTURE, _CURVES = 1 << 27, 1 << 29, 1 << 30
#: The most points of a curve over time.
_POINTS = 2000


class Recorded:
    """A dataset of a trajectory, read piece by piece.

    Attributes:
        dataset: the run, lazily read.
        times: the recorded times, in `unit`.
        unit: the label of the time axis.
        signals: the number of signals.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        if "time" not in dataset.dims or "signals" not in dataset:
            raise StoreError("the store has no trajectory of a field; one that simulate or record wrote is wanted")
        self.dataset = dataset
        self.times, self.unit = clock(dataset)
        self.signals = int(dataset.sizes["signal"])
        self.facts = facts(dataset)
        self._blocks: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._given: NDArray[Any] = dataset["signals"].to_numpy()
        self._rebuild = self._reconstruction()
        #: Signals of the whole batch per entry of its own, so that pictures know where each patch lies.
        self.few = dataset[["signals"]]

    def _reconstruction(self) -> Reconstruction | None:
        """P, where codes of all atoms are recorded and the store describes it."""
        if not self.is_whole("code") or self._bytes_at_once("code") > _PICTURE:
            return None
        try:
            return Reconstruction(self.dataset)
        except ValueError:
            return None

    @property
    def moves(self) -> bool:
        """Whether the input is recorded as it moves."""
        return "x" in self.dataset and self.dataset["x"].dims[1:] == self.dataset["signals"].dims

    @property
    def rebuilds(self) -> bool:
        """Whether the reconstruction is known at every recorded time."""
        return self._rebuild is not None

    @property
    def layers(self) -> list[int]:
        """The layers of a hierarchy, counted from the signals upwards; empty without layers."""
        layer = self.dataset.coords.get("layer")
        return [] if layer is None else sorted({int(k) for k in layer.to_numpy().ravel()})

    def is_whole(self, name: str) -> bool:
        """Whether a variable is recorded for all its neurons or atoms."""
        if name not in self.dataset:
            return False
        part = "atom" if name in ("u", "code") else "neuron"
        return part not in self.dataset[name].dims or part not in self.dataset.coords

    def numbers(self, name: str) -> NDArray[np.int64]:
        """The flat indices, among all, of the recorded neurons or atoms."""
        part = "atom" if name in ("u", "code") else "neuron"
        if not self.is_whole(name):
            return self.dataset[part].to_numpy().astype(np.int64)
        return np.arange(math.prod(self.dataset[name].shape[2:]), dtype=np.int64)

    def layer_of(self, name: str) -> NDArray[np.int64] | None:
        """The layer of each recorded neuron or atom; None without layers."""
        found = self.dataset.coords.get("layer" if name in ("u", "code") else "neuron_layer")
        return None if found is None else found.to_numpy().ravel()

    def input_at(self, index: int) -> NDArray[Any]:
        """The signals (signal, *signal_shape) at a recorded time."""
        return self.at("x", index) if self.moves else self._given

    def rebuilt_at(self, index: int, chosen: NDArray[np.int64]) -> NDArray[Any] | None:
        """The reconstruction of the chosen signals at a recorded time; None where it is not known."""
        if self._rebuild is not None:
            return self._rebuild(self.at("code", index)[chosen])
        at_end = index == len(self.times) - 1 and "reconstruction_end" in self.dataset
        return self.dataset["reconstruction_end"].to_numpy()[chosen] if at_end else None

    def at(self, name: str, index: int) -> NDArray[Any]:
        """A variable at a recorded time. Chunks stay in memory for a while, since a slider asks for neighbours."""
        length = self._chunk(name)
        if self._bytes_at_once(name) > _PICTURE:
            return self.dataset[name][index].to_numpy()
        key = (name, index // length)
        if key not in self._blocks:
            start = key[1] * length
            self._blocks[key] = self.dataset[name][start : start + length].to_numpy()
            while len(self._blocks) > 1 and sum(block.nbytes for block in self._blocks.values()) > _KEPT:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key][index % length]

    def per_signal(self, name: str) -> NDArray[Any]:
        """A variable (time, signal), or an evenly spread part of its times; see `spread`."""
        return self.dataset[name][self.spread(name)].to_numpy()

    def spread(self, name: str) -> NDArray[np.int64]:
        """The indices of the times at which curves of a variable are drawn: all, or as many as can be read soon.

        A chunk is read whole, so of a large run only the first time of every so many chunks is drawn, and the last.
        """
        count, length = len(self.times), self._chunk(name)
        chunks = -(-count // length)
        affordable = max(2, int(_CURVES // max(1, self._bytes_at_once(name))))
        if chunks <= affordable:
            if count <= _POINTS:
                return np.arange(count)
            return np.unique(np.linspace(0, count - 1, _POINTS).round().astype(np.int64))
        heads = np.unique(np.linspace(0, chunks - 1, min(affordable, _POINTS)).round().astype(np.int64)) * length
        return np.unique(np.append(heads, count - 1))

    def curves(self, name: str, signal: int, places: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The courses of the recorded neurons at `places`: indices of times, and values (time, place)."""
        times, length = self.spread(name), self._chunk(name)
        parts = []
        for block in np.unique(times // length):
            inside = times[times // length == block]
            low, high = int(inside[0]), int(inside[-1]) + 1
            values = self.dataset[name][low:high, signal].to_numpy().reshape(high - low, -1)
            parts.append(values[inside - low][:, list(places)])
        return times, np.concatenate(parts)

    def largest(self, name: str, signal: int, most: int, layer: int | None = None) -> list[int]:
        """The places, among those recorded, of the neurons with the largest potentials at the last time."""
        last = np.abs(self.at(name, len(self.times) - 1)[signal].ravel()).astype(np.float64)
        last[~np.isfinite(last)] = 0.0
        layers = self.layer_of(name)
        if layer is not None and layers is not None:
            last[layers != layer] = -1.0
        order = np.argsort(-last, kind="stable")[:most]
        return [int(k) for k in order if last[k] >= 0.0]

    def _chunk(self, name: str) -> int:
        """The recorded times in a chunk of the store; 1 for a dataset in memory."""
        chunks = self.dataset[name].encoding.get("chunks")
        return int(chunks[0]) if chunks else 1

    def _bytes_at_once(self, name: str) -> int:
        """The bytes of a chunk, the least that can be read."""
        array = self.dataset[name]
        return self._chunk(name) * math.prod(array.shape[1:]) * array.dtype.itemsize
