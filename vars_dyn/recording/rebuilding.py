"""The dictionary of a recorded run, built again from its store."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn.dictionaries import ConvDictionary, DenseDictionary, Dictionary, FourierDictionary
from vars_dyn.recording.scalars import facts

__all__ = ["Reconstruction", "stored_dictionary"]


def stored_dictionary(dataset: xr.Dataset) -> Dictionary:
    """The dictionary P of a run, on the CPU in the dtype of the run.

    Raises ValueError for a kind that the store does not describe: unions, random features and batched ones.
    """
    of = facts(dataset)
    kind = of.get("dictionary_type")
    if "dictionary" not in dataset or kind not in ("DenseDictionary", "ConvDictionary", "FourierDictionary"):
        raise ValueError(
            f"the run has a dictionary of the kind {kind}, which its store does not describe; a run with a dense, "
            "convolutional or Fourier dictionary is wanted"
        )
    weight = torch.from_numpy(dataset["dictionary"].to_numpy().copy())
    if kind == "DenseDictionary":
        return DenseDictionary(weight)
    groups = int(of["dictionary_groups"])
    if kind == "FourierDictionary":
        return FourierDictionary(weight, groups=groups)
    return ConvDictionary(
        weight,
        tuple(of["signal_shape"]),
        stride=of["dictionary_stride"],
        padding=of["dictionary_padding"],
        dilation=of.get("dictionary_dilation", 1),
        groups=groups,
    )


class Reconstruction:
    """The reconstruction of the signals from a code of a recorded run, as `reconstruction_end` is at its end.

    It is gain P a, where gain = alpha gamma - 1 if that is above zero, else 1 (docs/mathematics.md, "What an
    equilibrium solves"). Raises ValueError as `stored_dictionary` does.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dictionary = stored_dictionary(dataset)
        alpha, gamma = (self._constant(dataset, *of) for of in (("alpha", 1.0), ("gamma", 0.0)))
        gain = alpha * gamma - 1.0
        self._gain = torch.where(gain > 1e-12, gain, 1.0)

    def _constant(self, dataset: xr.Dataset, name: str, default: float) -> Tensor:
        """A constant of the run, shaped to broadcast against its signals."""
        if name not in dataset:
            return torch.tensor(float(facts(dataset).get(name, default)), dtype=self._dictionary.dtype)
        found = dataset[name]
        value = torch.from_numpy(found.to_numpy().copy()).to(self._dictionary.dtype)
        return value.reshape(-1, *(1,) * len(self._dictionary.signal_shape)) if found.dims == ("signal",) else value

    def __call__(self, code: NDArray[Any]) -> NDArray[Any]:
        """The signals (signal, *signal_shape) made of codes (signal, *code_shape)."""
        a: Tensor = torch.from_numpy(code).to(self._dictionary.dtype)
        with torch.no_grad():
            return (self._gain * self._dictionary.decode(a)).numpy()
