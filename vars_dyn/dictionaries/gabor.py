"""Dictionaries of oriented templates: banks of Gabor functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks

__all__ = ["GaborBank", "colour_basis"]

#: An orthonormal basis of colour: luminance, red against green, yellow against blue.
_COLOURS = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 1.0, -2.0))


def colour_basis(colours: int) -> Float[Tensor, "k c"]:
    """An orthonormal basis of 1 or 3 colours, a direction a row: luminance, red against green, yellow against blue."""
    basis = torch.tensor(_COLOURS if colours == 3 else [[1.0]], dtype=torch.float64)
    return basis / basis.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class GaborBank:
    """Gabor functions over orientations, scales, phases and places, each of mean 0 and norm 1.

    The template of orientation k, scale s and phase p is exp(-|r|^2 / (2 sigma^2)) cos(2 pi r.n / wavelength + phase)
    with n at the angle pi k / orientations, wavelength = `wavelength` * 2^s pixels, sigma = 0.56 wavelength (an octave)
    and phase = pi p / phases: a simple cell's receptive field (Daugman, J. Opt. Soc. Am. A 2, 1160, 1985).

    Attributes:
        size: side of the square templates in pixels.
        orientations, scales, phases: the number of each.
        places: centres per side of a square grid over the template at the shortest wavelength. Each longer wavelength
            has half as many (rounded up), as in a pyramid. Use 1 for a convolution, which shifts the templates itself.
        wavelength: the shortest wavelength, in pixels (at least 2).
        colours: 1 for grey; 3 repeats the bank for luminance, red against green, and yellow against blue.

    Raises ValueError for counts below 1, another number of colours, or a wavelength that the pixels cannot show.
    """

    size: int
    orientations: int = 8
    scales: int = 2
    phases: int = 2
    places: int = 1
    wavelength: float = 4.0
    colours: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "orientations", "scales", "phases", "places"):
            _checks.count(name, getattr(self, name))
        _checks.number("wavelength", self.wavelength)
        if self.wavelength < 2:
            raise ValueError(
                f"wavelength is {self.wavelength}; at least 2 pixels are wanted, the shortest that a grid shows"
            )
        if self.colours not in (1, 3):
            raise ValueError(f"colours is {self.colours}; 1 or 3 is wanted")
        if self.size < 2:
            raise ValueError(f"size is {self.size}; at least 2 pixels are wanted")

    def kernels(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "m c size size"]:
        """The templates as images (templates, colours, size, size), for a convolutional dictionary."""
        bank = torch.cat([self._scale(scale) for scale in range(self.scales)])
        return torch.einsum("kc,mij->kmcij", colour_basis(self.colours), bank).flatten(0, 1).to(dtype)

    def _scale(self, scale: int) -> Tensor:
        """The grey templates of one scale, (templates, size, size)."""
        wavelength, places = self.wavelength * 2**scale, -(-self.places // 2**scale)
        grid = torch.arange(self.size, dtype=torch.float64)
        centres = (torch.arange(places, dtype=torch.float64) + 0.5) * self.size / places - 0.5
        angles = torch.pi * torch.arange(self.orientations, dtype=torch.float64) / self.orientations
        phases = torch.pi * torch.arange(self.phases, dtype=torch.float64) / self.phases
        mesh = torch.meshgrid(angles, phases, centres, centres, indexing="ij")
        angle, phase, row, column = (v.reshape(-1, 1, 1) for v in mesh)
        y, x = grid[:, None] - row, grid[None, :] - column
        envelope = torch.exp(-(x**2 + y**2) / (2 * (0.56 * wavelength) ** 2))
        wave = torch.cos(2 * torch.pi * (x * torch.cos(angle) + y * torch.sin(angle)) / wavelength + phase)
        gabor = envelope * wave
        gabor -= envelope * gabor.sum((-2, -1), keepdim=True) / envelope.sum((-2, -1), keepdim=True)
        norm = gabor.flatten(1).norm(dim=1)[:, None, None]
        if bool((norm < 1e-6).any()):
            raise ValueError(
                f"a template of wavelength {wavelength} vanishes on {self.size} x {self.size} pixels; "
                "a longer wavelength or a larger size is wanted"
            )
        return gabor / norm

    def weight(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "d m"]:
        """The templates as the columns of a matrix (colours * size * size, templates), for a dense dictionary."""
        return self.kernels(dtype).flatten(1).T.contiguous()
