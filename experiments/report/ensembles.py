"""Figures of ensembles: results along a parameter, with the spread over all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from experiments.report.plots import save

__all__ = ["draw"]

#: What a figure shows of simulations unless it is told, with the labels of the axes.
_PANELS = {
    "relative_gap_end": "relative duality gap",
    "active_fraction": "active encoding neurons",
    "reconstruction_error": "$|x - P a|^2 / |x|^2$",
}
#: Results that tell how far from rest a run ended. They may be zero, and are drawn as at least the rounding of float64.
_RESIDUALS, _ROUNDING = ("relative_gap_end", "kkt_residual_end"), 1e-16
#: With fewer values of the parameter than these, each has its tick.
_TICKS = 9


def draw(dataset: xr.Dataset, path: Path, *, along: str | None = None, panels: Sequence[str] = ()) -> None:
    """Draw results of an ensemble along a parameter, a panel each: median, quartiles and extremes of all others.

    Every signal and every member with the same value of the parameter counts once. Raises ValueError for a name that
    is no parameter or no result of numbers.
    """
    axis = along or _parameter(dataset)
    if axis not in dataset.coords or dataset[axis].dims != ("member",) or dataset[axis].dtype.kind not in "fiu":
        raise ValueError(f"along is {axis!r}; a parameter of numbers is wanted")
    names = list(panels) or [name for name in _PANELS if name in dataset] or _numbers(dataset)
    for name in names:
        if name not in dataset or dataset[name].dtype.kind not in "fiub" or "member" not in dataset[name].dims:
            raise ValueError(f"panels holds {name!r}; results of numbers, {', '.join(_numbers(dataset))}, are wanted")
    done = dataset.isel(member=np.flatnonzero(dataset["status"].values == 1))
    at = done[axis].values.astype(np.float64)
    figure, axes = plt.subplots(1, len(names), figsize=(3.3 * len(names), 3.0), squeeze=False, layout="constrained")
    for panel, name in zip(axes.flat, names, strict=True):
        values = done[name].values.astype(np.float64).reshape(len(at), -1)
        if name in _RESIDUALS:
            values = np.maximum(values, _ROUNDING)
        levels, shown = _levels(at, values)
        for low, high, strength in ((0, 4, 0.15), (1, 3, 0.3)):
            panel.fill_between(levels, shown[:, low], shown[:, high], color="C0", alpha=strength, lw=0)
        panel.plot(levels, shown[:, 2], "C0.-", lw=1.2)
        panel.set(xlabel=axis, ylabel=_PANELS.get(name, name.replace("_", " ")))
        if len(levels) > 2 and (levels > 0).all() and levels[-1] / levels[0] > 20:
            panel.set_xscale("log")
            if len(levels) < _TICKS:
                panel.set_xticks(levels, [f"{level:g}" for level in levels])
                panel.minorticks_off()
        if np.nanmin(shown) > 0 and np.nanmax(shown) / np.nanmin(shown) > 100:
            panel.set_yscale("log")
    save(figure, path)


def _levels(at: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The parameter's values, and the minimum, quartiles and maximum of the results at each."""
    levels = np.unique(at)
    shown = np.full((len(levels), 5), np.nan)
    for row, level in zip(shown, levels, strict=True):
        own = values[at == level]
        if np.isfinite(own).any():
            row[:] = np.nanquantile(own, (0, 0.25, 0.5, 0.75, 1))
    return levels, shown


def _parameter(dataset: xr.Dataset) -> str:
    names = str(dataset.attrs.get("coordinates", "")).split() or [str(name) for name in dataset.coords]
    for name in names:
        if name in dataset.coords and name not in ("member", "seed") and dataset[name].dtype.kind in "fiu":
            return name
    raise ValueError("the design has no parameter of numbers to draw along; `along` is wanted")


def _numbers(dataset: xr.Dataset) -> list[str]:
    books = ("status", "attempts", "member_seconds")
    return [str(n) for n, v in dataset.data_vars.items() if v.dtype.kind in "fiub" and n not in books]
