"""Parameters and results of a run as scalar variables of its dataset, so that joined runs keep the values of each.

xarray's `concat` keeps the attributes of the first dataset only. With the defaults announced for later versions, it
treats coordinates in the same way. It always joins data variables. That is why parameters and results are scalar data
variables. One more, `provenance`, is the text of a JSON object with all facts, even those without their own variable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from vars_dyn._files import StoreError
from vars_dyn.recording.json_facts import Facts, as_text, from_text
from vars_dyn.recording.layout import meaning

__all__ = ["MARK", "as_values", "dataset_attributes", "facts", "meanings"]

#: The fact, and the attribute, that identifies a store of this package.
MARK = "vars_dyn_version"
TITLE = "Trajectory of a vars_dyn field"

_TAU = {"units": "tau"}
#: Facts that get a variable of their own, and what they mean.
_KNOWN: dict[str, Mapping[str, str]] = {
    "field": meaning("name of the field"),
    "alpha": meaning("alpha, the leak of the layer's neurons z"),
    "beta": meaning("beta, the leak of the encoding neurons u"),
    "gamma": meaning("gamma, the strength of the inhibition between encoding neurons"),
    "tau_z": _TAU | {"long_name": "time constant of the layer's neurons z"},
    "tau_u": _TAU | {"long_name": "time constant of the encoding neurons u"},
    "tau_ms": {"units": "ms", "long_name": "membrane time constant, the unit of time, in milliseconds"},
    "threshold": meaning("kind of the threshold g"),
    "dtype": meaning("floating-point type of the states"),
    "method": meaning("method of integration"),
    "rtol": meaning("relative tolerance of the integration"),
    "atol": meaning("absolute tolerance of the integration, relative to each signal's size"),
    "stop_gap": meaning("relative gap at which a signal counts as settled; NaN: none was asked for"),
    "step": _TAU | {"long_name": "step of the integration that was asked for; NaN: none"},
    "cap_steps": meaning("whether steps were kept below the stability limit; none: by default"),
    "check_every": _TAU | {"long_name": "time between two looks at the gap; NaN: by default"},
    "seed": meaning("seed of what was drawn at random"),
    "t_max": _TAU | {"long_name": "time to integrate to"},
    "run": meaning("identity of the run"),
    "status": meaning("how the run ended"),
    "equilibrium": meaning("whether every signal has settled at the gap asked for"),
    "t_end": _TAU | {"long_name": "time that was integrated to"},
    "evaluations": meaning("evaluations of the right-hand side"),
    "accepted": meaning("steps accepted"),
    "rejected": meaning("steps rejected"),
    "wall_seconds": {"units": "s", "long_name": "time that the run took"},
}
_INTEGERS = ("seed", "evaluations", "accepted", "rejected")
_TEXTS = ("cap_steps",)
_PROVENANCE = meaning("all that is known of the run, a JSON object")


def meanings(found: Facts) -> dict[str, Mapping[str, str]]:
    """The names of the scalar variables of a run with these facts, and their attributes."""
    known = {name: about for name, about in _KNOWN.items() if name in found}
    further = {name: meaning(f"parameter {name}") for name in found.get("parameters", ()) if name not in known}
    return known | further | {"provenance": _PROVENANCE}


def as_values(found: Facts) -> dict[str, NDArray[np.generic]]:
    """The values of the scalar variables of a run with these facts."""
    return {name: _value(name, found) for name in meanings(found)}


def _value(name: str, found: Facts) -> NDArray[np.generic]:
    if name == "provenance":
        return np.asarray(as_text(found))
    value = found[name]
    if name in _TEXTS:
        return np.asarray(str(value).lower())
    if isinstance(value, bool) or (name in _INTEGERS and isinstance(value, int)):
        return np.asarray(value)
    if value == "none":
        return np.asarray(math.nan)
    return np.asarray(float(value) if isinstance(value, (int, float)) else str(value))


def facts(dataset: xr.Dataset) -> Facts:
    """All that is known of a run: its attributes, parameters, results and provenance by name.

    Args:
        dataset: a run, as `record`, `open_dataset`, `to_dataset` or `xarray.open_zarr` returns it. If it joins several
            runs, select one first.

    Returns:
        A dictionary of plain values. A parameter that the run did not set is the text "none".

    Raises:
        StoreError: (a ValueError) if the dataset holds several runs.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> field = vd.SparseRecurrent(P, x, lam=0.5)
        >>> run = vd.record(field, "facts.zarr", torch.linspace(0, 50, 6, dtype=torch.float64), gap=1e-6)
        >>> known = vd.facts(run)
        >>> known["lam"], known["method"], known["equilibrium"]
        (0.5, 'dopri5', True)
    """
    text = dataset.variables.get("provenance")
    if text is None:  # the facts of stores of version 0.1 are attributes
        return {str(name): value for name, value in dataset.attrs.items()}
    if text.ndim:
        raise StoreError(f"the dataset holds {text.size} runs; select one, as by isel({text.dims[0]}=0)")
    return {**dataset.attrs, **from_text(str(text.to_numpy().item()))}


def dataset_attributes(given: Facts, found: Facts) -> Facts:
    """The attributes of a dataset: a title, the version, and the user's own.

    An attribute of the user that is named like a known fact is left out, since a variable holds that fact.
    """
    own = {name: value for name, value in given.items() if name not in _KNOWN}
    return {**own, "title": TITLE, MARK: found[MARK]}
