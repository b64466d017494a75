"""A dictionary of full-size circular convolutions over one to three dimensions, applied in the Fourier domain."""

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

    `weight` has shape (M, C / groups, *n) with 1 to 3 dimensions n: every template is as large as the signal and may
    sit at every position, so signals are (*any, C, *n) and codes (*any, M, *n). `groups=C` makes it depth-wise. L is
    exact: the largest eigenvalue over all frequencies. Only float32 and float64 are taken, because of the FFT. Each map
    computes the templates' half-spectra, which take as many bytes as `weight`.
    Raises ValueError for another shape or dtype.

    Examples:
        >>> P = vd.FourierDictionary(torch.randn(5, 1, 8, 8, dtype=torch.float64))
        >>> P.signal_shape, P.code_shape
        ((1, 8, 8), (5, 8, 8))
    """

    def __init__(self, weight: Float[Tensor, "m c *n"] | _checks.Numbers, *, groups: int = 1) -> None:
        weight = _checks.floating_tensor("weight", weight)
        _checks.count("groups", groups)
        if weight.ndim not in (3, 4, 5) or not all(weight.shape) or weight.shape[0] % groups:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)} for {groups} groups; (M, C / groups, *n) with 1 to 3 "
                "dimensions n, none of them 0, with M divisible by groups is wanted"
            )
        self.groups = groups
        self._assign((weight,))

    @property
    def dimensions(self) -> int:
        """The number of dimensions that the templates move along, 1 to 3."""
        return len(self.signal_shape) - 1

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (weight,) = tensors
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"weight is {weight.dtype}; the Fourier transform wants torch.float32 or torch.float64")
        self.weight = weight
        m, c, *sides = weight.shape
        self.signal_shape, self.code_shape = (c * self.groups, *sides), (m, *sides)

    def _transformed(self, values: Tensor) -> Tensor:
        """The half-spectra of channels (*any, groups * n, *sides), as (*any, groups, n, frequencies)."""
        spectrum = torch.fft.rfftn(values, dim=self._axes).flatten(-self.dimensions)
        return spectrum.unflatten(-2, (self.groups, -1))

    def _restored(self, spectrum: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The channels (*any, *shape) with the half-spectra (*any, groups, n, frequencies)."""
        sides = shape[1:]
        grid = spectrum.reshape(*spectrum.shape[:-3], shape[0], *sides[:-1], sides[-1] // 2 + 1)
        return torch.fft.irfftn(grid, s=sides, dim=self._axes)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.dimensions, 0))

    def _spectrum(self) -> Tensor:
        """Half-spectra of the templates, (groups, M / groups, C / groups, frequencies)."""
        spectrum = torch.fft.rfftn(self.weight, dim=self._axes).flatten(-self.dimensions)
        return spectrum.unflatten(0, (self.groups, -1))

    def _encode(self, x: Tensor) -> Tensor:
        code = torch.einsum("gmcf,...gcf->...gmf", self._spectrum().conj(), self._transformed(x))
        return self._restored(code, self.code_shape)

    def _decode(self, a: Tensor) -> Tensor:
        signal = torch.einsum("gmcf,...gmf->...gcf", self._spectrum(), self._transformed(a))
        return self._restored(signal, self.signal_shape)

    def _rounding(self) -> Rounding:
        """The transform's errors are normwise, about 8 u for each of its levels (Higham 2002, Theorem 24.2).

        There are three transforms, each twice as long where Bluestein's method computes it. A spectrum's entries are at
        most sqrt(prod(n)) times the template's norm.
        """
        m, c, *sides = self.weight.shape
        size = math.prod(sides)
        norms = math.sqrt(size) * atom_norms(self.weight.detach(), tuple(range(1, self.weight.ndim)))
        terms = 64 * (math.ceil(math.log2(size)) + 2)
        return Rounding(norms.reshape(-1, *[1] * self.dimensions), terms + c, terms + m, sparse=False)

    def _lipschitz(self) -> Tensor:
        blocks = self._spectrum().permute(0, 3, 1, 2)
        tall = blocks if blocks.shape[-2] <= blocks.shape[-1] else blocks.mH
        top = largest_hermitian(tall @ tall.mH).max()
        return rounded_up(top, self.signal_size + self.code_shape[0])
