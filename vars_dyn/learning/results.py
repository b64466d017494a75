"""The result of a training run: the dictionary and the course of the training, and how both are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vars_dyn._files import StoreError, explained, replacing_folder, write_bytes
from vars_dyn._reading import one_line, regular_file
from vars_dyn.dictionaries import (
    ConvDictionary,
    DenseDictionary,
    Dictionary,
    FourierDictionary,
    HierarchyDictionary,
)
from vars_dyn.learning.atoms import layers_of, weight_of
from vars_dyn.learning.learner import Step

__all__ = ["Learned", "dictionary_facts", "load_dictionary", "read_tensors", "save_dictionary"]

#: The course of a training run: name, unit and meaning.
_COURSE = {
    "objective": ("", "mean over the batch of 1/2 |x - P a|^2 + lam |a|_1"),
    "magnitude": ("", "mean over the batch of |a|_1"),
    "relative_gap": ("", "largest relative gap of the batch's codes"),
    "active_fraction": ("", "share of entries of the codes that are not zero"),
    "signal_to_noise": ("dB", "energy of the batch over that of its residuals"),
    "dead": ("atoms", "atoms that no code has used for longer than the patience"),
    "revived": ("atoms", "atoms that were replaced after the step"),
}


@dataclass(frozen=True)
class Learned:
    """What `vars_dyn.learn` returns.

    Attributes:
        dictionary: the dictionary after the last step.
        history: the course of the training, a labelled dataset over `step`, with the atoms at the end, `atoms`, or
            `atoms_1`, `atoms_2`, ... of a hierarchy's layers; its attributes are `facts`.
        facts: every setting of the run, the versions, the seed and the command.
        store: the folder where all this lies, or None.

    Examples:
        >>> start = vd.DenseDictionary(torch.eye(4, dtype=torch.float64))
        >>> learned = vd.learn(start, torch.randn(50, 4, dtype=torch.float64), lam=0.1, steps=2, batch_size=8)
        >>> learned.dictionary.code_shape, dict(learned.history.sizes)["step"]
        ((4,), 2)
    """

    dictionary: Dictionary
    history: xr.Dataset
    facts: Mapping[str, Any]
    store: Path | None = None

    def save(self, folder: str | Path) -> None:
        """Write dictionary.safetensors, dictionary.json and history.zarr into a folder; StoreError if it cannot."""
        place = Path(folder)
        with explained(place):
            place.mkdir(parents=True, exist_ok=True)
            save_dictionary(place / "dictionary.safetensors", self.dictionary, self.facts)
            text = json.dumps({**dictionary_facts(self.dictionary), **self.facts}, indent=2, allow_nan=False)
            write_bytes(place / "dictionary.json", text.encode())
            with replacing_folder(place / "history.zarr") as new:
                self.history.to_zarr(new, mode="w", consolidated=False, zarr_format=3)


def course(steps: Sequence[Step], dictionary: Dictionary, facts: Mapping[str, Any]) -> xr.Dataset:
    """The labelled dataset of a run."""
    table = np.array([tuple(step) for step in steps], dtype=np.float64).reshape(len(steps), len(Step._fields))
    found: dict[str, Any] = {}
    for place, name in enumerate(Step._fields):
        unit, meaning = _COURSE[name]
        column = table[:, place].astype(np.int64) if unit == "atoms" else table[:, place]
        found[name] = ("step", column, {"long_name": meaning, **({"units": unit} if unit else {})})
    for level, layer in enumerate(layers_of(dictionary.detach())):
        mark = f"_{level + 1}" if isinstance(dictionary, HierarchyDictionary) else ""
        weight, dimension = weight_of(layer)
        rows = weight.movedim(dimension, 0).cpu().double().numpy()
        space = ("neuron",) if dimension else ("channel", *_space(rows.ndim - 2))
        names = tuple(f"{name}{mark}" for name in ("atom", *space))
        text = f"the atoms{f' of layer {level + 1}' if mark else ''} at the end"
        found[f"atoms{mark}"] = (names, rows, {"long_name": text})
    plain = {name: _attribute(value) for name, value in facts.items()}
    return xr.Dataset(found, {"step": np.arange(1, len(steps) + 1)}, plain)


def _space(dims: int) -> tuple[str, ...]:
    return {1: ("place",), 2: ("row", "column"), 3: ("depth", "row", "column")}[dims]


def _attribute(value: Any) -> Any:
    """A fact as an attribute of a dataset, which holds no nested values."""
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def dictionary_facts(dictionary: Dictionary) -> dict[str, Any]:
    """What is needed to make the dictionary anew, besides its weights."""
    if isinstance(dictionary, HierarchyDictionary):
        return {
            "dictionary_type": "HierarchyDictionary",
            "signal_shape": list(dictionary.layers[0].signal_shape),
            "coupling": dictionary.roots.square().tolist(),
            "layers": [dictionary_facts(layer) for layer in dictionary.layers],
        }
    layout = {name: getattr(dictionary, name) for name in ("stride", "padding", "groups") if hasattr(dictionary, name)}
    return {"dictionary_type": type(dictionary).__name__, "signal_shape": list(dictionary.signal_shape), **layout}


def save_dictionary(path: Path, dictionary: Dictionary, facts: Mapping[str, Any] | None = None) -> None:
    """Write a dictionary as safetensors, with its single tensor `weight`, and facts as JSON in the header.

    A hierarchy has a tensor `weight_1`, `weight_2`, ... for each layer. `load_dictionary` reads both, and
    `python -m vars_dyn.simulate --dictionary FILE` those of a single layer.
    """
    layers = layers_of(dictionary.detach())
    marks = [f"_{level + 1}" if isinstance(dictionary, HierarchyDictionary) else "" for level in range(len(layers))]
    weights = {
        f"weight{mark}": weight_of(layer)[0].cpu().contiguous() for mark, layer in zip(marks, layers, strict=True)
    }
    about = json.dumps({**dictionary_facts(dictionary), **(facts or {})}, allow_nan=False)
    write_bytes(path, save(weights, {"facts": about}))


def load_dictionary(path: str | Path) -> Dictionary:
    """The dictionary in a file of `save_dictionary`; ValueError for any other file."""
    tensors, facts = read_tensors(Path(path))
    layers = facts.get("layers", [facts])
    names = [f"weight_{level + 1}" for level in range(len(layers))] if "layers" in facts else ["weight"]
    if set(tensors) != set(names) or "dictionary_type" not in facts:
        raise ValueError(f"{path} holds no dictionary that was learned; a file of vars_dyn.learn is wanted")
    found = [_made(path, tensors[name], own) for name, own in zip(names, layers, strict=True)]
    return HierarchyDictionary(*found, coupling=facts["coupling"]) if "layers" in facts else found[0]


def _made(path: str | Path, weight: Tensor, facts: Mapping[str, Any]) -> Dictionary:
    """A dictionary of a weight and the facts of `dictionary_facts`."""
    kind = facts["dictionary_type"]
    if kind == "DenseDictionary":
        return DenseDictionary(weight)
    if kind == "FourierDictionary":
        return FourierDictionary(weight, groups=facts["groups"])
    if kind == "ConvDictionary":
        layout = {name: _plain(facts[name]) for name in ("stride", "padding", "groups")}
        return ConvDictionary(weight, tuple(facts["signal_shape"]), **layout)
    raise ValueError(f"{path} holds a {kind}; DenseDictionary, ConvDictionary or FourierDictionary is wanted")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and the facts in its header; StoreError if it cannot be read."""
    regular_file(path, "a .safetensors file")
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  # it is no mapping
    except (SafetensorError, ValueError, OSError) as error:
        raise StoreError(f"{path} cannot be read as safetensors: {one_line(error)}") from None
