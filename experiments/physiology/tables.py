"""Labelled tables of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["about", "of_cells"]


def about(units: str, long_name: str) -> dict[str, str]:
    """The attributes of a variable."""
    return {"units": units, "long_name": long_name}


def of_cells(chosen: Sequence[int], variables: Mapping[str, Any], coordinates: Mapping[str, Any]) -> xr.Dataset:
    """A dataset with a dimension `cell` over chosen atoms."""
    atom = np.asarray(chosen, dtype=np.int64)
    return xr.Dataset(dict(variables), {"atom": ("cell", atom, about("1", "the cell's atom")), **coordinates})
