"""Coordinates that a user gives the signals: numbers, texts or dates, stored in forms that every reader understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vars_dyn.recording.layout import Layout
from vars_dyn.recording.store import Array

__all__ = ["signal_coordinates"]


_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def signal_coordinates(layout: Layout, given: Mapping[str, NDArray[np.generic]] | None) -> list[Array]:
    """One array per coordinate. ValueError unless each has one value per signal, of a kind that can be stored."""
    arrays = []
    for name, values in (given or {}).items():
        if np.shape(values) != (layout.signals,):
            raise ValueError(
                f"the coordinate {name} has shape {np.shape(values)}; one value per signal, {layout.signals}, is wanted"
            )
        if not name.isidentifier():
            raise ValueError(f"a coordinate has the name {name!r}; letters, digits and underscores are wanted")
        long_name = f"{name.replace('_', ' ')} of the signal"
        values, units = _storable(name, np.asarray(values))
        arrays.append(Array(name, ("signal",), values, units | {"long_name": long_name}))
    return arrays


def _storable(name: str, values: NDArray[np.generic]) -> tuple[NDArray[np.generic], dict[str, str]]:
    """The values as they are stored, and their units. Dates become numbers, as the CF conventions say."""
    kind = values.dtype.kind
    if kind == "U" or (kind in "OT" and all(isinstance(value, str) for value in values.tolist())):
        return values.astype(object), {"units": "1"}
    if kind == "M":
        return _since_the_first(name, values.astype("datetime64[ns]"))
    if kind in "iub" or values.dtype.name in ("float16", "float32", "float64"):
        return values, {"units": "1"}
    raise ValueError(f"the coordinate {name} is of dtype {values.dtype}; real numbers, text or dates are wanted")


def _since_the_first(name: str, dates: NDArray[Any]) -> tuple[NDArray[np.generic], dict[str, str]]:
    """The dates as integers, in the longest unit in which all of them are whole numbers."""
    if np.isnat(dates).any():
        raise ValueError(f"the coordinate {name} holds NaT; a date for every signal is wanted")
    first = dates.min() if len(dates) else np.datetime64(0, "ns")
    for unit in _UNITS:
        base = first.astype(f"datetime64[{unit}]")
        numbers = (dates - base).astype(f"timedelta64[{unit}]")
        if bool((base + numbers == dates).all()):
            break
    # The conventions want a year of four digits, and a fraction of a second only if there is one. numpy's text is so.
    return numbers.astype(np.int64), {"units": f"{_UNITS[unit]} since {str(base).replace('T', ' ')}"}
