"""The screen that spatial stimuli are shown on: its pixels in degrees of the visual field, and apertures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vars_dyn import _checks

__all__ = ["Screen"]


@dataclass(frozen=True)
class Screen:
    """A screen of square pixels. Positions are in degrees from its centre: to the right, and up.

    Attributes:
        height, width: its size in pixels.
        pixels_per_degree: pixels in one degree of the visual field.
        dtype: the dtype of the signals that are shown on it.
    """

    height: int
    width: int
    pixels_per_degree: float = 8.0
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        _checks.count("height", self.height)
        _checks.count("width", self.width)
        _checks.number("pixels_per_degree", self.pixels_per_degree, positive=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def grid(self) -> tuple[Tensor, Tensor]:
        """The positions of the pixels' centres in degrees, to the right and up, each (height, width), in float64."""
        right = (torch.arange(self.width, dtype=torch.float64) - (self.width - 1) / 2) / self.pixels_per_degree
        down = (torch.arange(self.height, dtype=torch.float64) - (self.height - 1) / 2) / self.pixels_per_degree
        return right.expand(self.height, -1), -down[:, None].expand(-1, self.width)

    def across(self, orientation: float) -> Tensor:
        """The position of every pixel at a right angle to stripes of this orientation, in degrees, in float64.

        The orientation is in degrees, anticlockwise from the horizontal. At 90, which stands for vertical stripes, the
        position grows to the right.
        """
        angle = math.radians(_checks.number("orientation", orientation))
        right, up = self.grid()
        return right * math.sin(angle) - up * math.cos(angle)

    def disc(self, radius: float, position: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """An aperture (height, width): one within `radius` degrees of the position, zero outside.

        The edge is one pixel wide. An infinite radius leaves the whole screen open.
        """
        if radius == math.inf:
            return torch.ones(self.shape, dtype=self.dtype)
        _checks.number("radius", radius, positive=True)
        inside = (radius - self._distance(position)) * self.pixels_per_degree
        return (inside + 0.5).clamp(0, 1).to(self.dtype)

    def annulus(self, inner: float, outer: float, position: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """An aperture (height, width): one between the radii `inner` and `outer`, in degrees, zero elsewhere."""
        if not 0 < inner < outer:
            raise ValueError(f"inner is {inner} and outer is {outer}; 0 < inner < outer is wanted")
        return self.disc(outer, position) - self.disc(inner, position)

    def gaussian(self, sigma: float, position: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """An aperture (height, width): exp(-distance^2 / (2 sigma^2)), sigma in degrees. It makes Gabor patches."""
        _checks.number("sigma", sigma, positive=True)
        return torch.exp(-0.5 * (self._distance(position) / sigma).square()).to(self.dtype)

    def _distance(self, position: tuple[float, float]) -> Tensor:
        right, up = self.grid()
        return torch.hypot(right - position[0], up - position[1])

    def parameters(self) -> dict[str, int | float]:
        """The screen's size, for the record."""
        return {"height": self.height, "width": self.width, "pixels_per_degree": self.pixels_per_degree}
