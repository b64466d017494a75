"""A figure of a run of spiking neurons: who fired when, the averaged code, and its certificate."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vars_dyn.plotting.style import BLUE, INK, ORANGE, colours, marker, tidy_axes

__all__ = ["spike_summary"]

#: The most spikes that are drawn, the last ones, and the atoms whose averages are drawn.
_SPIKES, _LINES = 20_000, 8


def spike_summary(dataset: xr.Dataset, signal: int | None = None) -> Figure:
    """Draw a run of spiking neurons: its spikes, the averaged code, and the gap of this with the bound on it.

    Args:
        dataset: what `vars_dyn.spike` returns.
        signal: the signal whose spikes and code are drawn; by default the one with the largest norm.
    """
    x = dataset["signals"].to_numpy().reshape(dataset.sizes["signal"], -1)
    number = int((x**2).sum(axis=1).argmax()) if signal is None else signal
    figure = Figure(figsize=(13.5, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _raster(left, dataset, number)
    _averages(middle, dataset, number)
    _certificates(right, dataset)
    many = f"{len(x)} signal{'s' * (len(x) != 1)}"
    figure.suptitle(f"SpikingLCA: {many}, {dataset.sizes['spike']} spikes", fontsize=12, color=INK)
    return figure


def _raster(ax: Axes, dataset: xr.Dataset, number: int) -> None:
    chosen = np.flatnonzero(dataset["spike_signal"].to_numpy() == number)[-_SPIKES:]
    time, atom, sign = (dataset[name].to_numpy()[chosen] for name in ("spike_time", "spike_atom", "spike_sign"))
    for value, shade, name in ((1, BLUE, "on"), (-1, ORANGE, "off")):
        ax.plot(time[sign == value], atom[sign == value], "|", color=shade, markersize=4, label=f"{name} units")
    ax.set_xlabel("time (tau)")
    ax.set_ylabel("atom")
    ax.set_title(f"spikes of signal {number}")
    tidy_axes(ax)
    ax.set_ylim(-1, 1.15 * max(int(dataset["atoms"]), 1))  # room for the legend above the spikes
    if len(chosen):
        ax.legend(loc="upper right", ncols=2, frameon=False, fontsize=8)


def _averages(ax: Axes, dataset: xr.Dataset, number: int) -> None:
    time = dataset["time"].to_numpy()
    code = dataset["code"].isel(signal=number).to_numpy().reshape(len(time), -1)
    order = np.argsort(-np.abs(code[-1]), kind="stable")[:_LINES]
    for atom, shade in zip(order, colours(len(order)), strict=True):
        ax.plot(time, code[:, atom], color=shade, linewidth=1.3, **marker(time))
    ax.set_xlabel("time (tau)")
    ax.set_title(f"averaged code of signal {number}, largest atoms")
    tidy_axes(ax)


def _certificates(ax: Axes, dataset: xr.Dataset) -> None:
    time = dataset["time"].to_numpy()
    half = 0.5 * (dataset["signals"].to_numpy().reshape(dataset.sizes["signal"], -1) ** 2).sum(axis=1)
    bound = dataset["bound"].to_numpy() / np.where(half > 0, half, np.inf)
    gap = dataset["relative_gap"].to_numpy().max(axis=1)
    ax.plot(time, np.where(gap > 0, gap, np.nan), color=BLUE, label="relative gap, largest", **marker(time))
    largest = bound.max(axis=1)
    if np.isfinite(largest).any():
        ax.plot(time, largest, color=INK, linestyle="--", linewidth=1.0, label="bound of order log T / T")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("time (tau)")
    ax.set_ylabel("relative to |x|² / 2")
    ax.set_title("convergence")
    tidy_axes(ax)
    ax.legend(loc="best", frameon=False, fontsize=8)
