"""One figure of a run, made of all panels whose variables were recorded."""

from __future__ import annotations

import math
from collections.abc import Callable

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vars_dyn.plotting.acting import shade_interventions
from vars_dyn.plotting.course import can_rebuild, plot_rebuilt_course, plot_stimulus_course
from vars_dyn.plotting.panels import (
    plot_active,
    plot_atoms,
    plot_convergence,
    plot_encoders,
    plot_input,
    plot_neurons,
    plot_reconstruction,
    plot_residual,
)
from vars_dyn.plotting.style import INK
from vars_dyn.recording import facts

__all__ = ["summary"]


def summary(dataset: xr.Dataset, signal: int | None = None) -> Figure:
    """Draw a run: input, reconstruction, residual and atoms above; potentials, convergence and activity below.

    Where the input moves, the stimulus and the reconstruction over time come first. The times of interventions are
    shaded.

    Args:
        dataset: the run.
        signal: the index of the signal whose potentials are shown; by default the one with the largest norm.

    Returns:
        The figure. It has no panels for variables that were not recorded. Save it with `figure.savefig(path)`.
    """
    encoders = "code_end" in dataset
    pictures: list[Callable[[Axes], None]] = [lambda ax: plot_input(ax, dataset)]
    if encoders:
        pictures += [
            lambda ax: plot_reconstruction(ax, dataset),
            lambda ax: plot_residual(ax, dataset),
        ]
        if "dictionary" in dataset:
            pictures.append(lambda ax: plot_atoms(ax, dataset))
    courses: list[tuple[str, Callable[[Axes], None]]] = [
        ("z", lambda ax: plot_neurons(ax, dataset, signal)),
        ("u", lambda ax: plot_encoders(ax, dataset, signal)),
        ("lyapunov", lambda ax: plot_convergence(ax, dataset)),
        ("active", lambda ax: plot_active(ax, dataset)),
    ]
    recorded = {"lyapunov", "relative_gap"} & set(dataset.variables)
    drawn = [draw for name, draw in courses if name in dataset or (name == "lyapunov" and recorded)]
    strips: list[Callable[[Axes], None]] = []
    if "x" in dataset:
        strips.append(lambda ax: plot_stimulus_course(ax, dataset))
    if can_rebuild(dataset):
        strips.append(lambda ax: plot_rebuilt_course(ax, dataset))
    rows = [*([draw] for draw in strips), pictures, drawn]
    heights = [*(1.6 for _ in strips), 3.4, 3.4]
    columns = max(len(pictures), len(drawn))
    figure = Figure(figsize=(3.5 * columns, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), 1, height_ratios=heights)
    for row, panels in enumerate(rows):
        part = figure.add_subfigure(grid[row])
        for column, draw in enumerate(panels):
            ax = part.add_subplot(1, len(panels), column + 1)
            draw(ax)
            if panels is drawn:
                shade_interventions(ax, dataset, named=column == 0)
    figure.suptitle(_headline(dataset), fontsize=12, color=INK)
    return figure


def _headline(dataset: xr.Dataset) -> str:
    known = facts(dataset)
    signals = dataset.sizes["signal"]
    count = f"{signals} signal{'s' if signals != 1 else ''}"
    text = f"{known.get('field', 'trajectory')}: {count} to t = {known.get('t_end', math.nan):.4g}"
    if "relative_gap_end" in dataset:
        text += f", relative gap at most {_scientific(float(dataset['relative_gap_end'].max()))}"
    return text


def _scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")
