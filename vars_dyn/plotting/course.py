"""What the neurons see and reconstruct in the course of a run whose input moves."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from vars_dyn.plotting.pictures import frame_of
from vars_dyn.plotting.style import bare_axes, clock, colour_bar

__all__ = ["can_rebuild", "plot_rebuilt_course", "plot_stimulus_course"]

#: How many frames are shown side by side.
_FRAMES = 10


def plot_stimulus_course(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the stimulus x at evenly spaced times, or the first signal as a map over time if it is no image."""
    _strip(ax, dataset, dataset["x"], "stimulus x")


def plot_rebuilt_course(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the reconstruction P a at the times and on the scale of the stimulus."""
    code = dataset["code"].to_numpy()
    rebuilt = code @ dataset["dictionary"].to_numpy().T
    _strip(ax, dataset, dataset["x"].copy(data=rebuilt), "reconstruction P a")


def can_rebuild(dataset: xr.Dataset) -> bool:
    """Whether the reconstruction in the course of time can be computed from what was recorded."""
    if not {"x", "code", "dictionary"} <= set(dataset.variables):
        return False
    weight, code, x = (dataset[name] for name in ("dictionary", "code", "x"))
    return weight.ndim == 2 and code.shape[-1] == weight.shape[1] and x.shape[-1] == weight.shape[0]


def _strip(ax: Axes, dataset: xr.Dataset, shown: xr.DataArray, title: str) -> None:
    time, unit = clock(dataset)
    limit = float(np.abs(dataset["x"].to_numpy()).max()) or 1.0
    chosen = np.unique(np.linspace(0, len(time) - 1, _FRAMES).round().astype(int))
    frames = [frame_of(dataset, shown[int(k)].to_numpy()) for k in chosen]
    whole = [frame for frame in frames if frame is not None]
    if len(whole) < len(frames):
        _map(ax, shown[:, 0].to_numpy(), time, unit, limit)
    else:
        gap = np.full((whole[0].shape[0], max(1, whole[0].shape[1] // 10)), np.nan)
        parts = [part for frame in whole for part in (frame, gap)][:-1]
        ax.imshow(np.concatenate(parts, axis=1), cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
        bare_axes(ax)
        step, half = whole[0].shape[1] + gap.shape[1], whole[0].shape[1] / 2
        ax.set_xticks(half + step * np.arange(len(whole)) - 0.5, [f"{time[k]:.4g}" for k in chosen], fontsize=8)
        ax.tick_params(length=0)
        ax.set_xlabel(unit)
    ax.set_title(title)


def _map(ax: Axes, values: NDArray[np.floating], time: NDArray[np.floating], unit: str, limit: float) -> None:
    flat = values.reshape(len(values), -1).T
    extent = (float(time[0]), float(time[-1]), flat.shape[0] - 0.5, -0.5)
    drawn = ax.imshow(
        flat, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent, interpolation="nearest"
    )
    colour_bar(ax, drawn)
    ax.set_ylabel("neuron")
    ax.set_xlabel(unit)
