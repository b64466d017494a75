"""The cells of an experiment: the atoms of a dictionary, over square grey patches or movies, and their responses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

import vars_dyn as vd
from experiments.physiology.drawings import Place
from experiments.physiology.gabors import fit_gabor, gabor_table
from experiments.physiology.kept import Kept
from vars_dyn.dictionaries.gabor import GaborBank
from vars_dyn.simulate.inputs import real_array

__all__ = ["Bank", "MotionPopulation", "Population", "motion_population", "population"]

Array = NDArray[np.float64]


@dataclass
class Bank:
    """Which dictionary the cells are of.

    Attributes:
        dictionary: gabor, or a file (.npy, .safetensors, zarr) of an array (d, atoms), one grey square patch a column;
            for direction and temporal one movie of square frames a column, (frames, side, side) in row-major order.
        side: side of the patches of dictionary gabor, in pixels.
        orientations, scales, phases, places, wavelength: the bank of dictionary gabor; see
            `vars_dyn.dictionaries.gabor.GaborBank`.
        frames: frames of the movies that the atoms are, for direction and temporal. A file needs it; gabor has 6.
        drift: cycles a frame at which the waves of dictionary gabor drift, half of them one way and half the other.
    """

    dictionary: str = "gabor"
    side: int = 16
    orientations: int = 8
    scales: int = 2
    phases: int = 2
    places: int = 8
    wavelength: float = 4.0
    frames: int | None = None
    drift: float = 0.2


class _Cells:
    """Atoms of norm one, the weight lam of their sparse code, and what has been measured of them.

    Attributes:
        kept: where responses are kept, so that a run that is killed can go on; by default nowhere.
    """

    def __init__(self, weight: Array, lam: float, tol: float, kept: Kept | None) -> None:
        norms = np.linalg.norm(weight, axis=0)
        if not (norms > 0).all():
            raise ValueError(f"atom {int(norms.argmin())} is zero; atoms that are not are wanted")
        if not lam > 0 or not math.isfinite(lam):
            raise ValueError(f"lam is {lam}; a number above zero is wanted")
        self.lam, self.tol, self.kept = lam, tol, kept or Kept()
        self.dictionary = vd.DenseDictionary(torch.from_numpy(weight / norms))

    def _responses(self, signals: Array) -> Array:
        """The positive parts of the codes of signals (*any, d), (*any, atom)."""
        return self.kept.array("responses", signals, lambda: self._solved(signals))

    def _solved(self, signals: Array) -> Array:
        x = torch.from_numpy(np.ascontiguousarray(signals, dtype=np.float64))
        solution = vd.solve(vd.SparseProblem(self.dictionary, x, self.lam), tol=self.tol)
        if not bool(solution.converged.all()):
            raise ArithmeticError(
                f"a code has a relative gap of {float(solution.relative_gap.max()):g}, not {self.tol:g}"
            )
        return solution.code.clamp(min=0).numpy()


class Population(_Cells):
    """Cells with the atoms (d, atoms) as receptive fields, d = side^2, and the weight lam of their sparse code.

    Atoms are scaled to norm one. A cell's response to a picture is the positive part of its code at the equilibrium: an
    on cell's rate. The pictures' numbers are contrasts, so lam is in units of contrast times norm of an atom.
    """

    def __init__(self, weight: Array, lam: float, tol: float = 1e-6, kept: Kept | None = None) -> None:
        side = math.isqrt(weight.shape[0]) if weight.ndim == 2 else 0
        if side < 4 or side * side != weight.shape[0] or not weight.shape[1]:
            raise ValueError(
                f"the dictionary has shape {weight.shape}; (d, atoms) is wanted, d pixels of squares of side 4 or more"
            )
        super().__init__(weight, lam, tol, kept)
        self.side = side
        self._single: dict[int, Array] = {}

    @property
    def atoms(self) -> Array:
        """The receptive fields, (atom, side, side)."""
        return self.dictionary.weight.T.reshape(-1, self.side, self.side).numpy()

    @cached_property
    def fits(self) -> xr.Dataset:
        """Gabor functions fitted to all atoms."""
        atoms = tqdm(range(len(self.atoms)), desc="Gabor fits", unit="atom", disable=None)
        return gabor_table(np.array([self._fitted(k) for k in atoms]))

    def responses(self, pictures: Array) -> Array:
        """The responses of all cells to pictures (*any, side, side), (*any, atom).

        The relative gap of each code is at most `tol`; ArithmeticError where that was not reached.
        """
        flat = np.asarray(pictures, dtype=np.float64)
        return self._responses(flat.reshape(*flat.shape[:-2], -1))

    def cells(self, count: int, r_squared: float = 0.7, *, small: bool = True) -> list[int]:
        """The `count` cells nearest to the middle of the patch whose atoms are Gabor functions to `r_squared`.

        Their centres lie within a third of the side of the middle. `small` wants standard deviations of at most a
        quarter of the side, so that the patch has a surround. ValueError where there is none.
        """
        fits, side = self.fits, self.side
        far = np.hypot(fits.row - (side - 1) / 2, fits.column - (side - 1) / 2).values
        fine = (fits.r_squared.values >= r_squared) & (fits.frequency.values > 0.5 / side) & (far < side / 3)
        if small:
            fine &= np.maximum(fits.width, fits.length).values <= side / 4
        order = [int(k) for k in np.lexsort((np.arange(len(far)), far)) if fine[k]]
        if not order:
            raise ValueError("no atom is a small Gabor function near the middle of its patch; such atoms are wanted")
        return order[:count]

    def place(self, cell: int) -> Place:
        """The receptive field of a cell."""
        _, row, column, orientation, frequency, phase, _, _ = self._fit(cell)
        return Place(row, column, orientation, frequency, phase)

    def extent(self, cell: int) -> float:
        """The diameter of a cell's receptive field in pixels: four of its envelope's larger standard deviation."""
        return 4.0 * max(self._fit(cell)[-2:])

    def _fit(self, cell: int) -> list[float]:
        """The parameters of a cell's Gabor function."""
        return [float(value) for value in self._fitted(cell)[:-1]]

    def _fitted(self, cell: int) -> Array:
        """The parameters of a cell's Gabor function, and its R^2."""
        if cell not in self._single:
            atom = self.atoms[cell]
            self._single[cell] = self.kept.array("gabor", atom, lambda: np.append(*fit_gabor(atom)))
        return self._single[cell]


class MotionPopulation(_Cells):
    """Cells whose receptive fields are movies, atoms (d, atoms) with d = frames side^2, as in `Population` otherwise.

    A cell sees the last `frames` frames of a movie. Its response is the positive part of its code of these frames.
    """

    def __init__(self, weight: Array, frames: int, lam: float, tol: float = 1e-6, kept: Kept | None = None) -> None:
        if frames < 2:
            raise ValueError(f"frames is {frames}; movies of at least 2 frames are wanted")
        pixels = weight.shape[0] // frames if weight.ndim == 2 and weight.shape[0] % frames == 0 else 0
        side = math.isqrt(pixels)
        if side < 4 or side * side != pixels or not weight.shape[1]:
            raise ValueError(
                f"the dictionary has shape {weight.shape}; (d, atoms) is wanted, d the pixels of {frames} square "
                "frames of side 4 or more"
            )
        super().__init__(weight, lam, tol, kept)
        self.frames, self.side = frames, side

    @property
    def atoms(self) -> Array:
        """The receptive fields, (atom, frames, side, side)."""
        return self.dictionary.weight.T.reshape(-1, self.frames, self.side, self.side).numpy()

    def responses(self, movies: Array) -> Array:
        """The responses of all cells to movies (*any, frames, side, side), (*any, atom), as `Population.responses`."""
        flat = np.asarray(movies, dtype=np.float64)
        return self._responses(flat.reshape(*flat.shape[:-3], -1))


def population(bank: Bank, lam: float, kept: Kept | None = None) -> Population:
    """The cells of a dictionary; ValueError where it does not fit."""
    if bank.dictionary == "gabor":
        built = GaborBank(bank.side, bank.orientations, bank.scales, bank.phases, bank.places, bank.wavelength)
        return Population(built.weight().numpy(), lam, kept=kept)
    return Population(real_array(Path(bank.dictionary), "--dictionary"), lam, kept=kept)


def motion_population(bank: Bank, lam: float, kept: Kept | None = None) -> MotionPopulation:
    """The cells of a dictionary of movies; ValueError where it does not fit."""
    if bank.dictionary == "gabor":
        frames = 6 if bank.frames is None else bank.frames
        if frames < 2 or not bank.drift > 0:
            raise ValueError(f"frames is {frames} and drift {bank.drift}; 2 or more, and more than 0, are wanted")
        return MotionPopulation(_drifting(bank, frames), frames, lam, kept=kept)
    if bank.frames is None:
        raise ValueError("bank.frames is not given; the number of frames in an atom of the file is wanted")
    return MotionPopulation(real_array(Path(bank.dictionary), "--dictionary"), bank.frames, lam, kept=kept)


def _drifting(bank: Bank, frames: int) -> Array:
    """The Gabor functions of a bank whose waves drift under a still envelope, which is a Gaussian in time too."""
    pairs = []
    for scale in range(bank.scales):
        built = GaborBank(bank.side, bank.orientations, 1, 2, -(-bank.places // 2**scale), bank.wavelength * 2**scale)
        still = built.kernels().numpy().reshape(bank.orientations, 2, -1, bank.side**2)
        pairs.append(np.moveaxis(still, 1, 0).reshape(2, -1, bank.side**2))
    even, odd = np.concatenate(pairs, 1)  # the waves' phases are 0 and 90 degrees
    time = np.arange(frames) - (frames - 1) / 2
    turns = 2 * np.pi * bank.drift * time
    atoms = []
    for sign in (1.0, -1.0):
        for phase in np.pi * np.arange(bank.phases) / bank.phases:
            # cos(wave + phase - turns), from cos(wave) and cos(wave + 90 degrees) = -sin(wave)
            moved = (
                even[:, None] * np.cos(phase - sign * turns)[:, None]
                + odd[:, None] * np.sin(phase - sign * turns)[:, None]
            )
            atoms.append(moved * np.exp(-np.square(time) / (2 * (frames / 4) ** 2))[:, None])
    whole = np.concatenate(atoms).reshape(-1, frames * bank.side**2)
    return np.asarray((whole / np.linalg.norm(whole, axis=1, keepdims=True)).T)
