"""Quick pictures for notebooks: `vars_dyn.plot.gap(run)`. Each function draws into matplotlib axes and returns them.

A run is a dataset of `vars_dyn.record` or `vars_dyn.open_dataset`, or a trajectory of `vars_dyn.integrate`. Without
`ax` the current axes of pyplot are drawn into, so that notebooks show the picture. Colours suit the background of the
axes, light or dark, and sizes follow `matplotlib.rcParams`. The drawing itself is that of `vars_dyn.plotting`.
"""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes

from vars_dyn import _checks
from vars_dyn.integration import Trajectory
from vars_dyn.plotting import panels
from vars_dyn.plotting.codes import plot_code

__all__ = ["active", "atoms", "code_maps", "gap", "reconstruction", "residual", "signals", "trajectory"]


def trajectory(
    run: xr.Dataset | Trajectory, ax: Axes | None = None, *, of: str | None = None, signal: int | None = None
) -> Axes:
    """The potentials of one signal over time.

    Args:
        run: the run.
        ax: the axes; by default pyplot's current ones.
        of: "u", the encoding neurons, or "z", the neurons; by default u where they are recorded.
        signal: the index of the signal; by default the one with the largest norm.

    Raises ValueError for potentials that were not recorded.
    """
    data, ax = _dataset(run), _axes(ax)
    of = _checks.choice("of", ("u" if "u" in data else "z") if of is None else of, ("u", "z"))
    _need(data, of)
    (panels.plot_encoders if of == "u" else panels.plot_neurons)(ax, data, signal)
    return ax


def gap(run: xr.Dataset | Trajectory, ax: Axes | None = None) -> Axes:
    """The relative duality gap, the largest and the median of all signals, and the Lyapunov function, over time."""
    data, ax = _dataset(run), _axes(ax)
    if "lyapunov" not in data:
        _need(data, "relative_gap")
    panels.plot_convergence(ax, data)
    return ax


def active(run: xr.Dataset | Trajectory, ax: Axes | None = None) -> Axes:
    """The number of active atoms per signal over time."""
    data, ax = _dataset(run), _axes(ax)
    _need(data, "active")
    panels.plot_active(ax, data)
    return ax


def code_maps(
    run: xr.Dataset | Trajectory, ax: Axes | None = None, *, signal: int = 0, time: float | None = None
) -> Axes:
    """The code of one signal: maps of the most active templates of a convolution, or a line for each atom.

    `time` is in membrane time constants, and the nearest recorded time is drawn; by default the end of the run. Raises
    ValueError for a run without the code at that time.
    """
    data, ax = _dataset(run), _axes(ax)
    plot_code(ax, data, signal, time)
    return ax


def atoms(run: xr.Dataset | Trajectory, ax: Axes | None = None) -> Axes:
    """The atoms that are most active at the end, as tiles if they are images."""
    data, ax = _dataset(run), _axes(ax)
    for name in ("dictionary", "code_end"):
        _need(data, name)
    panels.plot_atoms(ax, data)
    return ax


def signals(run: xr.Dataset | Trajectory, ax: Axes | None = None) -> Axes:
    """The input signals: an image put together from its patches, or a row for each signal."""
    data, ax = _dataset(run), _axes(ax)
    panels.plot_input(ax, data)
    return ax


def reconstruction(run: xr.Dataset | Trajectory, ax: Axes | None = None) -> Axes:
    """The reconstruction at the end, drawn like `signals`."""
    data, ax = _dataset(run), _axes(ax)
    _need(data, "reconstruction_end")
    panels.plot_reconstruction(ax, data)
    return ax


def residual(run: xr.Dataset | Trajectory, ax: Axes | None = None) -> Axes:
    """The input minus its reconstruction at the end. Zero is white."""
    data, ax = _dataset(run), _axes(ax)
    _need(data, "reconstruction_end")
    panels.plot_residual(ax, data)
    return ax


def _dataset(run: xr.Dataset | Trajectory) -> xr.Dataset:
    if isinstance(run, Trajectory):
        found: xr.Dataset = run.to_dataset()
        return found
    if not isinstance(run, xr.Dataset) or "signals" not in run:
        raise ValueError(f"run is a {type(run).__name__}; a dataset of a recorded run, or a trajectory, is wanted")
    return run


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # deferred: a program that draws to files must not choose a window system

    return plt.gca()


def _need(data: xr.Dataset, name: str) -> None:
    if name not in data:
        raise ValueError(f"the run has no {name}; a run that records it is wanted")
