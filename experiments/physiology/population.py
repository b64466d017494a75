"""The cells of an experiment: the atoms of a dictionary over square grey patches, and their responses to pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

import vars_dyn as vd
from experiments.physiology.drawings import Place
from experiments.physiology.gabors import PARAMETERS, fit_gabor, fit_gabors
from vars_dyn.dictionaries.gabor import GaborBank
from vars_dyn.simulate.inputs import real_array

__all__ = ["Bank", "Population", "population"]

Array = NDArray[np.float64]


@dataclass
class Bank:
    """Which dictionary the cells are of.

    Attributes:
        dictionary: gabor, or a file (.npy, .safetensors, zarr) of an array (d, atoms), one grey square patch a column.
        side: side of the patches of dictionary gabor, in pixels.
        orientations, scales, phases, places, wavelength: the bank of dictionary gabor; see
            `vars_dyn.dictionaries.gabor.GaborBank`.
    """

    dictionary: str = "gabor"
    side: int = 16
    orientations: int = 8
    scales: int = 2
    phases: int = 2
    places: int = 8
    wavelength: float = 4.0


class Population:
    """Cells with the atoms (d, atoms) as receptive fields, d = side^2, and the weight lam of their sparse code.

    Atoms are scaled to norm one. A cell's response to a picture is the positive part of its code at the equilibrium: an
    on cell's rate. The pictures' numbers are contrasts, so lam is in units of contrast times norm of an atom.
    """

    def __init__(self, weight: Array, lam: float, tol: float = 1e-6) -> None:
        side = math.isqrt(weight.shape[0]) if weight.ndim == 2 else 0
        if side < 4 or side * side != weight.shape[0] or not weight.shape[1]:
            raise ValueError(
                f"the dictionary has shape {weight.shape}; (d, atoms) is wanted, d pixels of squares of side 4 or more"
            )
        norms = np.linalg.norm(weight, axis=0)
        if not (norms > 0).all():
            raise ValueError(f"atom {int(norms.argmin())} is zero; atoms that are not are wanted")
        if not lam > 0 or not math.isfinite(lam):
            raise ValueError(f"lam is {lam}; a number above zero is wanted")
        self.side, self.lam, self.tol = side, lam, tol
        self._single: dict[int, list[float]] = {}
        self.dictionary = vd.DenseDictionary(torch.from_numpy(weight / norms))

    @property
    def atoms(self) -> Array:
        """The receptive fields, (atom, side, side)."""
        return self.dictionary.weight.T.reshape(-1, self.side, self.side).numpy()

    @cached_property
    def fits(self) -> xr.Dataset:
        """Gabor functions fitted to all atoms."""
        return fit_gabors(self.atoms)

    def responses(self, pictures: Array) -> Array:
        """The responses of all cells to pictures (*any, side, side), (*any, atom).

        The relative gap of each code is at most `tol`; ArithmeticError where that was not reached.
        """
        x = torch.from_numpy(np.ascontiguousarray(pictures, dtype=np.float64)).flatten(-2)
        solution = vd.solve(vd.SparseProblem(self.dictionary, x, self.lam), tol=self.tol)
        if not bool(solution.converged.all()):
            raise ArithmeticError(
                f"a code has a relative gap of {float(solution.relative_gap.max()):g}, not {self.tol:g}"
            )
        return solution.code.clamp(min=0).numpy()

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
        """The parameters of a cell's Gabor function, without those of all others unless they are known."""
        if "fits" in self.__dict__:
            return [float(self.fits[name][cell]) for name in PARAMETERS]
        if cell not in self._single:
            self._single[cell] = [float(v) for v in fit_gabor(self.atoms[cell])[0]]
        return self._single[cell]


def population(bank: Bank, lam: float) -> Population:
    """The cells of a dictionary; ValueError where it does not fit."""
    if bank.dictionary == "gabor":
        built = GaborBank(bank.side, bank.orientations, bank.scales, bank.phases, bank.places, bank.wavelength)
        return Population(built.weight().numpy(), lam)
    return Population(real_array(Path(bank.dictionary), "--dictionary"), lam)
