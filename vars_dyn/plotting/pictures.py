"""Signals and atoms as pictures: images put together from their patches, rows, and tiles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vars_dyn.images import assemble
from vars_dyn.plotting.style import BLUE, bare_axes, colour_bar

__all__ = ["draw_signals", "frame_of", "input_of", "mosaic", "patch_shape"]


def input_of(dataset: xr.Dataset) -> NDArray[Any]:
    """The input signals that the end of the run is compared with: those at the end, if they moved."""
    return dataset["x_end" if "x_end" in dataset else "signals"].to_numpy()


def frame_of(dataset: xr.Dataset, values: NDArray[Any]) -> NDArray[Any] | None:
    """The first image (row, column) of signals at one time, in grey; None if they are no images."""
    image = _image(dataset, values)
    return None if image is None else image.mean(axis=0)


def draw_signals(ax: Axes, dataset: xr.Dataset, values: NDArray[Any], *, restore: bool) -> None:
    """Draw signals as a picture. `restore` undoes the changes of mean and norm that were made before coding."""
    if restore:
        values = _restored(dataset, values)
    image = _image(dataset, values)
    if image is None:
        _rows(ax, values, limit=float(np.abs(input_of(dataset) if restore else values).max()) or 1.0)
        return
    if restore:
        reference = _image(dataset, _restored(dataset, input_of(dataset)))
        low, high = float(np.nanmin(reference)), float(np.nanmax(reference))  # type: ignore[arg-type]
        shown = np.clip((image - low) / ((high - low) or 1.0), 0.0, 1.0)
        ax.imshow(shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, -1), cmap="gray", vmin=0, vmax=1)
    else:
        flat = image.mean(axis=0)
        limit = float(np.nanmax(np.abs(flat))) or 1.0
        drawn = ax.imshow(flat, cmap="RdBu_r", vmin=-limit, vmax=limit)
        colour_bar(ax, drawn)
    bare_axes(ax)


def _rows(ax: Axes, values: NDArray[Any], *, limit: float) -> None:
    """Draw signals that are no images, one per row. Only the first 256 are drawn, since more rows would merge."""
    flat = values.reshape(len(values), -1)
    if len(flat) == 1:
        ax.plot(flat[0], color=BLUE, linewidth=1.0)
        ax.set_ylabel("value")
    else:
        drawn = ax.imshow(flat[:256], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        colour_bar(ax, drawn)
        ax.set_ylabel("signal")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("neuron")


def _restored(dataset: xr.Dataset, values: NDArray[Any]) -> NDArray[Any]:
    """The values with the norm and the mean that the signals had before coding."""
    for name, give_back in (("signal_norm", np.multiply), ("signal_mean", np.add)):
        if name in dataset.coords:
            kept = dataset[name].to_numpy()
            if name == "signal_norm":
                kept = np.where(kept > 0, kept, 1.0)
            values = give_back(values, kept.reshape(-1, *[1] * (values.ndim - 1)))
    return values


def _image(dataset: xr.Dataset, values: NDArray[Any]) -> NDArray[Any] | None:
    """The first image (colour, row, column) of signals (signal, ...); None if they are no images."""
    if values.ndim == 4 and values.shape[1] in (1, 3):
        return values[0]
    if "patch_row" not in dataset.coords:
        return None
    images = dataset["patch_image"].to_numpy()
    first = images == images[0]
    row, column = (dataset[name].to_numpy()[first] for name in ("patch_row", "patch_column"))
    return assemble(values[first], row, column, int(dataset.attrs["patch_size"]))


def patch_shape(dataset: xr.Dataset) -> tuple[int, ...] | None:
    """The shape (colour, row, column) of each signal; None if the signals are no patches."""
    size = dataset.attrs.get("patch_size")
    return None if size is None else (int(dataset.attrs["patch_colours"]), int(size), int(size))


def mosaic(images: NDArray[Any]) -> NDArray[Any]:
    """Put tiles (tile, colour, row, column) side by side, with gaps. Each is scaled by its largest magnitude."""
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
