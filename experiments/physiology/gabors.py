"""Gabor functions fitted to atoms, as to receptive fields (Jones and Palmer, J. Neurophysiol. 58, 1233, 1987)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import least_squares
from tqdm import tqdm

__all__ = ["PARAMETERS", "fit_gabor", "fit_gabors", "gabor", "gabor_table"]

Array = NDArray[np.float64]

#: The parameters in the order of `gabor`, with units and meanings. Lengths are in pixels here.
PARAMETERS = {
    "amplitude": ("1", "amplitude, above zero"),
    "row": ("pixel", "row of the centre"),
    "column": ("pixel", "column of the centre"),
    "orientation": ("degree", "angle of the wave vector from the columns' axis to the rows', in [0, 180)"),
    "frequency": ("1/pixel", "spatial frequency of the wave"),
    "phase": ("degree", "phase of the wave at the centre, in [0, 360)"),
    "width": ("pixel", "standard deviation of the envelope along the wave vector"),
    "length": ("pixel", "standard deviation of the envelope across the wave vector, along the stripes"),
}


def gabor(parameters: Array, shape: tuple[int, int]) -> Array:
    """A exp(-(s^2 / (2 width^2) + l^2 / (2 length^2))) cos(2 pi frequency s + phase) on a grid (rows, columns).

    s is the distance from the centre along the wave vector, l that across it. Parameters are those of `PARAMETERS`,
    with angles in degrees.
    """
    amplitude, row, column, orientation, frequency, phase, width, length = parameters
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    angle = np.deg2rad(orientation)
    along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
    across = -(x - column) * np.sin(angle) + (y - row) * np.cos(angle)
    envelope = np.exp(-(along**2) / (2 * width**2) - across**2 / (2 * length**2))
    return np.asarray(amplitude * envelope * np.cos(2 * np.pi * frequency * along + np.deg2rad(phase)))


def fit_gabor(atom: Array, starts: int = 3) -> tuple[Array, float]:
    """The Gabor function nearest to an atom (rows, columns), and its R^2, the share of the atom's energy it explains.

    Least squares start from the largest peaks of the Fourier spectrum, for frequency, orientation and phase, and from
    the energy's centre and spread. Frequencies go up to 0.71 cycles per pixel, the corner of the grid's spectrum; the
    envelope's widths from 0.4 pixels to twice the side; centres stay on the grid or within a quarter of the side of it.
    R^2 = 1 - |atom - gabor|^2 / |atom|^2, and no mean is taken off.
    """
    energy = float(np.square(atom).sum())
    if not energy > 0 or atom.ndim != 2:
        raise ValueError(f"an atom has shape {atom.shape} and energy {energy:g}; rows, columns and energy are wanted")
    scale = np.sqrt(energy)
    target, shape = atom / scale, (atom.shape[0], atom.shape[1])
    side = float(max(shape))
    free = np.inf
    #        cosine, sine, row, column, angle, frequency, log width, log length
    low = np.array([-20.0, -20.0, -side / 4, -side / 4, -free, 0.0, np.log(0.4), np.log(0.4)])
    high = np.array([20.0, 20.0, 1.25 * side, 1.25 * side, free, 0.71, np.log(2 * side), np.log(2 * side)])
    search = _Search(target)
    best, least = np.zeros(8), np.inf
    for start in _starts(target, starts):
        begin = np.clip(start, low + 1e-6, high - 1e-6)
        found = least_squares(search.residual, begin, search.jacobian, bounds=(low, high), max_nfev=80, ftol=1e-5)
        if found.cost < least:
            best, least = found.x, float(found.cost)
        if 2 * least < 1e-3:
            break
    return _canonical(best, scale), 1 - 2 * least


class _Search:
    """What least squares minimise: the Gabor function as a cosine and a sine part, and its derivatives.

    The parameters are the two amplitudes, row, column, the angle in radians, the frequency, and the logarithms of width
    and length.
    """

    def __init__(self, target: Array) -> None:
        self.target = target.ravel()
        grid = np.mgrid[: target.shape[0], : target.shape[1]].astype(np.float64)
        self.y, self.x = grid[0].ravel(), grid[1].ravel()

    def residual(self, p: Array) -> Array:
        along, across = self._places(p)
        wave = 2 * np.pi * p[5] * along
        return np.asarray(self._envelope(p, along, across) * (p[0] * np.cos(wave) + p[1] * np.sin(wave)) - self.target)

    def jacobian(self, p: Array) -> Array:
        along, across = self._places(p)
        wave, envelope = 2 * np.pi * p[5] * along, self._envelope(p, along, across)
        cosine, sine = envelope * np.cos(wave), envelope * np.sin(wave)
        value, turned = p[0] * cosine + p[1] * sine, p[1] * cosine - p[0] * sine
        narrow, thin = along / np.exp(2 * p[6]), across / np.exp(2 * p[7])
        by_along, by_across = 2 * np.pi * p[5] * turned - narrow * value, -thin * value
        c, s = np.cos(p[4]), np.sin(p[4])
        columns = [
            cosine,
            sine,
            -s * by_along - c * by_across,
            -c * by_along + s * by_across,
            across * by_along - along * by_across,
            2 * np.pi * along * turned,
            along * narrow * value,
            across * thin * value,
        ]
        return np.stack(columns, -1)

    def _places(self, p: Array) -> tuple[Array, Array]:
        x, y, c, s = self.x - p[3], self.y - p[2], np.cos(p[4]), np.sin(p[4])
        return x * c + y * s, y * c - x * s

    @staticmethod
    def _envelope(p: Array, along: Array, across: Array) -> Array:
        return np.asarray(np.exp(-0.5 * (along**2 * np.exp(-2 * p[6]) + across**2 * np.exp(-2 * p[7]))))


def fit_gabors(atoms: Array, starts: int = 3) -> xr.Dataset:
    """Fit each of the atoms (atom, rows, columns); the table of `gabor_table`.

    A progress bar is shown where the output is a terminal.
    """
    fits = [fit_gabor(atom, starts) for atom in tqdm(atoms, desc="Gabor fits", unit="atom", disable=None)]
    return gabor_table(np.array([np.append(*fit) for fit in fits]))


def gabor_table(fits: Array) -> xr.Dataset:
    """A table of fits (atom, parameters and R^2): `PARAMETERS`, `aspect`, `bandwidth` and `r_squared`.

    `aspect` is length over width. `bandwidth` is that of the Gabor function's amplitude spectrum at half its height, in
    octaves, log2((frequency + h) / (frequency - h)) with h = sqrt(2 log 2) / (2 pi width); NaN where h is not below the
    frequency.
    """
    table = fits.reshape(-1, len(PARAMETERS) + 1)
    columns = {
        name: ("atom", table[:, k], {"units": unit, "long_name": text})
        for k, (name, (unit, text)) in enumerate(PARAMETERS.items())
    }
    frequency, width, length = (table[:, k] for k in (4, 6, 7))
    half = np.sqrt(2 * np.log(2)) / (2 * np.pi * width)
    with np.errstate(invalid="ignore", divide="ignore"):
        octaves = np.where(half < frequency, np.log2((frequency + half) / (frequency - half)), np.nan)
    one = {"units": "1"}
    return xr.Dataset(
        columns
        | {
            "aspect": ("atom", length / width, one | {"long_name": "length of the envelope over its width"}),
            "bandwidth": ("atom", octaves, {"units": "octave", "long_name": "bandwidth of spatial frequency"}),
            "r_squared": ("atom", table[:, -1], one | {"long_name": "energy explained by the fit"}),
        },
        {"atom": np.arange(len(table))},
    )


def _canonical(p: Array, scale: float) -> Array:
    """The parameters that `gabor` takes, with an orientation in [0, 180) and a phase in [0, 360)."""
    amplitude, phase = scale * np.hypot(p[0], p[1]), np.arctan2(-p[1], p[0])
    turns = np.floor(p[4] / np.pi)
    phase = phase if turns % 2 == 0 else -phase
    orientation, phase = np.rad2deg(p[4] - np.pi * turns), np.rad2deg(phase) % 360.0
    # Rounding may give the end of an interval itself.
    if orientation >= 180.0:
        orientation, phase = 0.0, -phase % 360.0
    return np.array([amplitude, p[2], p[3], orientation, p[5], phase % 360.0, np.exp(p[6]), np.exp(p[7])])


def _starts(target: Array, count: int) -> list[Array]:
    rows, columns = target.shape
    power = np.square(target)
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    row, column = float((power * y).sum()), float((power * x).sum())  # the energy is one
    spread = float(np.sqrt(max(0.5 * (power * ((y - row) ** 2 + (x - column) ** 2)).sum(), 0.25)))
    size = (4 * rows, 4 * columns)
    spectrum = np.fft.fft2(target, size)
    fy, fx = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij")
    left = np.abs(spectrum) * ((fx > 0) | ((fx == 0) & (fy >= 0)))
    found = []
    for k in range(count):
        i = np.unravel_index(int(left.argmax()), size)
        frequency, angle = float(np.hypot(fy[i], fx[i])), float(np.arctan2(fy[i], fx[i]))
        phase = float(np.angle(spectrum[i] * np.exp(2j * np.pi * (fy[i] * row + fx[i] * column))))
        amplitude = 1.0 / (np.sqrt(np.pi / 2) * spread)
        # An envelope that fits the energy, then one with fewer stripes.
        wide = np.log(np.sqrt(2) * spread / (1.0 if k % 2 == 0 else 1.6))
        parts = [amplitude * np.cos(phase), -amplitude * np.sin(phase)]
        found.append(np.array([*parts, row, column, angle, max(frequency, 0.02), wide, np.log(np.sqrt(2) * spread)]))
        near = np.hypot(fy - fy[i], fx - fx[i]) < 1.5 / max(rows, columns)
        left = np.where(near, 0.0, left)
    return found
