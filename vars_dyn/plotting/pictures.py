"""Signals and atoms as pictures: images put together from their patches, rows, and tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vars_dyn.images import assemble
from vars_dyn.plotting.style import bare_axes, colour_bar, palette, tidy_axes

__all__ = [
    "draw_signals",
    "film",
    "film_frames",
    "frame_of",
    "input_of",
    "is_movie",
    "is_sound",
    "mosaic",
    "patch_shape",
    "restored",
]

#: The most frames of a film strip.
_FILM = 6


def input_of(dataset: xr.Dataset) -> NDArray[Any]:
    """The input signals that the end of the run is compared with: those at the end, if they moved."""
    return dataset["x_end" if "x_end" in dataset else "signals"].to_numpy()


def frame_of(dataset: xr.Dataset, values: NDArray[Any]) -> NDArray[Any] | None:
    """The first image (row, column) of signals at one time, in grey; None if they are no images."""
    image = _image(dataset, values, 0)
    return None if image is None else image.mean(axis=0)


def draw_signals(
    ax: Axes,
    dataset: xr.Dataset,
    values: NDArray[Any],
    *,
    restore: bool,
    bar: bool = True,
    signal: int = 0,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw signals as a picture, a film strip, or a curve over the sound that they stand for.

    `restore` undoes the changes of mean and norm that were made before coding. `bar` says whether a colour bar may
    be drawn beside the axes. Of sounds and movies the one with the number `signal` is drawn. `limits` are the numbers
    that are black and white; by default the smallest and the largest of the input.
    """
    if restore:
        values = restored(dataset, values)
    if is_sound(dataset):
        _wave(ax, dataset, values[signal], signal if restore else None)
        return
    image = _image(dataset, values, signal)
    if image is None:
        shown = np.abs(limits) if limits is not None else np.abs(input_of(dataset) if restore else values)
        limit = float(shown.max()) or 1.0
        _rows(ax, values, limit=limit, bar=bar)
        return
    if restore:
        if limits is None:
            reference = _image(dataset, restored(dataset, input_of(dataset)), signal)
            limits = float(np.nanmin(reference)), float(np.nanmax(reference))  # type: ignore[arg-type]
        low, high = limits
        shown = np.clip((image - low) / ((high - low) or 1.0), 0.0, 1.0)
        if is_movie(dataset):
            shown = np.where(np.isnan(shown), 1.0, shown)
        ax.imshow(shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, -1), cmap="gray", vmin=0, vmax=1)
    else:
        flat = image.mean(axis=0)
        limit = float(np.nanmax(np.abs(flat))) or 1.0
        drawn = ax.imshow(flat, cmap="RdBu_r", vmin=-limit, vmax=limit)
        if bar:
            colour_bar(ax, drawn)
    bare_axes(ax)


def is_sound(dataset: xr.Dataset) -> bool:
    """Whether the signals are sounds, coded by convolution over time."""
    return "sample" in dataset["signals"].dims


def is_movie(dataset: xr.Dataset) -> bool:
    """Whether the signals are movies, coded by convolution over frames, rows and columns."""
    return "frame" in dataset["signals"].dims


def film_frames(count: int) -> list[int]:
    """The frames that a film strip shows, at most six, evenly spread from the first to the last."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, _FILM))})


def film(movie: NDArray[Any], frames: Sequence[int], *, across: int = 3) -> NDArray[Any]:
    """Frames of a movie (colour, frame, row, column) side by side, `across` in a line, gaps of NaN between them."""
    colours, _, height, width = movie.shape
    across = min(across, len(frames))
    gap = max(1, round(0.04 * max(height, width)))
    down = -(-len(frames) // across)
    canvas = np.full((colours, down * (height + gap) - gap, across * (width + gap) - gap), np.nan)
    for number, frame in enumerate(frames):
        top, left = (number // across) * (height + gap), (number % across) * (width + gap)
        canvas[:, top : top + height, left : left + width] = movie[:, frame]
    return canvas


def _wave(ax: Axes, dataset: xr.Dataset, values: NDArray[Any], behind: int | None) -> None:
    """Draw the channels of a sound, one below the other, over the input of the signal `behind`."""
    rate = dataset.attrs.get("sample_rate")
    time = np.arange(values.shape[-1]) * (1.0 if rate is None else 1000.0 / float(rate))
    x = dataset["signals"].to_numpy()
    limit = float(np.abs(restored(dataset, x) if behind is not None else values).max()) or 1.0
    lift = -2.1 * limit * np.arange(len(values))
    if behind is not None:
        ax.plot(time, (restored(dataset, x)[behind] + lift[:, None]).T, color=palette(ax).faint, linewidth=2.0)
    ax.plot(time, (values + lift[:, None]).T, color=palette(ax).blue, linewidth=0.7)
    ax.set_ylim(float(lift[-1]) - 1.1 * limit, 1.1 * limit)
    ax.set_xlim(0, float(time[-1]) or 1.0)
    ax.set_xlabel("sample" if rate is None else "ms")
    ax.set_ylabel("value" if len(values) == 1 else "channels, the first at the top")
    tidy_axes(ax)


def _rows(ax: Axes, values: NDArray[Any], *, limit: float, bar: bool) -> None:
    """Draw signals that are no images, one per row. Only the first 256 are drawn, since more rows would merge."""
    flat = values.reshape(len(values), -1)
    if len(flat) == 1:
        ax.plot(flat[0], color=palette(ax).blue, linewidth=1.0)
        ax.set_ylabel("value")
    else:
        drawn = ax.imshow(flat[:256], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        if bar:
            colour_bar(ax, drawn)
        ax.set_ylabel("signal")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("neuron")


def restored(dataset: xr.Dataset, values: NDArray[Any]) -> NDArray[Any]:
    """The values (signal, ...) with the norm and the mean that the signals had before coding."""
    for name, give_back in (("signal_norm", np.multiply), ("signal_mean", np.add)):
        if name in dataset.coords:
            kept = dataset[name].to_numpy()
            if name == "signal_norm":
                kept = np.where(kept > 0, kept, 1.0)
            values = give_back(values, kept.reshape(-1, *[1] * (values.ndim - 1)))
    return values


def _image(dataset: xr.Dataset, values: NDArray[Any], signal: int = 0) -> NDArray[Any] | None:
    """The first image (colour, row, column) of signals (signal, ...); None if they are no images."""
    if values.ndim == 4 and values.shape[1] in (1, 3):
        return values[0]
    if is_movie(dataset):
        return film(values[signal], film_frames(values.shape[2]))
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


def mosaic(images: NDArray[Any], across: int | None = None) -> NDArray[Any]:
    """Put tiles (tile, colour, row, column) side by side, with gaps. Each is scaled by its largest magnitude.

    There are `across` tiles in a line; by default the mosaic is about as wide as high in tiles.
    """
    count, colours, height, width = images.shape
    across = math.ceil(math.sqrt(count)) if across is None else across
    down = -(-count // across)
    gap = max(1, round(0.06 * max(height, width)))
    shape = (down * (height + gap) - gap, across * (width + gap) - gap)
    canvas = np.full((colours, *shape), np.nan if colours == 1 else 1.0)
    for number, image in enumerate(images):
        top, left = (number // across) * (height + gap), (number % across) * (width + gap)
        scaled = image / (float(np.nanmax(np.abs(image))) or 1.0)
        scaled = np.where(np.isnan(scaled), 1.0, scaled)  # the gaps of a film strip
        canvas[:, top : top + height, left : left + width] = scaled if colours == 1 else 0.5 + 0.5 * scaled
    return canvas[0] if colours == 1 else np.moveaxis(canvas, 0, -1)
