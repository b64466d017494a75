"""The code of one signal at one time: maps of templates, tones over time, or a mark for each atom."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from vars_dyn.plotting.pictures import mosaic
from vars_dyn.plotting.style import bare_axes, colour_bar, palette, tidy_axes

__all__ = ["plot_code"]

#: The most templates whose maps are drawn.
_MAPS = 16


def plot_code(ax: Axes, dataset: xr.Dataset, signal: int = 0, time: float | None = None) -> None:
    """Draw the code of a signal: the maps of the most active templates, or a line for each atom.

    Args:
        ax: the axes.
        dataset: the run, with `code`, or `code_end` for its end.
        signal: the index of the signal.
        time: the time, of which the nearest recorded one is drawn; by default the end of the run.

    Raises ValueError for a run that does not hold the code at that time.
    """
    if time is None and "code_end" in dataset:
        code, when = dataset["code_end"].isel(signal=signal), "at the end"
    elif "code" in dataset:
        code = dataset["code"].isel(signal=signal).sel(time=np.inf if time is None else time, method="nearest")
        when = f"at t = {float(code['time']):.4g}"
    else:
        raise ValueError("the run has no code at that time; a run that records code is wanted")
    values = code.to_numpy()
    ax.set_title(f"code of signal {signal} {when}")
    if values.ndim == 1:
        _marks(ax, values, code)
    elif values.ndim == 2:
        limit = float(np.abs(values).max()) or 1.0
        drawn = ax.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        colour_bar(ax, drawn)
        ax.set_xlabel(str(code.dims[1]))
        ax.set_ylabel(str(code.dims[0]))
    else:
        _maps(ax, np.abs(values))


def _marks(ax: Axes, values: NDArray[np.floating], code: xr.DataArray) -> None:
    numbers = code["atom"].to_numpy() if "atom" in code.coords else np.arange(len(values))
    active = values != 0
    ax.vlines(numbers[active], 0.0, values[active], color=palette(ax).blue, linewidth=1.2)
    ax.axhline(0.0, color=palette(ax).faint, linewidth=0.8)
    ax.set_xlim(numbers.min() - 0.5, numbers.max() + 0.5)
    ax.set_xlabel("atom")
    ax.set_ylabel("output a")
    tidy_axes(ax)


def _maps(ax: Axes, sizes: NDArray[np.floating]) -> None:
    """Maps of |a| side by side, the largest first, all on one scale."""
    flat = sizes.sum(axis=tuple(range(1, sizes.ndim - 2)))
    order = np.argsort(-flat.sum(axis=(1, 2)), kind="stable")[:_MAPS]
    order = order[flat[order].sum(axis=(1, 2)) > 0]
    if not len(order):
        ax.text(0.5, 0.5, "no atom is active", transform=ax.transAxes, ha="center", color=palette(ax).ink)
        bare_axes(ax)
        return
    # `mosaic` scales each tile by its own largest number, which would hide that some are much weaker than others.
    largest = flat[order].max(axis=(1, 2))
    drawn = mosaic(flat[order][:, None])
    height, width = flat.shape[1:]
    gap = max(1, round(0.06 * max(height, width)))
    across = -(-(drawn.shape[1]) // (width + gap))
    for number, size in enumerate(largest):
        top, left = (number // across) * (height + gap), (number % across) * (width + gap)
        drawn[top : top + height, left : left + width] *= size
    colour_bar(ax, ax.imshow(drawn, cmap="viridis", vmin=0.0, vmax=float(largest.max()), interpolation="nearest"))
    ax.set_xlabel("|a| of the most active templates: " + ", ".join(str(k) for k in order[:8]))
    bare_axes(ax)
