"""Fit Gabor functions to atoms learned from photographs, and draw them beside the fits' orientations and frequencies.

python -m vars_dyn.learn --steps 1000 --out natural
python docs/examples/natural_atoms.py natural/dictionary.safetensors natural-atoms.png
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy.optimize import least_squares

from vars_dyn.learning import load_dictionary
from vars_dyn.plotting.pictures import mosaic
from vars_dyn.plotting.style import BLUE, bare_axes, tidy_axes

#: The share of an atom's variance that a Gabor function must explain to count as its fit.
GOOD = 0.7


def gabor(parameters: np.ndarray, side: int) -> np.ndarray:
    """A Gabor function on a square grid.

    The parameters are the centre (row, column), the angle of the wave vector, the frequency in cycles a pixel, and the
    logarithms of the envelope's widths along and across the wave vector. The two phases, cosine and sine, are returned
    one above the other, since the amplitudes enter linearly.
    """
    row, column, angle, frequency, along, across = parameters
    y, x = np.mgrid[:side, :side] - np.array([row, column])[:, None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    envelope = np.exp(-((u / np.exp(along)) ** 2 + (v / np.exp(across)) ** 2) / 2)
    wave = 2 * np.pi * frequency * u
    return np.stack([envelope * np.cos(wave), envelope * np.sin(wave)]).reshape(2, -1)


def fit(atom: np.ndarray) -> dict[str, float]:
    """The Gabor function nearest to an atom (side, side), from the peaks of its spectrum and several widths."""
    side, target = len(atom), atom.reshape(-1)

    def parts(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        basis = gabor(parameters, side)
        gram = basis @ basis.T + 1e-12 * np.eye(2)
        weights = np.linalg.solve(gram, basis @ target)
        return target - weights @ basis, weights

    y, x = np.mgrid[:side, :side]
    energy = atom**2 / (atom**2).sum()
    centre = [float((energy * y).sum()), float((energy * x).sum())]
    size = 32
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(atom, (size, size))))
    spectrum[: size // 2] = 0.0  # the other half repeats it
    low = np.array([-1.0, -1.0, -4.0, 0.01, math.log(0.5), math.log(0.5)])
    high = np.array([side, side, 8.0, 0.5 * math.sqrt(2), math.log(2.0 * side), math.log(2.0 * side)])
    best: Any = None
    for _ in range(2):
        row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
        down, across = (row - size // 2) / size, (column - size // 2) / size
        frequency = min(max(math.hypot(down, across), 0.03), 0.6)
        for width in (1.5, 3.0):
            start = np.array([*centre, math.atan2(down, across), frequency, math.log(width), math.log(width)])
            start = np.clip(start, low + 1e-6, high - 1e-6)
            found = least_squares(lambda p: parts(p)[0], start, bounds=(low, high), max_nfev=60)
            if best is None or found.cost < best.cost:
                best = found
        if 1 - 2 * best.cost / (target**2).sum() > 0.9:
            break
        around = np.hypot(*(np.mgrid[:size, :size] - np.array([row, column])[:, None, None]))
        spectrum[around < 4] = 0.0
    residual, weights = parts(best.x)
    r2 = 1 - float((residual**2).sum() / ((target - target.mean()) ** 2).sum())
    row, column, angle, frequency, along, across = best.x
    # The wave's crests run at right angles to the wave vector; 0 degrees are horizontal crests.
    orientation = math.degrees(angle + math.pi / 2) % 180
    half = math.sqrt(2 * math.log(2)) / (2 * math.pi * math.exp(along))
    octaves = math.log2((frequency + half) / (frequency - half)) if half < frequency else math.inf
    return {
        "r2": r2,
        "orientation": orientation,
        "frequency": float(frequency),
        "octaves": octaves,
        "phase": math.degrees(math.atan2(-weights[1], weights[0])) % 360,
        "aspect": float(math.exp(across - along)),
        "row": float(row),
        "column": float(column),
    }


def measured(fits: list[dict[str, float]]) -> dict[str, Any]:
    """The numbers that the page reports, of the atoms that a Gabor function fits."""
    good = [each for each in fits if each["r2"] >= GOOD]
    octaves = np.array([each["octaves"] for each in good])
    frequency = np.array([each["frequency"] for each in good])
    orientation = np.array([each["orientation"] for each in good])
    quarters = np.histogram((orientation + 22.5) % 180, bins=4, range=(0, 180))[0]
    return {
        "atoms": len(fits),
        "fitted": len(good) / len(fits),
        "median_r2": float(np.median([each["r2"] for each in fits])),
        "median_frequency": float(np.median(frequency)),
        "frequency_5_95": [float(q) for q in np.quantile(frequency, [0.05, 0.95])],
        "median_octaves": float(np.median(octaves[np.isfinite(octaves)])),
        "low_pass": int((~np.isfinite(octaves)).sum()),
        "median_aspect": float(np.median([each["aspect"] for each in good])),
        "orientation_0_45_90_135": quarters.tolist(),
    }


def draw(atoms: np.ndarray, fits: list[dict[str, float]], path: Path) -> None:
    """The atoms, worst fit last, and the orientations and frequencies of those that are fitted."""
    order = np.argsort([-each["r2"] for each in fits])
    good = [each for each in fits if each["r2"] >= GOOD]
    figure = Figure(figsize=(11.5, 6.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3)
    ax = figure.add_subplot(grid[:, :2])
    ax.imshow(mosaic(atoms[order][:, None]), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    bare_axes(ax)
    ax.set_title(f"{len(atoms)} atoms, the best fitted first", fontsize=10)
    ax = figure.add_subplot(grid[0, 2])
    ax.hist([each["orientation"] for each in good], bins=18, range=(0, 180), color=BLUE)
    ax.set_xlabel("orientation (degrees, 0 is horizontal)")
    ax.set_xticks([0, 45, 90, 135, 180])
    ax.set_ylabel("atoms")
    tidy_axes(ax)
    ax = figure.add_subplot(grid[1, 2])
    octaves = [min(each["octaves"], 6.0) for each in good]
    ax.scatter([max(each["frequency"], 0.031) for each in good], octaves, s=8, color=BLUE)
    ax.set_xscale("log")
    ax.set_xlim(0.03, 0.5)
    ax.set_xticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
    ax.minorticks_off()
    ax.set_xlabel("frequency (cycles a pixel)")
    ax.set_ylabel("bandwidth (octaves; 6 is low-pass)")
    tidy_axes(ax)
    figure.savefig(path, dpi=110)


def main() -> None:
    source, path = Path(sys.argv[1]), Path(sys.argv[2])
    (weight,) = load_dictionary(source).tensors()
    side = math.isqrt(weight.shape[0])
    atoms = weight.T.reshape(-1, side, side).numpy()
    fits = [fit(atom) for atom in atoms]
    draw(atoms, fits, path)
    print(json.dumps(measured(fits)))


if __name__ == "__main__":
    main()
