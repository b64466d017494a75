"""What each panel of the viewer shows, as plain arrays: pictures at one time, and curves over all times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from vars_dyn.plotting.pictures import frame_of, is_sound, mosaic, patch_shape, restored
from vars_dyn.view.arrays import extent, picture, shrunk, stretched, thinned
from vars_dyn.view.reading import Recorded

__all__ = ["COLOURS", "LINES", "Chosen", "Panel", "Panels", "Payload"]

#: The data of panels by name: columns by name, as a plot takes them.
Payload = dict[str, dict[str, Any]]

#: Colours of lines. Each has a contrast of at least 3 to 1 with white, and differs from its neighbours in lightness.
COLOURS = ("#1f5fa8", "#c2560f", "#2e7d32", "#7b1fa2", "#b71c1c", "#00796b", "#5d4037", "#37474f")
_INK = "#222222"
#: Neurons whose curves are drawn unless others are chosen.
LINES = 8
#: The most atoms shown as most active, tiles in a line of them, and marks of a code or a signal that is no image.
_ATOMS, _ACROSS, _MARKS = 12, 4, 1000


@dataclass(frozen=True)
class Panel:
    """A panel: its name, its title, what is drawn in it, and the labels of its axes.

    `kind` is image, line, bars, tiles or curves. `signed` pictures have a scale whose middle is zero.
    """

    name: str
    title: str
    kind: str
    x_label: str = ""
    y_label: str = ""
    signed: bool = False
    log: bool = False


class Chosen(NamedTuple):
    """What a viewer has chosen: a signal, and perhaps places of atoms and neurons, a layer and a template."""

    signal: int = 0
    atoms: tuple[int, ...] = ()
    neurons: tuple[int, ...] = ()
    layer: int | None = None
    template: int | None = None


class Panels:
    """The panels of a run.

    Args:
        run: the run.
        pixels: the most rows and columns of a picture.
    """

    def __init__(self, run: Recorded, pixels: int = 512) -> None:
        self.run, self.pixels = run, pixels
        data = run.dataset
        members, few, _ = self._members(0)
        image = frame_of(few, run.input_at(0)[members]) is not None
        kind, along = ("image", "") if image else ("line", "sample" if is_sound(data) else "neuron")
        value = "" if image else "value"
        self._image = image
        known = run.rebuilds or "reconstruction_end" in data
        later = "" if run.rebuilds else " (known at the end only)"
        spec = [Panel("input", "input x", kind, along, value)]
        if known:
            spec += [
                Panel("reconstruction", f"reconstruction{later}", kind, along, value),
                Panel("residual", f"residual{later}", kind, along, value, signed=True),
            ]
        self.templates = int(data["code"].sizes["channel"]) if "code" in data and "channel" in data["code"].dims else 0
        self._mapped = "code" in data and run.is_whole("code") and data["code"].ndim > 3
        if self._mapped:
            across = data["code"].ndim > 4 or not self.templates
            title = "code, sum of |a| over templates" if across and self.templates else "code a"
            labels = ("", "") if across else ("place", "template")
            spec.append(Panel("code", title, "image", *labels, signed=not (across and self.templates)))
        elif "code" in data:
            spec.append(Panel("code", "code a", "bars", "atom", "output a"))
        self._tiles = self._tile_images() if "code" in data and run.is_whole("code") else None
        if self._tiles is not None:
            spec.append(Panel("atoms", "most active atoms", "tiles"))
        elif "code" in data:
            spec.append(Panel("atoms", "most active atoms", "bars", "rank", "output a"))
        unit = run.unit
        if "u" in data:
            spec.append(Panel("u", "encoding neurons u", "curves", unit, "potential u (dimensionless)"))
        if "z" in data:
            spec.append(Panel("z", "neurons z", "curves", unit, "potential z (dimensionless)"))
        if "relative_gap" in data or "lyapunov" in data:
            spec.append(Panel("gap", "convergence", "curves", unit, "relative to |x|²/2", log=True))
        if "active" in data:
            spec.append(Panel("active", "active atoms", "curves", unit, "number of atoms"))
        self.panels = spec

    def _tile_images(self) -> NDArray[Any] | None:
        """The atoms as images (atom, colour, row, column); None if they are none."""
        data = self.run.dataset
        if "dictionary" not in data:
            return None
        weight = data["dictionary"]
        if weight.dims[0] == "channel":
            return weight.to_numpy() if weight.ndim == 4 and weight.shape[1] in (1, 3) else None
        shape = patch_shape(data)
        if shape is None or weight.ndim != 2 or weight.shape[0] != math.prod(shape):
            return None
        return weight.to_numpy().T.reshape(-1, *shape)

    def _members(self, signal: int) -> tuple[NDArray[np.int64], xr.Dataset, int]:
        """The signals of the picture that a signal is part of, their part of the dataset, and its place among them."""
        data = self.run.few
        if "patch_image" not in data.coords:
            return np.array([signal]), data.isel(signal=[signal]), 0
        image = data["patch_image"].to_numpy()
        members = np.flatnonzero(image == image[signal])
        return members, data.isel(signal=members), int(np.flatnonzero(members == signal)[0])

    def frame(self, chosen: Chosen, index: int) -> Payload:
        """What the panels of one time show at the recorded time `index`."""
        run = self.run
        members, few, mine = self._members(chosen.signal)
        x, rebuilt = run.input_at(index)[members], run.rebuilt_at(index, members)
        found = {"input": self._signal(few, restored(few, x), mine)}
        if any(panel.name == "residual" for panel in self.panels):
            whole = None if rebuilt is None else restored(few, rebuilt)
            found["reconstruction"] = self._signal(few, whole, mine)
            found["residual"] = self._signal(few, None if rebuilt is None else x - rebuilt, mine)
        if "code" in run.dataset:
            code = run.at("code", index)[chosen.signal]
            found |= self._code(code, chosen)
        found["patch"] = self._patch(few, mine)
        return found

    def _signal(self, few: xr.Dataset, values: NDArray[Any] | None, mine: int) -> dict[str, Any]:
        if self._image:
            image = None if values is None else frame_of(few, values)
            return picture(np.full((1, 1), np.nan) if image is None else shrunk(image, self.pixels))
        if values is None:
            return {"x": [], "y": []}
        places, kept = thinned(values[mine].ravel(), _MARKS)
        return {"x": places, "y": kept}

    def _patch(self, few: xr.Dataset, mine: int) -> dict[str, Any]:
        """Where the chosen patch lies in its image, as shares of its width and height."""
        if "patch_row" not in few.coords or not self._image:
            return {"x": [], "y": [], "w": [], "h": []}
        size = int(few.attrs["patch_size"])
        rows, columns = (k - k.min() for k in (few["patch_row"].to_numpy(), few["patch_column"].to_numpy()))
        height, width = (int(k.max()) + size for k in (rows, columns))
        scale = max(1, -(-max(height, width) // self.pixels))
        row, column = int(rows[mine]), int(columns[mine])
        across = (column + size / 2) / scale
        up = (-(-height // scale)) - (row + size / 2) / scale
        return {"x": [across], "y": [up], "w": [size / scale], "h": [size / scale]}

    def _code(self, code: NDArray[Any], chosen: Chosen) -> Payload:
        layers, numbers = self.run.layer_of("code"), self.run.numbers("code")
        found: Payload = {}
        if self._mapped:
            found["code"] = picture(shrunk(self._map(code, chosen.template), self.pixels))
            size = np.abs(code).reshape(len(code), -1).sum(axis=1) if self.templates else np.abs(code).ravel()
            values, numbers = size, np.arange(len(size))
        else:
            values = code.ravel()
            if chosen.layer is not None and layers is not None:
                values, numbers = values[layers == chosen.layer], numbers[layers == chosen.layer]
            places, kept = thinned(values, _MARKS)
            places, kept = places[kept != 0], kept[kept != 0]
            found["code"] = {"x": numbers[places], "y": kept, "zero": np.zeros(len(kept))}
        size = np.nan_to_num(np.abs(values.astype(np.float64)))
        order = np.argsort(-size, kind="stable")[:_ATOMS]
        order = order[size[order] > 0]
        texts = [f"{numbers[k]}: {values[k]:.3g}" for k in order]
        if self._tiles is None:
            found["atoms"] = {"x": np.arange(1, len(order) + 1), "y": values[order], "zero": np.zeros(len(order))}
            found["atom_names"] = {"x": np.arange(1, len(order) + 1), "y": values[order], "text": texts}
            return found
        blank = np.zeros((_ATOMS, *self._tiles.shape[1:]))
        blank[: len(order)] = self._tiles[numbers[order]]
        drawn = mosaic(blank.mean(axis=1, keepdims=True), across=_ACROSS)
        empty = np.arange(_ATOMS) >= len(order)
        height, width = (n / (-(-_ATOMS // _ACROSS) if k == 0 else _ACROSS) for k, n in enumerate(drawn.shape))
        found["atoms"] = picture(_without(drawn, empty))
        place = np.arange(len(order))
        found["atom_names"] = {
            "x": (place % _ACROSS) * width + 0.5 * width,
            "y": drawn.shape[0] - (place // _ACROSS + 1) * height,
            "text": texts,
        }
        return found

    def _map(self, code: NDArray[Any], template: int | None) -> NDArray[Any]:
        if not self.templates or code.ndim == 2:
            return code
        if template is not None:
            one = code[template]
            return one if one.ndim == 2 else np.abs(one).sum(axis=0)
        return np.abs(code).sum(axis=tuple(range(code.ndim - 2)))

    def limits(self, chosen: Chosen) -> dict[str, tuple[float, float]]:
        """The least and the largest number of each picture's scale, which hold for all times."""
        run, last = self.run, len(self.run.times) - 1
        first, end = self.frame(chosen, 0), self.frame(chosen, last)
        found: dict[str, tuple[float, float]] = {}
        for panel in self.panels:
            if panel.kind != "image":
                continue
            low, high = extent([first[panel.name]["image"][0], end[panel.name]["image"][0]])
            if panel.name == "reconstruction":
                low, high = found["input"]
            if panel.name == "residual":
                x = run.input_at(0)[self._members(chosen.signal)[0]]
                high = max(float(np.abs(x).max()), abs(low), abs(high)) or 1.0
            if panel.signed:
                high = max(abs(low), abs(high)) or 1.0
                low = -high
            elif panel.name == "code":
                low = 0.0
            found[panel.name] = (low, high if high > low else low + 1.0)
        return found

    def courses(self, chosen: Chosen) -> Payload:
        """The curves over time of the chosen signal."""
        run, signal = self.run, chosen.signal
        found: Payload = {}
        for name, places in (("u", chosen.atoms), ("z", chosen.neurons)):
            if name not in run.dataset:
                continue
            drawn = list(places) or run.largest(name, signal, LINES, chosen.layer if name == "u" else None)
            times, values = run.curves(name, signal, drawn)
            numbers = run.numbers(name)
            lines = [(f"{name} {numbers[place]}", values[:, k]) for k, place in enumerate(drawn)]
            found[name] = _curves(
                self.at(times), [*lines, *(self._threshold(signal, len(times)) if name == "u" else [])]
            )
        if any(panel.name == "gap" for panel in self.panels):
            found["gap"] = self._convergence(signal)
        if "active" in run.dataset:
            active = run.per_signal("active")
            lines = [(f"signal {signal}", active[:, signal])]
            if run.signals > 1:
                lines.append(("median of all", np.median(active, axis=1)))
            found["active"] = _curves(self.at(run.spread("active")), lines)
        return found

    def _threshold(self, signal: int, count: int) -> list[tuple[str, NDArray[Any]]]:
        known = self.run.facts
        if not isinstance(known.get("beta"), (int, float)) or known.get("threshold") not in ("soft", "nonnegative"):
            return []
        if "weights" in self.run.dataset or not known["beta"]:
            return []
        theta = float(self.run.dataset["lam"][signal]) / float(known["beta"])
        lines = [("threshold", np.full(count, theta))]
        return lines if known["threshold"] == "nonnegative" else [*lines, ("threshold", np.full(count, -theta))]

    def _convergence(self, signal: int) -> dict[str, Any]:
        run, lines = self.run, []
        times = run.spread("relative_gap" if "relative_gap" in run.dataset else "lyapunov")
        if "relative_gap" in run.dataset:
            gap = run.per_signal("relative_gap")
            gap = np.where(np.isfinite(gap), gap, np.nan)
            lines.append((f"gap of signal {signal}", gap[:, signal]))
            if run.signals > 1:
                lines.append(("largest gap", np.nanmax(gap, axis=1, initial=0.0)))
        if "lyapunov" in run.dataset and "x" not in run.dataset:
            v = run.dataset["lyapunov"][times].to_numpy()[:, signal]
            x = run.input_at(0)[signal]
            half = 0.5 * float((x.astype(np.float64) ** 2).sum()) or 1.0
            lines.append(("V - V(last)", (v - v[-1]) / half))
        return _curves(self.at(times), [(name, np.where(y > 0, y, np.nan)) for name, y in lines])

    def at(self, times: NDArray[np.int64]) -> NDArray[Any]:
        """Where recorded times lie on the time axis."""
        return stretched(self.run.times[times], self.run.unit)


def _curves(x: NDArray[Any], lines: list[tuple[str, NDArray[Any]]]) -> dict[str, Any]:
    shades = [_INK if name == "threshold" else COLOURS[k % len(COLOURS)] for k, (name, _) in enumerate(lines)]
    values = [np.where(np.isfinite(y), y, np.nan).astype(np.float64) for _, y in lines]
    return {"xs": [x for _ in lines], "ys": values, "name": [name for name, _ in lines], "colour": shades}


def _without(drawn: NDArray[Any], empty: NDArray[np.bool_]) -> NDArray[Any]:
    """The mosaic with nothing in the places of missing tiles, which `mosaic` fills with white."""
    height, width = (drawn.shape[0] + 1) / (-(-_ATOMS // _ACROSS)), (drawn.shape[1] + 1) / _ACROSS
    drawn = drawn.copy()
    for place in np.flatnonzero(empty):
        row, column = divmod(int(place), _ACROSS)
        drawn[round(row * height) : round((row + 1) * height), round(column * width) : round((column + 1) * width)] = (
            np.nan
        )
    return drawn
