"""The panels of a figure. Each function draws one aspect of a run into axes that the caller passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from vars_dyn.plotting.pictures import (
    draw_signals,
    film,
    film_frames,
    input_of,
    is_movie,
    is_sound,
    mosaic,
    patch_shape,
)
from vars_dyn.plotting.style import bare_axes, clock, colours, marker, palette, tidy_axes, time_axis
from vars_dyn.recording import facts

__all__ = [
    "plot_active",
    "plot_atoms",
    "plot_convergence",
    "plot_encoders",
    "plot_input",
    "plot_neurons",
    "plot_reconstruction",
    "plot_residual",
]

#: The most grey lines of one quantity that are drawn, and the most coloured ones.
_LINES, _COLOURED = 64, 8
#: The most atoms that are drawn, as tiles, and as curves or film strips.
_TILES, _STRIPS = 24, 8


def plot_neurons(ax: Axes, dataset: xr.Dataset, signal: int | None = None) -> None:
    """Draw the potentials z of one signal's neurons over time."""
    _potentials(ax, dataset, "z", signal)
    ax.set_title(f"neurons z of signal {_chosen(dataset, signal)}")


def plot_encoders(ax: Axes, dataset: xr.Dataset, signal: int | None = None) -> None:
    """Draw the potentials u of one signal's encoding neurons over time, and the threshold that active ones exceed."""
    _potentials(ax, dataset, "u", signal)
    number = _chosen(dataset, signal)
    ax.set_title(f"encoding neurons u of signal {number}")
    known = facts(dataset)
    beta = dataset["beta"] if "beta" in dataset and dataset["beta"].dims in ((), ("signal",)) else None
    if beta is not None and "threshold" in known:  # one per atom has no line
        theta = float(dataset["lam"][number]) / float(beta[number] if beta.ndim else beta)
        ax.axhline(theta, color=palette(ax).ink, linewidth=0.8, linestyle="--", label="threshold")
        if known["threshold"] != "nonnegative" and theta > 0:
            ax.axhline(-theta, color=palette(ax).ink, linewidth=0.8, linestyle="--")
        ax.legend(loc="best", frameon=False, fontsize="small")


def plot_convergence(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw how far V is above its value at the end, and the relative gap (largest and median), on a log scale.

    Where x moves, V need not fall and is left out, and the gap is the tracking gap.
    """
    time, unit = clock(dataset)
    moving = "x_end" in dataset
    lines: list[tuple[NDArray[Any], dict[str, Any]]] = []
    if "relative_gap" in dataset:
        gap = dataset["relative_gap"].to_numpy()
        gap = np.where(np.isfinite(gap), gap, np.nan)  # where x is zero and the code is not yet
        lines.append(
            (np.nanmax(gap, axis=1, initial=0.0), {"color": palette(ax).blue, "label": "relative gap, largest"})
        )
        if gap.shape[1] > 1:
            median = {"color": palette(ax).blue, "alpha": 0.5, "linestyle": ":", "label": "relative gap, median"}
            lines.append((np.nanmedian(gap, axis=1), median))
    if "lyapunov" in dataset and not moving:
        v = dataset["lyapunov"].to_numpy().sum(axis=1)
        half = 0.5 * float((dataset["signals"].to_numpy() ** 2).sum()) or 1.0
        lines.append(((v - v[-1]) / half, {"color": palette(ax).orange, "label": "V - V(end)"}))
    for values, style in lines:
        ax.plot(time, np.where(values > 0, values, np.nan), **style, **marker(time))
    time_axis(ax, time, unit)
    ax.set_ylabel("relative to |x|² / 2")
    ax.set_title("tracking gap" if moving else "convergence")
    largest = max((float(values.max()) for values, _ in lines), default=0.0)
    if not largest > 0:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "zero throughout", transform=ax.transAxes, ha="center", color=palette(ax).ink)
        return
    asked = facts(dataset).get("stop_gap")
    if isinstance(asked, float):
        ax.axhline(asked, color=palette(ax).ink, linewidth=0.8, linestyle="--", label="gap to reach")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 1e-16 * largest), high)
    ax.legend(loc="best", frameon=False, fontsize="small")


def plot_active(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the number of active atoms per signal over time: the median, the middle 80 % and the range over signals."""
    (time, unit), active = clock(dataset), dataset["active"].to_numpy()
    atoms = math.prod(facts(dataset).get("code_shape", [0]))
    if active.shape[1] > 1:
        low, high = np.percentile(active, [10, 90], axis=1)
        ax.fill_between(
            time, active.min(axis=1), active.max(axis=1), color=palette(ax).blue, alpha=0.12, linewidth=0, label="all"
        )
        ax.fill_between(time, low, high, color=palette(ax).blue, alpha=0.3, linewidth=0, label="middle 80 %")
    ax.plot(time, np.median(active, axis=1), color=palette(ax).blue, label="median", **marker(time))
    time_axis(ax, time, unit)
    ax.set_ylim(0, max(1.0, 1.3 * float(active.max())))  # room for the legend above the curves
    ax.set_ylabel(f"active atoms per signal{f', of {atoms}' if atoms else ''}")
    ax.set_title("active atoms")
    if active.shape[1] > 1:
        ax.legend(loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.5, frameon=False, fontsize="small")


def plot_input(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the input signals: the first image, reassembled if it was cut into patches, or the signals as rows.

    Signals that move are those at the end.
    """
    draw_signals(ax, dataset, input_of(dataset), restore=True, signal=_drawn(dataset))
    ax.set_title(f"input x{_which(dataset)}{' at the end' if 'x_end' in dataset else ''}")


def plot_reconstruction(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the reconstruction from the code at the end, laid out and scaled like the input."""
    rebuilt = dataset["reconstruction_end"].to_numpy()
    draw_signals(ax, dataset, rebuilt, restore=True, signal=_drawn(dataset))
    x = input_of(dataset)
    size = float(np.abs(x).max())  # the squares of very large and very small signals overflow or underflow
    explained = ""
    if size:
        left, power = float(((x / size - rebuilt / size) ** 2).sum()), float(((x / size) ** 2).sum())
        explained = f" ({100 * (1 - left / power):.0f} % of |x|²)"
    ax.set_title(f"reconstruction{explained}")


def plot_residual(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the input minus its reconstruction. Zero is white."""
    residual = input_of(dataset) - dataset["reconstruction_end"].to_numpy()
    draw_signals(ax, dataset, residual, restore=False, signal=_drawn(dataset))
    ax.set_title("residual")


def plot_atoms(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the most active atoms at the end, summed over signals, as tiles if they are images, else as bars."""
    weight = dataset["dictionary"].to_numpy()
    code = np.abs(dataset["code_end"].to_numpy())
    templates = dataset["dictionary"].dims[0] == "channel"
    if templates:
        tiles, activity = weight, code.sum(axis=(0, *range(2, code.ndim)))
    else:
        tiles, activity = weight.T, code.reshape(len(code), -1).sum(axis=0)
    most = _STRIPS if templates and weight.ndim != 4 else _TILES
    order = np.argsort(-activity, kind="stable")[: min(most, int((activity > 0).sum()))]
    shape = patch_shape(dataset)
    ax.set_title("most active atoms")
    if not len(order):
        ax.text(0.5, 0.5, "no atom is active", transform=ax.transAxes, ha="center", color=palette(ax).ink)
        bare_axes(ax)
        return
    if is_sound(dataset) and templates:
        _tones(ax, dataset, tiles[order], order)
        return
    if is_movie(dataset) and templates:
        chosen = film_frames(weight.shape[2])
        strips = np.stack([film(tile, chosen, across=len(chosen)) for tile in tiles[order]])
        ax.imshow(mosaic(strips, across=1), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        bare_axes(ax)
        ax.set_title("most active atoms over frames")
        return
    if templates or shape is not None:
        images = tiles[order].reshape(len(order), *(weight.shape[1:] if templates else shape or ()))
        ax.imshow(mosaic(images), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        bare_axes(ax)
        return
    ax.bar(np.arange(len(order)), activity[order], color=palette(ax).blue)
    ax.set_xticks(np.arange(len(order)), [str(k) for k in order], rotation=90, fontsize="x-small")
    ax.set_xlabel("atom")
    ax.set_ylabel("activity, sum of |a|")
    tidy_axes(ax)


def _tones(ax: Axes, dataset: xr.Dataset, tones: NDArray[Any], numbers: NDArray[Any]) -> None:
    """Draw templates of sounds (template, channel, sample) as curves, one below the other, named by their numbers."""
    rate = dataset.attrs.get("sample_rate")
    time = np.arange(tones.shape[-1]) * (1.0 if rate is None else 1000.0 / float(rate))
    for line, tone in enumerate(tones):
        ax.plot(time, (0.45 * tone / (np.abs(tone).max() or 1.0) - line).T, color=palette(ax).blue, linewidth=0.7)
    ax.set_yticks(-np.arange(len(tones)), [str(k) for k in numbers])
    ax.set_ylabel("template")
    ax.set_xlabel("sample" if rate is None else "ms")
    tidy_axes(ax)


def _drawn(dataset: xr.Dataset) -> int:
    """The sound or movie that is drawn: the one whose potentials are."""
    return _chosen(dataset, None) if is_sound(dataset) or is_movie(dataset) else 0


def _which(dataset: xr.Dataset) -> str:
    """Which part of the input a panel shows, where it does not show all."""
    many = f" of signal {_drawn(dataset)}" if dataset.sizes["signal"] > 1 else ""
    if is_movie(dataset):
        return f"{many}, frames {', '.join(str(k) for k in film_frames(dataset.sizes['frame']))}"
    return many if is_sound(dataset) else ""


def _potentials(ax: Axes, dataset: xr.Dataset, name: str, signal: int | None) -> None:
    """Draw one line per neuron of a signal. The largest at the end are coloured; a sample of the others is grey."""
    time, unit = clock(dataset)
    values = dataset[name].isel(signal=_chosen(dataset, signal)).to_numpy().reshape(len(time), -1)
    order = np.argsort(-np.abs(values[-1]), kind="stable")
    bold, rest = order[:_COLOURED], order[_COLOURED:]
    rest = rest[:: max(1, -(-len(rest) // _LINES))]
    ax.plot(time, values[:, rest], color=palette(ax).faint, linewidth=0.6, **marker(time))
    shades = colours(len(bold), ax)
    for line, shade in zip(bold, shades, strict=True):
        ax.plot(time, values[:, line], color=shade, linewidth=1.3, **marker(time))
    time_axis(ax, time, unit)
    ax.set_ylabel(f"potential {name}")


def _chosen(dataset: xr.Dataset, signal: int | None) -> int:
    """The signal that was asked for, or the one with the largest norm."""
    if signal is not None:
        return signal
    x = input_of(dataset).reshape(dataset.sizes["signal"], -1)
    size = float(np.abs(x).max()) or 1.0
    return int(((x / size) ** 2).sum(axis=1).argmax())
