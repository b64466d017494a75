"""A dictionary of full-size circular convolutions, applied in the Fourier domain."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary, Rounding, atom_norms, largest_hermitian, rounded_up

__all__ = ["FourierDictionary"]


class FourierDictionary(Dictionary):
    """P a = sum over templates m of weight_m circularly convolved with a_m; P^T is the circular correlation.

    `weight` has shape (M, C / groups, H, W): every template is as large as the signal and may sit at every position, so
    signals are (*any, C, H, W) and codes (*any, M, H, W). `groups=C` makes it depth-wise. L is exact: the largest
    eigenvalue over all frequencies. Only float32 and float64 are taken, because of the FFT.
    Raises ValueError for another shape or dtype.
    """

    def __init__(self, weight: Float[Tensor, "m c h w"], *, groups: int = 1) -> None:
        _checks.floating_tensor("weight", weight)
        _checks.count("groups", groups)
        if weight.ndim != 4 or not all(weight.shape) or weight.shape[0] % groups:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)} for {groups} groups; "
                "(M, C / groups, H, W), none of them 0, with M divisible by groups is wanted"
            )
        self.groups = groups
        self._assign((weight,))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (weight,) = tensors
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"weight is {weight.dtype}; the Fourier transform wants torch.float32 or torch.float64")
        self.weight = weight
        m, c, h, w = weight.shape
        self.signal_shape, self.code_shape = (c * self.groups, h, w), (m, h, w)

    def _spectrum(self) -> Tensor:
        """Half-spectra of the templates, (groups, M / groups, C / groups, H, W // 2 + 1)."""
        m, c, h, w = self.weight.shape
        return torch.fft.rfft2(self.weight).reshape(self.groups, m // self.groups, c, h, w // 2 + 1)

    def _encode(self, x: Tensor) -> Tensor:
        c, h, w = self.signal_shape
        spectrum = torch.fft.rfft2(x).reshape(*x.shape[:-3], self.groups, c // self.groups, h, w // 2 + 1)
        code = torch.einsum("gmchw,...gchw->...gmhw", self._spectrum().conj(), spectrum)
        return torch.fft.irfft2(code, s=(h, w)).reshape(*x.shape[:-3], *self.code_shape)

    def _decode(self, a: Tensor) -> Tensor:
        m, h, w = self.code_shape
        spectrum = torch.fft.rfft2(a).reshape(*a.shape[:-3], self.groups, m // self.groups, h, w // 2 + 1)
        signal = torch.einsum("gmchw,...gmhw->...gchw", self._spectrum(), spectrum)
        return torch.fft.irfft2(signal, s=(h, w)).reshape(*a.shape[:-3], *self.signal_shape)

    def _rounding(self) -> Rounding:
        """The transform's errors are normwise, about 8 u for each of its levels (Higham 2002, Theorem 24.2).

        There are three transforms, each twice as long where Bluestein's method computes it. A spectrum's entries are at
        most sqrt(H W) times the template's norm.
        """
        m, c, h, w = self.weight.shape
        norms = math.sqrt(h * w) * atom_norms(self.weight.detach(), (1, 2, 3))[:, None, None]
        terms = 64 * (math.ceil(math.log2(h * w)) + 2)
        return Rounding(norms, terms + c, terms + m, sparse=False)

    def _lipschitz(self) -> Tensor:
        blocks = self._spectrum().permute(0, 3, 4, 1, 2)
        tall = blocks if blocks.shape[-2] <= blocks.shape[-1] else blocks.mH
        top = largest_hermitian(tall @ tall.mH).max()
        return rounded_up(top, self.signal_size + self.code_shape[0])
