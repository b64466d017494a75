"""Pictures of a recorded trajectory: potentials, convergence, activity, reconstruction and atoms over time.

Every function takes a dataset as `vars_dyn.recording` makes it, opened from its store or in memory, and nothing else
that the run knew. They draw into matplotlib axes that the caller gives; `summary` makes a figure of them all. Nothing
here touches pyplot's global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vars_dyn.images import assemble
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
    "summary",
]

_INK, _FAINT, _BLUE, _ORANGE = "#222222", "#c4c4c4", "#1f5fa8", "#d1661a"
#: So many lines at most are drawn of one quantity, and so many of them in colour.
_LINES, _COLOURED = 64, 8
_TILES = 24


def summary(dataset: xr.Dataset, signal: int | None = None) -> Figure:
    """One figure of a run: input, reconstruction, residual and atoms above; potentials, convergence and activity below.

    `signal` is the one whose potentials are shown (by default that with the largest norm). Panels of what was not
    recorded are left out. Save it with `figure.savefig(path)`.
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
    columns = max(len(pictures), len(drawn))
    figure = Figure(figsize=(3.5 * columns, 6.8), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    for row, panels in enumerate((pictures, drawn)):
        part = figure.add_subfigure(figure.add_gridspec(2, 1)[row])
        for column, draw in enumerate(panels):
            draw(part.add_subplot(1, len(panels), column + 1))
    figure.suptitle(_headline(dataset), fontsize=12, color=_INK)
    return figure


def _headline(dataset: xr.Dataset) -> str:
    of = facts(dataset)
    signals = dataset.sizes["signal"]
    count = f"{signals} signal{'s' if signals != 1 else ''}"
    text = f"{of.get('field', 'trajectory')}: {count} to t = {of.get('t_end', math.nan):.4g}"
    if "relative_gap_end" in dataset:
        text += f", relative gap at most {_scientific(float(dataset['relative_gap_end'].max()))}"
    return text


def plot_neurons(ax: Axes, dataset: xr.Dataset, signal: int | None = None) -> None:
    """The potentials z of one signal's neurons over time."""
    _potentials(ax, dataset, "z", signal)
    ax.set_title(f"neurons z of signal {_chosen(dataset, signal)}")


def plot_encoders(ax: Axes, dataset: xr.Dataset, signal: int | None = None) -> None:
    """The potentials u of one signal's encoding neurons over time, with the threshold that the active ones cross."""
    _potentials(ax, dataset, "u", signal)
    number = _chosen(dataset, signal)
    ax.set_title(f"encoding neurons u of signal {number}")
    of = facts(dataset)
    if "beta" in of and "threshold" in of:
        theta = float(dataset["lam"][number]) / float(of["beta"])
        for level in (theta,) if of["threshold"] == "nonnegative" else (theta, -theta):
            ax.axhline(level, color=_INK, linewidth=0.8, linestyle="--", label="threshold" if level > 0 else None)
        ax.legend(loc="best", frameon=False, fontsize=8)


def plot_convergence(ax: Axes, dataset: xr.Dataset) -> None:
    """What is left of the Lyapunov function V, and the relative gap (largest and median over signals), logarithmic."""
    time = dataset["time"].to_numpy()
    lines: list[tuple[NDArray[Any], dict[str, Any]]] = []
    if "relative_gap" in dataset:
        gap = dataset["relative_gap"].to_numpy()
        lines.append((gap.max(axis=1), {"color": _BLUE, "label": "relative gap, largest"}))
        if gap.shape[1] > 1:
            median = {"color": _BLUE, "alpha": 0.5, "linestyle": ":", "label": "relative gap, median"}
            lines.append((np.median(gap, axis=1), median))
    if "lyapunov" in dataset:
        v = dataset["lyapunov"].to_numpy().sum(axis=1)
        half = 0.5 * float((dataset["signals"].to_numpy() ** 2).sum()) or 1.0
        lines.append(((v - v[-1]) / half, {"color": _ORANGE, "label": "V - V(end)"}))
    for values, style in lines:
        ax.plot(time, np.where(values > 0, values, np.nan), **style, **_marker(time))
    _time_axis(ax, time)
    ax.set_ylabel("relative to |x|² / 2")
    ax.set_title("convergence")
    largest = max((float(values.max()) for values, _ in lines), default=0.0)
    if not largest > 0:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "zero throughout", transform=ax.transAxes, ha="center", color=_INK)
        return
    asked = facts(dataset).get("stop_gap")
    if isinstance(asked, float):
        ax.axhline(asked, color=_INK, linewidth=0.8, linestyle="--", label="gap to reach")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 1e-16 * largest), high)
    ax.legend(loc="best", frameon=False, fontsize=8)


def plot_active(ax: Axes, dataset: xr.Dataset) -> None:
    """Active atoms per signal over time: median, and the range of the middle 80 % and of all signals."""
    time, active = dataset["time"].to_numpy(), dataset["active"].to_numpy()
    atoms = math.prod(facts(dataset).get("code_shape", [0]))
    if active.shape[1] > 1:
        low, high = np.percentile(active, [10, 90], axis=1)
        ax.fill_between(time, active.min(axis=1), active.max(axis=1), color=_BLUE, alpha=0.12, linewidth=0, label="all")
        ax.fill_between(time, low, high, color=_BLUE, alpha=0.3, linewidth=0, label="middle 80 %")
    ax.plot(time, np.median(active, axis=1), color=_BLUE, label="median", **_marker(time))
    _time_axis(ax, time)
    ax.set_ylim(0, max(1.0, 1.3 * float(active.max())))  # room for the legend above the curves
    ax.set_ylabel(f"active atoms per signal{f', of {atoms}' if atoms else ''}")
    ax.set_title("active atoms")
    if active.shape[1] > 1:
        ax.legend(loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.5, frameon=False, fontsize=8)


def plot_input(ax: Axes, dataset: xr.Dataset) -> None:
    """The input signals: the first image, put together of its patches where it was cut, or the signals as rows."""
    _picture(ax, dataset, dataset["signals"].to_numpy(), restore=True)
    ax.set_title("input x")


def plot_reconstruction(ax: Axes, dataset: xr.Dataset) -> None:
    """What the code at the end says the input was, in the input's place and scale."""
    rebuilt = dataset["reconstruction_end"].to_numpy()
    _picture(ax, dataset, rebuilt, restore=True)
    x = dataset["signals"].to_numpy()
    power = float((x**2).sum())
    explained = f" ({100 * (1 - float(((x - rebuilt) ** 2).sum()) / power):.0f} % of |x|²)" if power else ""
    ax.set_title(f"reconstruction{explained}")


def plot_residual(ax: Axes, dataset: xr.Dataset) -> None:
    """Input less reconstruction, zero white."""
    residual = dataset["signals"].to_numpy() - dataset["reconstruction_end"].to_numpy()
    _picture(ax, dataset, residual, restore=False)
    ax.set_title("residual")


def plot_atoms(ax: Axes, dataset: xr.Dataset) -> None:
    """The atoms that are the most active at the end, summed over signals; as tiles where they are images."""
    weight = dataset["dictionary"].to_numpy()
    code = np.abs(dataset["code_end"].to_numpy())
    if weight.ndim == 4:
        tiles, activity = weight, code.sum(axis=(0, 2, 3))
    else:
        tiles, activity = weight.T, code.reshape(len(code), -1).sum(axis=0)
    order = np.argsort(-activity, kind="stable")[: min(_TILES, int((activity > 0).sum()))]
    shape = _image_shape(dataset)
    ax.set_title("most active atoms")
    if not len(order):
        ax.text(0.5, 0.5, "no atom is active", transform=ax.transAxes, ha="center", color=_INK)
        _bare(ax)
        return
    if weight.ndim == 4 or shape is not None:
        images = tiles[order].reshape(len(order), *(weight.shape[1:] if weight.ndim == 4 else shape or ()))
        ax.imshow(_mosaic(images), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        _bare(ax)
        return
    ax.bar(np.arange(len(order)), activity[order], color=_BLUE)
    ax.set_xticks(np.arange(len(order)), [str(k) for k in order], rotation=90, fontsize=7)
    ax.set_xlabel("atom")
    ax.set_ylabel("activity, sum of |a|")
    _clean(ax)


def _potentials(ax: Axes, dataset: xr.Dataset, name: str, signal: int | None) -> None:
    """Lines of one signal: those that end the largest in colour, others faint; neighbours of an image thinned out."""
    time = dataset["time"].to_numpy()
    values = dataset[name].isel(signal=_chosen(dataset, signal)).to_numpy().reshape(len(time), -1)
    order = np.argsort(-np.abs(values[-1]), kind="stable")
    bold, rest = order[:_COLOURED], order[_COLOURED:]
    rest = rest[:: max(1, -(-len(rest) // _LINES))]
    ax.plot(time, values[:, rest], color=_FAINT, linewidth=0.6, **_marker(time))
    shades = _colours(len(bold))
    for line, shade in zip(bold, shades, strict=True):
        ax.plot(time, values[:, line], color=shade, linewidth=1.3, **_marker(time))
    _time_axis(ax, time)
    ax.set_ylabel(f"potential {name}")


def _picture(ax: Axes, dataset: xr.Dataset, values: NDArray[Any], *, restore: bool) -> None:
    """Signals as a picture. `restore` gives back the mean and norm that were taken off before coding."""
    if restore:
        values = _restored(dataset, values)
    image = _image(dataset, values)
    if image is None:
        _rows(ax, values, limit=float(np.abs(dataset["signals"].to_numpy() if restore else values).max()) or 1.0)
        return
    if restore:
        reference = _image(dataset, _restored(dataset, dataset["signals"].to_numpy()))
        low, high = float(np.nanmin(reference)), float(np.nanmax(reference))  # type: ignore[arg-type]
        shown = np.clip((image - low) / ((high - low) or 1.0), 0.0, 1.0)
        ax.imshow(shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, -1), cmap="gray", vmin=0, vmax=1)
    else:
        flat = image.mean(axis=0)
        limit = float(np.nanmax(np.abs(flat))) or 1.0
        drawn = ax.imshow(flat, cmap="RdBu_r", vmin=-limit, vmax=limit)
        _colour_bar(ax, drawn)
    _bare(ax)


def _rows(ax: Axes, values: NDArray[Any], *, limit: float) -> None:
    """Signals that are no images: a row each, up to as many as can be told apart."""
    flat = values.reshape(len(values), -1)
    if len(flat) == 1:
        ax.plot(flat[0], color=_BLUE, linewidth=1.0)
        ax.set_ylabel("value")
    else:
        drawn = ax.imshow(flat[:256], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        _colour_bar(ax, drawn)
        ax.set_ylabel("signal")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("neuron")


def _restored(dataset: xr.Dataset, values: NDArray[Any]) -> NDArray[Any]:
    for name, give_back in (("signal_norm", np.multiply), ("signal_mean", np.add)):
        if name in dataset.coords:
            kept = dataset[name].to_numpy()
            if name == "signal_norm":
                kept = np.where(kept > 0, kept, 1.0)
            values = give_back(values, kept.reshape(-1, *[1] * (values.ndim - 1)))
    return values


def _image(dataset: xr.Dataset, values: NDArray[Any]) -> NDArray[Any] | None:
    """The first image (colour, row, column) that signals (signal, ...) make up; None where they are no images."""
    if values.ndim == 4 and values.shape[1] in (1, 3):
        return values[0]
    if "patch_row" not in dataset.coords:
        return None
    images = dataset["patch_image"].to_numpy()
    first = images == images[0]
    row, column = (dataset[name].to_numpy()[first] for name in ("patch_row", "patch_column"))
    return assemble(values[first], row, column, int(dataset.attrs["patch_size"]))


def _image_shape(dataset: xr.Dataset) -> tuple[int, ...] | None:
    """The shape (colour, row, column) of a signal that is a patch."""
    size = dataset.attrs.get("patch_size")
    return None if size is None else (int(dataset.attrs["patch_colours"]), int(size), int(size))


def _mosaic(images: NDArray[Any]) -> NDArray[Any]:
    """Tiles (tile, colour, row, column), each scaled to its largest entry, side by side with gaps; grey or colour."""
    count, colours, height, width = images.shape
    across = math.ceil(math.sqrt(count))
    down = -(-count // across)
    gap = max(1, round(0.06 * max(height, width)))
    shape = (down * (height + gap) - gap, across * (width + gap) - gap)
    canvas = np.full((colours, *shape), np.nan if colours == 1 else 1.0)
    for number, image in enumerate(images):
        top, left = (number // across) * (height + gap), (number % across) * (width + gap)
        scaled = image / (np.abs(image).max() or 1.0)
        canvas[:, top : top + height, left : left + width] = scaled if colours == 1 else 0.5 + 0.5 * scaled
    return canvas[0] if colours == 1 else np.moveaxis(canvas, 0, -1)


def _chosen(dataset: xr.Dataset, signal: int | None) -> int:
    if signal is not None:
        return signal
    x = dataset["signals"].to_numpy()
    return int((x.reshape(len(x), -1) ** 2).sum(axis=1).argmax())


def _marker(time: NDArray[Any]) -> dict[str, Any]:
    """A single point is no line and needs a mark."""
    return {"marker": "o", "markersize": 3} if len(time) == 1 else {}


def _colours(count: int) -> list[Any]:
    return list(colormaps["viridis"](np.linspace(0.0, 0.85, max(count, 1))))[:count]


def _time_axis(ax: Axes, time: NDArray[Any]) -> None:
    """Time linear to 1 and logarithmic beyond where the run is long: most happens early."""
    if time[-1] > 20:
        ax.set_xscale("symlog", linthresh=1.0, linscale=0.6)
        ax.set_xlim(0, time[-1])
        decades = [10**k for k in range(int(math.log10(time[-1])) + 1)]
        ax.set_xticks([0, *decades], ["0", *[f"{k}" for k in decades]])
    elif time[-1] > time[0]:
        ax.set_xlim(time[0], time[-1])
    ax.set_xlabel("time (membrane time constants)")
    _clean(ax)


def _clean(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color="#ececec", linewidth=0.6)
    ax.set_axisbelow(True)


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _colour_bar(ax: Axes, drawn: Any) -> None:
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)


def _scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")
