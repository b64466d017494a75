"""A stimulus behind an aperture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.composite import Composite

__all__ = ["Masked"]


class Masked(Composite):
    """x(t) = background + mask (signal - background): the stimulus where the mask is one, background where it is zero.

    Args:
        stimulus: what is shown.
        mask: the aperture, of the trailing dimensions of the stimulus, such as `Screen.disc` makes.
        background: what is shown outside, a number.
    """

    def __init__(self, stimulus: Stimulus, mask: Float[Tensor, "*event"], background: float = 0.0) -> None:
        _checks.floating_tensor("mask", mask)
        super().__init__((stimulus,), (mask.to(stimulus.device, stimulus.dtype),))
        if mask.ndim and stimulus.shape[-mask.ndim :] != tuple(mask.shape):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} and the stimulus {stimulus.shape}; a mask of its trailing "
                "dimensions is wanted"
            )
        self.background = float(_checks.number("background", background))

    @property
    def mask(self) -> Tensor:
        """The aperture."""
        return self.own[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        return self.background + self.mask * (values[0] - self.background)

    def size(self) -> Tensor:
        mask = self.mask.detach()
        return abs(self.background) * (1 - mask).abs() + torch.abs(mask) * self.parts[0].size()

    def stored(self) -> tuple[Tensor, ...]:
        return (self.mask, *super().stored())

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "background": self.background}
