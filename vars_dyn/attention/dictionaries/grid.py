"""Learned dictionaries on a token grid. Each channel has its own templates, and prefix tokens are further rows of P.

A signal is one channel over p prefix tokens and H x W image tokens. A code holds a map a_m over the grid for each of
T templates m. On the grid P is a convolution. At prefix token t, (P a)_t = sum_m R_tm mean(a_m). `encode` is the exact
adjoint.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.spectral import Eigenvalue, largest_eigenvalue
from vars_dyn.dictionaries.base import Rounding, rounded_up

__all__ = ["GridDictionary", "TokenConvDictionary", "TokenFourierDictionary"]


class GridDictionary(TokenDictionary):
    """Templates per channel on a grid, and rows R for prefix tokens. A subclass gives the maps on the grid.

    Args:
        kernel: templates of G channels, (G, T, ...).
        rows: R of shape (G, p, T), or None without prefix tokens.
        grid_size: (H, W).
        batch_shape: the channels, repeated for every image. Its product is a multiple of G, and batch element i has
            channel i mod G.

    Signals are (*batch_shape, n, p + H W) and codes (*batch_shape, n, T H W), template by template.
    """

    def __init__(
        self, kernel: Tensor, rows: Tensor | None, grid_size: tuple[int, int], batch_shape: tuple[int, ...]
    ) -> None:
        self.grid_size, self.batch_shape = grid_size, tuple(batch_shape)
        self._assign((kernel,) if rows is None else (kernel, rows))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.kernel,) if self.rows is None else (self.kernel, self.rows)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        self.kernel = tensors[0]
        self.rows = tensors[1] if len(tensors) > 1 else None
        self.num_prefix_tokens = 0 if self.rows is None else self.rows.shape[-2]
        self.channels, self.templates = self.kernel.shape[:2]
        self.signal_shape = (self.num_prefix_tokens + math.prod(self.grid_size),)
        self.code_shape = (self.templates * math.prod(self.grid_size),)

    @abstractmethod
    def _encode_grid(self, x: Tensor) -> Tensor:
        """(b, G, H, W) -> (b, G, T, H, W)."""

    @abstractmethod
    def _decode_grid(self, a: Tensor) -> Tensor:
        """(b, G, T, H, W) -> (b, G, H, W), the adjoint of `_encode_grid`."""

    @abstractmethod
    def _lipschitz_grid(self) -> Tensor:
        """The largest eigenvalue of the grid's Gram map per channel, (G,), or a bound on it; differentiable."""

    @abstractmethod
    def _row_sum_grid(self) -> Tensor:
        """A bound on max_i sum_j |G_ij| on the grid per channel and template, (G, T)."""

    def _by_channel(self, value: Tensor) -> Tensor:
        """(*batch_shape, n, size) -> (b, G, size)."""
        value = value.reshape(-1, self.channels, *value.shape[-2:])
        return value.transpose(1, 2).flatten(0, 1)

    def _by_element(self, value: Tensor, n: int) -> Tensor:
        """(b, G, size) -> (*batch_shape, n, size)."""
        value = value.unflatten(0, (-1, n)).transpose(1, 2)
        return value.reshape(*self.batch_shape, n, value.shape[-1])

    def _encode(self, x: Tensor) -> Tensor:
        n, p = x.shape[-2], self.num_prefix_tokens
        x = self._by_channel(x)
        a = self._encode_grid(x[..., p:].unflatten(-1, self.grid_size))
        if self.rows is not None:
            a = a + self._encode_prefix(x[..., :p])
        return self._by_element(a.flatten(2), n)

    def _decode(self, a: Tensor) -> Tensor:
        n = a.shape[-2]
        a = self._by_channel(a).unflatten(-1, (self.templates, *self.grid_size))
        x = self._decode_grid(a).flatten(2)
        if self.rows is not None:
            x = torch.cat([self._decode_prefix(a), x], -1)
        return self._by_element(x, n)

    def _encode_prefix(self, x: Tensor) -> Tensor:
        """R's share of P^T x for prefix tokens x (b, G, p): the same at every position, (b, G, T, 1, 1)."""
        return (torch.einsum("bgp,gpt->bgt", x, self.rows) / math.prod(self.grid_size))[..., None, None]

    def _decode_prefix(self, a: Tensor) -> Tensor:
        """R times the spatial mean of a (b, G, T, H, W): (b, G, p)."""
        return torch.einsum("bgt,gpt->bgp", a.mean((-2, -1)), self.rows)

    def per_element(self, value: Float[Tensor, " channels"]) -> Tensor:
        """One value per channel as one per batch element, of shape `batch_shape`."""
        return value.expand(math.prod(self.batch_shape) // self.channels, -1).reshape(self.batch_shape)

    def differentiable_lipschitz(self, largest: Eigenvalue = largest_eigenvalue) -> Tensor:
        """A tight bound on the largest eigenvalue of P^T P, of shape `batch_shape`; differentiable.

        It is the sum of the bounds for the grid and for the prefix rows: |P|^2 <= |P_grid|^2 + |R|^2 / (H W).
        """
        value = self._lipschitz_grid()
        if self.rows is not None:
            value = value + largest(self.rows.mT @ self.rows) / math.prod(self.grid_size)
        return self.per_element(value)

    def row_sum(self) -> Tensor:
        """A bound on max_i sum_j |G_ij| without eigenvalues, of shape `batch_shape`; differentiable."""
        value = self._row_sum_grid()
        if self.rows is not None:
            size = self.rows.abs()
            value = value + (size * size.sum(-1, keepdim=True)).sum(-2) / math.prod(self.grid_size)
        return self.per_element(value.amax(-1))

    def _lipschitz(self) -> Tensor:
        return rounded_up(self.differentiable_lipschitz(), self.signal_size + self.templates)

    def select(self, index: Tensor) -> Self:
        twin = copy.copy(self)
        twin.batch_shape = (len(index),)
        twin._assign(tuple(t[index % self.channels] for t in self.tensors()))
        return twin


class TokenConvDictionary(GridDictionary):
    """Small kernels. On the grid, P^T is the zero-padded depth-wise convolution with `kernel` (G, T, kh, kw).

    kh and kw are odd.
    """

    def _encode_grid(self, x: Tensor) -> Tensor:
        weight = self.kernel.flatten(0, 1).unsqueeze(1)
        padding = (self.kernel.shape[-2] // 2, self.kernel.shape[-1] // 2)
        return F.conv2d(x, weight, padding=padding, groups=self.channels).unflatten(1, (self.channels, self.templates))

    def _decode_grid(self, a: Tensor) -> Tensor:
        weight = self.kernel.flatten(0, 1).unsqueeze(1)
        padding = (self.kernel.shape[-2] // 2, self.kernel.shape[-1] // 2)
        return F.conv_transpose2d(a.flatten(1, 2), weight, padding=padding, groups=self.channels)

    def _lipschitz_grid(self) -> Tensor:
        # The zero-padded convolution is a restriction to the grid of the periodic one on a torus that has room
        # for the kernels. So the largest entry of the torus's power spectrum bounds L. The derivative needs only the
        # frequency of that entry.
        kh, kw = self.kernel.shape[-2:]
        down, across = self._frequencies()
        with torch.no_grad():
            lags = _turns(range(1 - kh, kh), range(1 - kw, kw), down, across)
            highest = (self._autocorrelation() @ lags.cos().to(self.kernel)).argmax(-1)
        turns = _turns(range(kh), range(kw), down, across)[:, highest]
        waves = torch.stack([turns.cos(), turns.sin()]).to(self.kernel).mT.unsqueeze(-1)
        return (self.kernel.flatten(-2) @ waves).square().sum((0, -2, -1))

    def _frequencies(self) -> tuple[Tensor, Tensor]:
        """Radians per row and per column of half of the torus's waves; the other half has the same power."""
        sides = [side + k - 1 for side, k in zip(self.grid_size, self.kernel.shape[-2:], strict=True)]
        whole, half = (
            torch.arange(count, dtype=torch.float64, device=self.kernel.device)
            for count in (sides[0], sides[1] // 2 + 1)
        )
        return 2 * math.pi * whole / sides[0], 2 * math.pi * half / sides[1]

    def _autocorrelation(self) -> Tensor:
        """The kernels' autocorrelation sum_p k(p) k(p + lag), summed over templates, (G, lags).

        Lags go down from 1 - kh, and for each of these across from 1 - kw.
        """
        (kh, kw), kernel = self.kernel.shape[-2:], self.kernel.flatten(-2)
        down, across = (torch.arange(k, device=kernel.device) for k in (kh, kw))
        rows = (down - down[:, None] + kh - 1)[:, None, :, None]
        columns = (across - across[:, None] + kw - 1)[None, :, None, :]
        found = kernel.new_zeros(len(kernel), (2 * kh - 1) * (2 * kw - 1))
        return found.index_add(1, (rows * (2 * kw - 1) + columns).flatten(), (kernel.mT @ kernel).flatten(1))

    def _row_sum_grid(self) -> Tensor:
        size = self.kernel.abs().sum((-2, -1))
        return size * size.sum(-1, keepdim=True)


def _turns(rows: range, columns: range, down: Tensor, across: Tensor) -> Tensor:
    """Phases in radians, (places, waves), at places `rows` x `columns`, of waves with frequencies `down` x `across`."""
    places = [torch.tensor(side, dtype=down.dtype, device=down.device) for side in (rows, columns)]
    by_row, by_column = torch.outer(places[0], down), torch.outer(places[1], across)
    return (by_row[:, None, :, None] + by_column[None, :, None, :]).flatten(2).flatten(0, 1)


class TokenFourierDictionary(GridDictionary):
    """Templates as large as the grid. P^T multiplies spectra by `kernel`, half-spectra (G, T, 1, H, W // 2 + 1, 2).

    The last dimension holds the real and the imaginary part. If half-spectra are not Hermitian in their DC and Nyquist
    columns, only their Hermitian part has an effect, because the inverse FFT ignores the rest.
    """

    def spectrum(self) -> Tensor:
        """The half-spectra, (G, T, H, W // 2 + 1), complex."""
        return torch.view_as_complex(self.kernel).squeeze(2)

    def _encode_grid(self, x: Tensor) -> Tensor:
        spectrum = self.spectrum() * torch.fft.rfft2(x).unsqueeze(2)
        return torch.fft.irfft2(spectrum, s=self.grid_size)

    def _decode_grid(self, a: Tensor) -> Tensor:
        spectrum = (self.spectrum().conj() * torch.fft.rfft2(a)).sum(2)
        return torch.fft.irfft2(spectrum, s=self.grid_size)

    def half_spectrum_gram(self, a: Tensor) -> Tensor:
        """The map that the released code uses in place of P^T P: on the grid, it multiplies by K conj(K) as stored.

        The two maps differ if the half-spectra K are not Hermitian in the DC and Nyquist columns.
        """
        n = a.shape[-2]
        code = self._by_channel(a).unflatten(-1, (self.templates, *self.grid_size))
        signal = (self.spectrum().conj() * torch.fft.rfft2(code)).sum(2, keepdim=True)
        gram = torch.fft.irfft2(self.spectrum() * signal, s=self.grid_size)
        if self.rows is not None:
            gram = gram + self._encode_prefix(self._decode_prefix(code))
        return self._by_element(gram.flatten(2), n)

    def half_spectrum_lipschitz(self) -> Float[Tensor, " channels"]:
        """For each channel, the largest eigenvalue over all frequencies of the blocks K conj(K) of that map."""
        return self.spectrum().abs().square().sum(1).flatten(1).amax(-1)

    def _hermitian_power(self) -> Tensor:
        """|K|^2 of the Hermitian parts of the half-spectra, summed over templates, (G, H, W // 2 + 1)."""
        kernels = torch.fft.irfft2(self.spectrum(), s=self.grid_size)
        return torch.view_as_real(torch.fft.rfft2(kernels)).square().sum((1, -1))

    def _lipschitz_grid(self) -> Tensor:
        return self._hermitian_power().flatten(1).amax(-1)

    def _rounding(self) -> Rounding:
        """As for a `FourierDictionary`. The spectra's largest entries bound the atoms' norms."""
        norms = self.spectrum().detach().abs().amax((-3, -2, -1))
        if self.rows is not None:
            norms = norms + torch.linalg.vector_norm(self.rows.detach(), dim=(-2, -1))
        terms = 64 * (math.ceil(math.log2(math.prod(self.grid_size))) + 2) + self.num_prefix_tokens
        return Rounding(self.per_element(norms)[..., None, None], terms, terms + self.templates, sparse=False)

    def _row_sum_grid(self) -> Tensor:
        size = torch.fft.irfft2(self.spectrum(), s=self.grid_size).abs().sum((-2, -1))
        return size * size.sum(-1, keepdim=True)
