"""When interventions acted, as shades behind the courses of a run."""

from __future__ import annotations

from typing import Any

import xarray as xr
from matplotlib.axes import Axes

from vars_dyn.plotting.style import clock, palette
from vars_dyn.recording import facts

__all__ = ["shade_interventions"]

#: The most interventions that are named, one below the other.
_NAMED = 5
#: Letters of the two populations, as the command line has them.
_LETTERS = {"atoms": "u", "neurons": "z"}


def shade_interventions(ax: Axes, dataset: xr.Dataset, *, named: bool = True) -> None:
    """Shade the times at which interventions acted, and name them from the top down if `named`."""
    acts = facts(dataset).get("interventions", "none")
    if acts == "none":
        return
    time, _ = clock(dataset)
    first, last = float(dataset["time"][0]), float(dataset["time"][-1])
    unit = (time[-1] - time[0]) / (last - first) if last > first else 1.0
    shown = [(act, *_span(act, first, last)) for act in acts]
    shown = [(act, start, stop) for act, start, stop in shown if start < stop]
    for number, (act, start, stop) in enumerate(shown):
        ax.axvspan(start * unit, stop * unit, color=palette(ax).orange, alpha=0.12, linewidth=0, zorder=0)
        if named and number < _NAMED:
            more = f" and {len(shown) - _NAMED} more" if number == _NAMED - 1 and len(shown) > _NAMED else ""
            place = 0.98 - 0.07 * number
            ax.text(
                start * unit,
                place,
                f" {_named(act)}{more}",
                transform=ax.get_xaxis_transform(),
                fontsize="x-small",
                va="top",
                color=palette(ax).ink,
                clip_on=True,
                bbox={"facecolor": ax.get_facecolor(), "alpha": 0.6, "linewidth": 0, "pad": 0.5},
            )


def _span(act: dict[str, Any], first: float, last: float) -> tuple[float, float]:
    """From when to when it acted within the run."""
    start, stop = (act.get(name, "none") for name in ("start", "stop"))
    return max(first, first if start == "none" else start), min(last, last if stop == "none" else stop)


def _named(act: dict[str, Any]) -> str:
    """Its kind and units, such as "silence u3, u5"."""
    name = next(kind for kind in _LETTERS if act.get(kind, "none") != "none")
    units = act[name]
    if units == "all":
        return f"{act['kind'].lower()} all {_LETTERS[name]}"
    text = ", ".join(f"{_LETTERS[name]}{k}" for k in units[:3])
    return f"{act['kind'].lower()} {text}{', ...' if len(units) > 3 else ''}"
