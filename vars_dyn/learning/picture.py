"""One figure of a training run: the atoms, and the course of the training."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vars_dyn.plotting.pictures import mosaic
from vars_dyn.plotting.style import BLUE, INK, ORANGE, bare_axes, tidy_axes

__all__ = ["plot_learned", "summary"]


def summary(history: xr.Dataset) -> Figure:
    """Draw a run from its history: the atoms at the left; objective, activity and dead atoms at the right."""
    figure = Figure(figsize=(12.0, 7.2), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.5, 1.0))
    plot_learned(figure.add_subplot(grid[:, 0]), history)
    for row, (name, label) in enumerate(
        (("objective", "objective of the batch"), ("active_fraction", "active neurons"), ("dead", "dead atoms"))
    ):
        ax = figure.add_subplot(grid[row, 1])
        values = history[name].to_numpy()
        ax.plot(history["step"], values, color=BLUE, linewidth=0.6, alpha=0.45)
        if len(values) >= 20 and name != "dead":
            ax.plot(history["step"], _smooth(values), color=ORANGE, linewidth=1.4)
        ax.set_ylabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy_axes(ax)
    ax.set_xlabel("step")
    known = history.attrs
    figure.suptitle(
        f"{known.get('method')}: {history.sizes['atom']} atoms after {history.sizes['step']} steps of "
        f"{known.get('batch_size')} signals, lam = {known.get('lam'):.4g}",
        fontsize=12,
        color=INK,
    )
    return figure


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A running mean over a twentieth of the course."""
    width = max(2, len(values) // 20)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def plot_learned(ax: Axes, history: xr.Dataset) -> None:
    """Draw the atoms as tiles, each scaled by its largest magnitude.

    Dense atoms are drawn as squares if their length is that of a square patch of one or three colours. Atoms of more or
    fewer than two dimensions of space are drawn as rows.
    """
    atoms = history["atoms"].to_numpy()
    tiles = _tiles(atoms)
    if tiles is None:
        flat = atoms.reshape(len(atoms), -1)
        limit = float(np.abs(flat).max()) or 1.0
        ax.imshow(flat, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_xlabel("entry")
        ax.set_ylabel("atom")
        return
    ax.imshow(mosaic(tiles), cmap="gray", vmin=-1.0, vmax=1.0, interpolation="nearest")
    bare_axes(ax)
    ax.set_title(f"{len(tiles)} atoms of {tiles.shape[2]} x {tiles.shape[3]} pixels", fontsize=10, color=INK)


def _tiles(atoms: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The atoms as images (atom, colour, row, column); None if they are none."""
    if atoms.ndim == 4 and atoms.shape[1] in (1, 3):
        return atoms
    if atoms.ndim != 2:
        return None
    for colours in (1, 3):
        side = math.isqrt(atoms.shape[1] // colours)
        if side >= 2 and colours * side * side == atoms.shape[1]:
            return atoms.reshape(len(atoms), colours, side, side)
    return None
