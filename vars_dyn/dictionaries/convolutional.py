"""A convolutional dictionary with small kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary, Rounding, atom_norms, largest_hermitian, rounded_up

__all__ = ["ConvDictionary"]


class ConvDictionary(Dictionary):
    """P^T is the zero-padded, strided convolution with `weight`, and P its exact adjoint, the transposed convolution.

    `weight` has shape (M, C / groups, kh, kw): M templates of kh x kw pixels. Signals are (*any, C, H, W) and codes
    (*any, M, H', W') with H' = (H + 2 padding - kh) // stride + 1. As in torch's convolutions, encoding is a
    cross-correlation, so an atom is a template laid down on the image. `groups=C` makes it depth-wise.
    Raises ValueError for a weight or signal shape that does not fit, or a kernel larger than the padded signal.
    """

    def __init__(
        self,
        weight: Float[Tensor, "m c kh kw"],
        signal_shape: tuple[int, int, int],
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        _checks.floating_tensor("weight", weight)
        if weight.ndim != 4 or not all(weight.shape):
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; (M, C / groups, kh, kw), none of them 0, is wanted"
            )
        _checks.count("stride", stride)
        _checks.count("padding", padding, least=0)
        _checks.count("groups", groups)
        m, c, kh, kw = weight.shape
        if len(signal_shape) != 3 or signal_shape[0] != c * groups or m % groups:
            raise ValueError(
                f"signal_shape is {tuple(signal_shape)} for a weight of shape {tuple(weight.shape)} in {groups} "
                f"groups; ({c * groups}, H, W) with M divisible by groups is wanted"
            )
        padded = tuple(n + 2 * padding for n in signal_shape[1:])
        if kh > padded[0] or kw > padded[1]:
            raise ValueError(f"the {kh} x {kw} kernel is larger than the padded signal of {padded[0]} x {padded[1]}")
        self.stride, self.padding, self.groups = stride, padding, groups
        self.signal_shape = (int(signal_shape[0]), int(signal_shape[1]), int(signal_shape[2]))
        self.code_shape = (m, (padded[0] - kh) // stride + 1, (padded[1] - kw) // stride + 1)
        self.weight = weight

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.weight,) = tensors

    def _encode(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, *self.signal_shape)
        a = F.conv2d(flat, self.weight, stride=self.stride, padding=self.padding, groups=self.groups)
        return a.reshape(*x.shape[:-3], *self.code_shape)

    def _decode(self, a: Tensor) -> Tensor:
        flat = a.reshape(-1, *self.code_shape)
        # Rows and columns that the strided kernel never reaches are zero, but must be part of the signal.
        rest = tuple(
            (n + 2 * self.padding - k) % self.stride
            for n, k in zip(self.signal_shape[1:], self.weight.shape[2:], strict=True)
        )
        x = F.conv_transpose2d(
            flat, self.weight, stride=self.stride, padding=self.padding, output_padding=rest, groups=self.groups
        )
        return x.reshape(*a.shape[:-3], *self.signal_shape)

    def _rounding(self) -> Rounding:
        m, c, kh, kw = self.weight.shape
        norms = atom_norms(self.weight.detach(), (1, 2, 3))[:, None, None]
        # The zeros of the padding add no rounding to the sums.
        return Rounding(norms, c * kh * kw, m * kh * kw, sparse=True)

    def _lipschitz(self) -> Tensor:
        """A proven bound, from the periodic convolution on a torus that holds the signal.

        On a torus whose sides are multiples of the stride and at least the padded signal's, the periodic convolution
        agrees with P^T on embedded signals, so its norm bounds |P^T|. It is block-diagonal under the Fourier transform
        of the stride's polyphase components, with one (M x C stride^2) block per coarse frequency.
        """
        s = self.stride
        sides = [
            -(-max(n + 2 * self.padding, k) // s) * s
            for n, k in zip(self.signal_shape[1:], self.weight.shape[2:], strict=True)
        ]
        m, c, kh, kw = self.weight.shape
        work = self.weight if self.weight.dtype in (torch.float32, torch.float64) else self.weight.float()
        kernel = F.pad(work, (0, sides[1] - kw, 0, sides[0] - kh))
        phases = kernel.reshape(self.groups, m // self.groups, c, sides[0] // s, s, sides[1] // s, s)
        spectrum = torch.fft.fft2(phases, dim=(-4, -2)).permute(0, 3, 5, 1, 2, 4, 6).flatten(-3)
        tall = spectrum if spectrum.shape[-2] <= spectrum.shape[-1] else spectrum.mH
        top = largest_hermitian(tall @ tall.mH).max()
        return rounded_up(top, sides[0] * sides[1] + m + c * s * s).to(self.weight.dtype)
