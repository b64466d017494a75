"""The labelled dimensions of a field's neurons and atoms, and which of these are recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn.dictionaries import ConvDictionary, FourierDictionary, HierarchyDictionary
from vars_dyn.dynamics.base import Field
from vars_dyn.recording.store import Array

__all__ = ["Layout", "Population", "as_numpy", "meaning"]

_SIGNAL_DIMS = {
    1: ("neuron",),
    2: ("row", "column"),
    3: ("colour", "row", "column"),
    4: ("colour", "frame", "row", "column"),
}
_CODE_DIMS = {1: ("atom",), 2: ("y", "x"), 3: ("channel", "y", "x"), 4: ("channel", "code_frame", "y", "x")}
#: Those of a sound: a convolution over one dimension.
_SOUND_DIMS, _SOUND_CODE_DIMS = ("sound_channel", "sample"), ("channel", "place")


@dataclass(frozen=True)
class Population:
    """The neurons or the atoms of a field: their shape and dimensions, and the recorded ones (None for all).

    `axes` names the dimensions of a shape that has names of its own; it is empty for any other shape. `layers` holds
    how many of them each layer of a hierarchy has; it is empty where there are no layers.
    """

    name: str
    shape: tuple[int, ...]
    all_dims: tuple[str, ...]
    axes: tuple[str, ...]
    chosen: tuple[int, ...] | None
    layers: tuple[int, ...] = ()

    @property
    def dims(self) -> tuple[str, ...]:
        return self.all_dims if self.chosen is None else (self.name,)

    @property
    def recorded_shape(self) -> tuple[int, ...]:
        return self.shape if self.chosen is None else (len(self.chosen),)

    def take(self, value: Tensor) -> Tensor:
        """The recorded entries of `value` (*batch, *shape)."""
        if self.chosen is None:
            return value
        return value.flatten(-len(self.shape))[..., torch.tensor(self.chosen, device=value.device)]

    def coordinates(self) -> list[Array]:
        """Flat indices and positions of the recorded neurons (or atoms) among all, if not all are; and their layers."""
        if self.chosen is None:
            return self._layer()
        index = np.asarray(self.chosen, dtype=np.int64)
        long_name = f"index of the {self.name} among all {math.prod(self.shape)}, in row-major order"
        arrays = [Array(self.name, (self.name,), index, {"units": "1", "long_name": long_name})]
        if len(self.shape) > 1:
            for name, place in zip(self.axes, np.unravel_index(index, self.shape), strict=False):
                attributes = {"units": "1", "long_name": f"{name} of the recorded {self.name}"}
                arrays.append(Array(f"{self.name}_{name}", (self.name,), place.astype(np.int64), attributes))
        return arrays + self._layer()

    def _layer(self) -> list[Array]:
        """The layer of each recorded neuron (or atom), counted from the signals upwards; empty without layers."""
        if not self.layers:
            return []
        layer = np.repeat(np.arange(1, len(self.layers) + 1), self.layers)
        layer = layer if self.chosen is None else layer[list(self.chosen)]
        name = "layer" if self.name == "atom" else f"{self.name}_layer"
        attributes = meaning(f"layer of the {self.name}, counted from the signals upwards")
        return [Array(name, self.dims, layer.astype(np.int64), attributes)]


class Layout:
    """The dimensions of one field's recording, with the neurons and atoms that are recorded.

    If only some neurons are recorded, z has the dimension `neuron`. Arrays over all neurons then have `all_neuron`,
    or colour, row and column. The same holds for atoms. The atoms of a hierarchy have the coordinate `layer`, and its
    neurons `neuron_layer`. Raises ValueError for an index out of range.
    """

    def __init__(self, field: Field, neurons: Sequence[int] | None = None, atoms: Sequence[int] | None = None) -> None:
        self.field = field
        self.signals = math.prod(field.signal_batch)
        dictionary = field.dictionary
        sound = isinstance(dictionary, ConvDictionary | FourierDictionary) and dictionary.dimensions == 1
        places = _SIGNAL_DIMS | ({2: _SOUND_DIMS} if sound else {})
        code_places = _CODE_DIMS | ({2: _SOUND_CODE_DIMS} if sound else {})
        layers = dictionary.layers if isinstance(dictionary, HierarchyDictionary) else ()
        own, above = (tuple(layer.signal_size for layer in layers), tuple(layer.code_size for layer in layers))
        self.neurons = _population("neuron", dictionary.signal_shape, places, neurons, own)
        self.atoms = _population("atom", dictionary.code_shape, code_places, atoms, above)
        if atoms is not None and "u" not in field.state_names:
            raise ValueError(f"atoms were chosen, but {type(field).__name__} has no encoding neurons to choose from")

    def coordinates(self) -> list[Array]:
        """The coordinates of the recorded neurons and atoms."""
        return [*self.neurons.coordinates(), *self.atoms.coordinates()]


def _population(
    name: str,
    shape: tuple[int, ...],
    names: dict[int, tuple[str, ...]],
    chosen: Sequence[int] | None,
    layers: tuple[int, ...],
) -> Population:
    axes = names.get(len(shape), ())
    dims = axes or tuple(f"{name}_{k}" for k in range(len(shape)))
    if chosen is None:
        return Population(name, shape, dims, axes, None, layers)
    index = tuple(int(k) for k in chosen)
    total = math.prod(shape)
    if not index or len(set(index)) < len(index) or min(index) < 0 or max(index) >= total:
        wrong = next((k for k in index if not 0 <= k < total), None)
        came = "is empty" if not index else f"holds {wrong}" if wrong is not None else "names one twice"
        raise ValueError(f"{name}s {came}; distinct indices from 0 to {total - 1} are wanted")
    return Population(name, shape, (f"all_{name}",) if len(dims) == 1 else dims, axes, index, layers)


def meaning(long_name: str) -> dict[str, str]:
    """The attributes of a dimensionless variable."""
    return {"units": "1", "long_name": long_name}


def as_numpy(value: Tensor) -> NDArray[np.generic]:
    """A tensor's numbers on the CPU. numpy lacks bfloat16, so it becomes float32, which holds its numbers exactly."""
    plain = value.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
