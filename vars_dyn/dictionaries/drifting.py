"""Dictionaries of moving templates: Gabor functions that drift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.gabor import colour_basis

__all__ = ["DriftingGaborBank"]


@dataclass(frozen=True)
class DriftingGaborBank:
    """Gabor functions that drift across their envelope, over speeds, orientations, scales and phases.

    The template of orientation n, wavelength w, speed v and phase p is

        exp(-|r|^2 / (2 sigma^2) - t^2 / (2 s^2)) cos(2 pi (r.n - v t) / w + p)

    with sigma = 0.56 w and s a quarter of the number of frames: the receptive field of a simple cell that is selective
    for direction (Adelson and Bergen, J. Opt. Soc. Am. A 2, 284, 1985). Each has mean 0 and norm 1.

    Attributes:
        frames: the number of frames of a template.
        size: side of the square templates in pixels.
        speeds: speeds along n in pixels per frame, each 0 or above. One above 0 counts for both directions.
        orientations, scales, phases: the number of each, as in a `GaborBank`.
        wavelength: the shortest wavelength in pixels (at least 2).
        colours: 1 for grey; 3 repeats the bank for luminance, red against green, and yellow against blue.

    Raises ValueError for counts below 1, another number of colours, a wavelength that the pixels cannot show, or a
    speed that the frames cannot show: at most half a wavelength per frame.
    """

    frames: int
    size: int
    speeds: tuple[float, ...] = (0.0, 1.0)
    orientations: int = 4
    scales: int = 2
    phases: int = 2
    wavelength: float = 4.0
    colours: int = 1

    def __post_init__(self) -> None:
        for name in ("frames", "size", "orientations", "scales", "phases"):
            _checks.count(name, getattr(self, name))
        _checks.number("wavelength", self.wavelength)
        if self.wavelength < 2:
            raise ValueError(f"wavelength is {self.wavelength}; at least 2 pixels are wanted")
        if self.colours not in (1, 3):
            raise ValueError(f"colours is {self.colours}; 1 or 3 is wanted")
        limit = self.wavelength / 2
        for speed in self.speeds:
            if not 0 <= speed <= limit:
                raise ValueError(
                    f"a speed is {speed:g} pixels per frame; from 0 to {limit:g} is wanted, half the least wavelength"
                )
        if not self.speeds or len(set(self.speeds)) < len(self.speeds):
            raise ValueError(f"speeds are {self.speeds}; at least one, each once, is wanted")

    @property
    def count(self) -> int:
        """The number of templates."""
        ways = sum(2 if speed else 1 for speed in self.speeds)
        return self.colours * ways * self.orientations * self.scales * self.phases

    def kernels(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "m c frames size size"]:
        """The templates (templates, colours, frames, size, size), for a convolutional dictionary."""
        velocities = [way * speed for speed in self.speeds for way in ((1, -1) if speed else (1,))]
        bank = torch.stack(
            [
                self._template(
                    self.wavelength * 2**scale, math.pi * k / self.orientations, v, math.pi * p / self.phases
                )
                for scale in range(self.scales)
                for v in velocities
                for k in range(self.orientations)
                for p in range(self.phases)
            ]
        )
        return torch.einsum("kc,mtij->kmctij", colour_basis(self.colours), bank).flatten(0, 1).to(dtype)

    def _template(self, wavelength: float, angle: float, velocity: float, phase: float) -> Tensor:
        t = torch.arange(self.frames, dtype=torch.float64).reshape(-1, 1, 1) - (self.frames - 1) / 2
        place = torch.arange(self.size, dtype=torch.float64) - (self.size - 1) / 2
        y, x = place[None, :, None], place[None, None, :]
        envelope = torch.exp(-(x**2 + y**2) / (2 * (0.56 * wavelength) ** 2) - t**2 / (2 * (self.frames / 4) ** 2))
        way = x * math.cos(angle) + y * math.sin(angle) - velocity * t
        gabor = envelope * torch.cos(2 * math.pi * way / wavelength + phase)
        gabor = gabor - envelope * gabor.sum() / envelope.sum()
        norm = float(gabor.norm())
        if norm < 1e-6:
            raise ValueError(
                f"a template of wavelength {wavelength} vanishes on {self.size} x {self.size} pixels; "
                "a longer wavelength or a larger size is wanted"
            )
        return gabor / norm
