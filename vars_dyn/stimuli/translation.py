"""A picture that moves across the screen."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus

__all__ = ["Translation"]


class Translation(Stimulus):
    """A picture, such as a photograph, that moves at a constant velocity and enters again where it has left.

    Args:
        picture: (*any, height, width).
        velocity: in degrees per second, to the right and up.
        window: (height, width) of the part in the picture's middle that is seen, in pixels; None for all of it.
        pixels_per_degree: pixels in one degree of the visual field.
        tau_ms: the membrane time constant in milliseconds.

    Between whole pixels the picture is interpolated by its Fourier series, so that x is a smooth function of time. At
    shifts by whole pixels it is the picture itself, to rounding. Opposite edges of the picture meet.
    """

    event_dims = 2

    def __init__(
        self,
        picture: Float[Tensor, "*any height width"],
        *,
        velocity: tuple[float, float] = (0.0, 0.0),
        window: tuple[int, int] | None = None,
        pixels_per_degree: float = 8.0,
        tau_ms: float = 10.0,
    ) -> None:
        self.picture = _checks.floating_tensor("picture", picture)
        self.velocity = tuple(float(_checks.number("velocity", v)) for v in velocity)
        if len(self.velocity) != 2:
            raise ValueError(f"velocity is {velocity}; two numbers, to the right and up, are wanted")
        self.window = tuple(picture.shape[-2:]) if window is None else tuple(window)
        if any(not 0 < n <= m for n, m in zip(self.window, picture.shape[-2:], strict=True)):
            raise ValueError(f"window is {self.window}; a size within that of the picture is wanted")
        self.pixels_per_degree = float(_checks.number("pixels_per_degree", pixels_per_degree, positive=True))
        self.tau_ms = float(_checks.number("tau_ms", tau_ms, positive=True))

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.picture.shape[:-2], *self.window

    @property
    def moves(self) -> bool:
        return any(self.velocity)

    def _at(self, t: float) -> Tensor:
        height, width = self.picture.shape[-2:]
        (top, left), (h, w) = self._corner, self.window
        right, up = (v * self.seconds(t) * self.pixels_per_degree for v in self.velocity)
        seen = self.picture if not (right or up) else _shifted(self.picture, math.fmod(-up, height), right % width)
        return seen[..., top : top + h, left : left + w]

    @property
    def _corner(self) -> tuple[int, int]:
        height, width = self.picture.shape[-2:]
        return (height - self.window[0]) // 2, (width - self.window[1]) // 2

    def size(self) -> Tensor:
        largest = self.picture.detach().abs().flatten(-2).amax(-1)[..., None, None]
        return largest.expand(self.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.picture,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.picture,) = tensors

    def stored(self) -> tuple[Tensor, ...]:
        return (self.picture,)

    def parameters(self) -> dict[str, Any]:
        return {
            "stimulus": "Translation",
            "velocity": list(self.velocity),
            "window": list(self.window),
            "pixels_per_degree": self.pixels_per_degree,
            "tau_ms": self.tau_ms,
        }


def _shifted(picture: Tensor, down: float, right: float) -> Tensor:
    """The picture, moved by so many pixels, as a real function of them."""
    height, width = picture.shape[-2:]
    rows = torch.fft.fftfreq(height, dtype=picture.dtype, device=picture.device)
    columns = torch.fft.rfftfreq(width, dtype=picture.dtype, device=picture.device)
    turn_rows, turn_columns = _turn(rows, down), _turn(columns, right)
    spectrum = torch.fft.rfft2(picture) * turn_rows[:, None] * turn_columns
    return torch.fft.irfft2(spectrum, s=(height, width))


def _turn(frequency: Tensor, shift: float) -> Tensor:
    """exp(-2 pi i f shift); its real part at the highest frequency, where both signs of f are the same."""
    angle = -2 * math.pi * shift * frequency
    imaginary = torch.where(frequency.abs() == 0.5, torch.zeros_like(angle), torch.sin(angle))
    return torch.complex(torch.cos(angle), imaginary)
