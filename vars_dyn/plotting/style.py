"""Colours, axes and markers that all panels share."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from vars_dyn.recording import facts

__all__ = [
    "BLUE",
    "FAINT",
    "INK",
    "ORANGE",
    "Palette",
    "bare_axes",
    "clock",
    "colour_bar",
    "colours",
    "marker",
    "palette",
    "tidy_axes",
    "time_axis",
]

_TAU, _MS = "time (membrane time constants)", "time (ms)"
INK, FAINT, BLUE, ORANGE = "#222222", "#c4c4c4", "#1f5fa8", "#d1661a"


class Palette(NamedTuple):
    """Colours that can be seen on a background: of text, of what stands behind, of a grid, and of lines."""

    ink: str
    faint: str
    grid: str
    blue: str
    orange: str


_LIGHT = Palette(INK, FAINT, "#ececec", BLUE, ORANGE)
_DARK = Palette("#e8e8e8", "#6e6e6e", "#3a3a3a", "#6fa8ec", "#f0954f")


def palette(ax: Axes) -> Palette:
    """The colours for axes, by the brightness of their background."""
    return _DARK if _is_dark(ax) else _LIGHT


def _is_dark(ax: Axes) -> bool:
    red, green, blue, opacity = to_rgba(ax.get_facecolor())
    behind = to_rgba(ax.figure.get_facecolor())
    seen = [opacity * own + (1 - opacity) * far for own, far in zip((red, green, blue), behind, strict=False)]
    return 0.299 * seen[0] + 0.587 * seen[1] + 0.114 * seen[2] < 0.5


def marker(time: NDArray[Any]) -> dict[str, Any]:
    """The style of a marker if there is only one time, since a single point makes no line."""
    return {"marker": "o", "markersize": 3} if len(time) == 1 else {}


def colours(count: int, ax: Axes | None = None) -> list[Any]:
    """`count` colours that can be told apart, and seen on the background of the axes."""
    low, high = (0.3, 1.0) if ax is not None and _is_dark(ax) else (0.0, 0.85)
    return list(colormaps["viridis"](np.linspace(low, high, max(count, 1))))[:count]


def clock(dataset: xr.Dataset) -> tuple[NDArray[Any], str]:
    """The recorded times and the label of their axis: in milliseconds where the run knows its time constant in them."""
    time, tau = dataset["time"].to_numpy(), facts(dataset).get("tau_ms")
    return (time, _TAU) if tau is None else (float(tau) * time, _MS)


def time_axis(ax: Axes, time: NDArray[Any], unit: str) -> None:
    """Label the time axis. For a long run in time constants it is logarithmic from 1 on, since most changes happen
    early.
    """
    if time[-1] > 20 and unit == _TAU:
        ax.set_xscale("symlog", linthresh=1.0, linscale=0.6)
        ax.set_xlim(0, time[-1])
        decades = [10**k for k in range(int(math.log10(time[-1])) + 1)]
        ax.set_xticks([0, *decades], ["0", *[f"{k}" for k in decades]])
    elif time[-1] > time[0]:
        ax.set_xlim(time[0], time[-1])
    ax.set_xlabel(unit)
    tidy_axes(ax)


def tidy_axes(ax: Axes) -> None:
    """Draw a faint grid, and no frame above and on the right."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color=palette(ax).grid, linewidth=0.6)
    ax.set_axisbelow(True)


def bare_axes(ax: Axes) -> None:
    """Remove ticks and frame, as for a picture."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def colour_bar(ax: Axes, drawn: Any) -> None:
    """Draw a narrow bar beside the axes, which shows the values of the colours."""
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
