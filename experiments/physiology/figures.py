"""One figure per experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.physiology.population import MotionPopulation, Population
from experiments.report.outputs import marked
from vars_dyn._files import replacing
from vars_dyn.plotting.style import BLUE, FAINT, INK, ORANGE, bare_axes, colours, tidy_axes

__all__ = ["draw"]

_SHOWN = 80


def draw(experiment: str, found: xr.Dataset, cells: Population | MotionPopulation, out: Path) -> None:
    """Draw what an experiment found."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    _DRAWN[experiment](figure, found, cells)
    with replacing(out) as file:
        figure.savefig(file, dpi=150, metadata=marked(out))


def _gabors(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    left, right = halves
    order = np.argsort(-found.r_squared.values, kind="stable")
    picked = order[np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).astype(int)]
    for ax, atom in zip(left.subplots(8, 10, squeeze=False).ravel(), [*picked, *[None] * _SHOWN], strict=False):
        bare_axes(ax)
        if atom is not None:
            most = np.abs(cells.atoms[atom]).max()
            ax.imshow(cells.atoms[atom], cmap="gray", vmin=-most, vmax=most)
    left.suptitle("atoms, from the best fit to the worst", fontsize=9)
    one, two = right.subplots(2, 1)
    one.hist(found.r_squared, bins=np.linspace(0, 1, 26), color=BLUE)
    share = float((found.r_squared >= 0.7).mean())
    _labelled(one, f"$R^2$ of the Gabor fit ({100 * share:.0f} % at least 0.7)", "atoms")
    fine = found.where(found.r_squared >= 0.7, drop=True)
    two.scatter(fine.orientation, fine.frequency, s=8, color=INK, alpha=0.6)
    two.set_xlim(0, 180)
    two.set_xticks([0, 45, 90, 135, 180])
    _labelled(two, "orientation (degrees)", "frequency (1/pixel)")


def _gratings(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    axes = figure.subplots(1, 4)
    responses = found.response.values
    for atom in np.argsort(-responses.max((1, 2)), kind="stable")[:12]:
        best = np.unravel_index(responses[atom].argmax(), responses[atom].shape)
        curve = np.roll(responses[atom][:, best[1]], len(found.orientation) // 2 - int(best[0]))
        axes[0].plot(found.orientation - 90, curve / curve.max(), color=FAINT, linewidth=1)
        row = responses[atom][best[0]]
        axes[1].semilogx(found.frequency, row / row.max(), color=FAINT, linewidth=1)
    _labelled(axes[0], "orientation from the best (degrees)", "response / best")
    _labelled(axes[1], "frequency (1/pixel)", "response / best")
    _histogram(axes[2], found.osi.values, "orientation selectivity index")
    _histogram(axes[3], found.circular_variance.values, "circular variance")


def _sizes(dim: str, text: str) -> Callable[[Figure, xr.Dataset, Any], None]:
    def drawn(figure: Figure, found: xr.Dataset, cells: Population) -> None:
        one, two = figure.subplots(1, 2)
        _curves(one, found[dim].values, found.response.values, BLUE, "network")
        _curves(one, found[dim].values, found.linear.values, ORANGE, "inner product")
        one.legend(frameon=False, fontsize=8)
        _labelled(one, f"{text} (pixels)", "response / best")
        bins = np.linspace(-0.05, 1.05, 23)
        two.hist(found.linear_index, bins=bins, color=ORANGE, alpha=0.5, label="inner product")
        two.hist(found.suppression_index, bins=bins, color=BLUE, alpha=0.7, label="network")
        two.legend(frameon=False, fontsize=8)
        _labelled(two, "suppression index", "cells")

    return drawn


def _cross(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    one, two = figure.subplots(1, 2)
    scale = found.alone.values[:, None]
    for row in found.response.values / scale:
        one.plot(found.mask_contrast, row, color=FAINT, linewidth=1)
    one.plot(found.mask_contrast, np.nanmedian(found.response.values / scale, 0), color=BLUE, linewidth=2)
    _labelled(one, "contrast of the mask", "response / response without mask")
    _histogram(two, found.suppression.values, "cross-orientation suppression", (-1.0, 1.0))


def _contrast(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    one, two, three = figure.subplots(1, 3)
    _curves(one, found.contrast.values, found.response.values[..., 0], BLUE, "")
    one.set_xscale("log")
    _labelled(one, "contrast", "response / best")
    for row in found.half_width.values:
        two.semilogx(found.contrast, row, color=FAINT, linewidth=1)
    two.semilogx(found.contrast, _median(found.half_width.values), color=BLUE, linewidth=2)
    two.set_ylim(0, None)
    _labelled(two, "contrast", "half width of orientation (degrees)")
    three.hist(found.width_slope.values[np.isfinite(found.width_slope.values)], bins=20, color=BLUE)
    _labelled(three, "change of the half width (degrees per decade)", "cells")


def _latency(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    one, two = figure.subplots(1, 2)
    for k, colour in enumerate(colours(len(found.contrast))):
        mean = found.response.values[:, k].mean(0)
        one.plot(found.time, mean, color=colour, label=f"contrast {float(found.contrast[k]):g}")
    one.legend(frameon=False, fontsize=8)
    _labelled(one, "time (ms)", "mean response")
    for row in found.latency.values:
        two.semilogx(found.contrast, row, color=FAINT, linewidth=1)
    two.semilogx(found.contrast, _median(found.latency.values), color=BLUE, linewidth=2)
    _labelled(two, "contrast", "latency (ms)")


def _completion(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    ax = figure.subplots(1, 1)
    for row in found.ratio.values:
        ax.plot(found.occluder, row, color=FAINT, linewidth=1)
    ax.plot(found.occluder, _median(found.ratio.values), color=BLUE, linewidth=2, label="network, median")
    ax.plot(
        found.occluder, _median(found.linear_ratio.values), color=ORANGE, linewidth=2, label="inner product, median"
    )
    ax.legend(frameon=False, fontsize=8)
    _labelled(ax, "diameter of the occluder (pixels)", "response / response without occluder")


def _direction(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    angles = np.deg2rad(np.append(found.direction.values, 360.0))
    responses = found.response.values
    one = figure.add_subplot(1, 3, 1, projection="polar")
    for atom in np.argsort(-responses.max((1, 2, 3)), kind="stable")[:12]:
        best = np.unravel_index(responses[atom].argmax(), responses[atom].shape)
        curve = responses[atom][:, best[1], best[2]]
        one.plot(angles, np.append(curve, curve[0]) / curve.max(), linewidth=0.8)
    one.tick_params(labelsize=7)
    one.set_yticklabels([])
    one.set_title("response / best over direction", fontsize=8)
    two, three = figure.add_subplot(1, 3, 2), figure.add_subplot(1, 3, 3)
    for name, colour, label in (("linear_dsi", ORANGE, "inner product"), ("dsi", BLUE, "network")):
        values = found[name].values
        two.hist(values[np.isfinite(values)], bins=np.linspace(0, 1, 21).tolist(), color=colour, alpha=0.6, label=label)
    two.legend(frameon=False, fontsize=8)
    _labelled(two, "direction selectivity index", "cells")
    live = np.isfinite(found.dsi.values)
    steps, counts = np.unique(found.speed.values[live], return_counts=True)
    three.bar(np.arange(len(steps)), counts, color=BLUE)
    three.set_xticks(np.arange(len(steps))[::4], [f"{s:.3g}" for s in steps[::4]])
    _labelled(three, "speed of the best grating (pixels/s)", "cells")


def _temporal(figure: Figure, found: xr.Dataset, cells: Population) -> None:
    one, two = figure.subplots(1, 2)
    at, best = found.temporal_frequency.values, found.response.values.max(-1, keepdims=True)
    for row in found.response.values / best:
        one.semilogx(at, row, color=FAINT, linewidth=0.8)
    one.semilogx(at, np.median(found.response.values / best, 0), color=BLUE, linewidth=2, label="best direction")
    one.semilogx(at, np.median(found.opposite.values / best, 0), color=ORANGE, linewidth=2, label="opposite direction")
    one.legend(frameon=False, fontsize=8)
    _labelled(one, "temporal frequency (Hz)", "response / best")
    edges = np.append(at, at[-1] * at[-1] / at[-2]) / np.sqrt(at[1] / at[0])
    two.hist(found.preferred.values, bins=edges.tolist(), color=BLUE)
    two.set_xscale("log")
    _labelled(two, "best temporal frequency (Hz)", "cells")


def _median(values: np.ndarray) -> np.ndarray:
    """The median over cells, of those that have a value."""
    return np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in values.T])


def _curves(ax: Axes, at: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    best = values.max(-1, keepdims=True)
    scaled = values[best[:, 0] > 0] / best[best[:, 0] > 0]
    for row in scaled:
        ax.plot(at, row, color=colour, alpha=0.15, linewidth=0.8)
    if len(scaled):
        ax.plot(at, np.median(scaled, 0), color=colour, linewidth=2, label=label)


def _histogram(ax: Axes, values: np.ndarray, text: str, limits: tuple[float, float] = (0.0, 1.0)) -> None:
    ax.hist(np.clip(values[np.isfinite(values)], *limits), bins=np.linspace(*limits, 21).tolist(), color=BLUE)
    _labelled(ax, text, "cells")


def _labelled(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=8)
    tidy_axes(ax)


_DRAWN: dict[str, Callable[[Figure, xr.Dataset, Any], None]] = {
    "gabors": _gabors,
    "gratings": _gratings,
    "size": _sizes("diameter", "diameter of the grating"),
    "length": _sizes("length", "length of the bar"),
    "cross": _cross,
    "contrast": _contrast,
    "latency": _latency,
    "completion": _completion,
    "direction": _direction,
    "temporal": _temporal,
}
