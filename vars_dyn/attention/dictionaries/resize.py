"""Trained static dictionaries and filters on another token grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["resize_half_spectrum", "resize_token_rows"]


def resize_half_spectrum(
    spectrum: Float[Tensor, "*lead h v complex"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "*lead h2 v2 complex"]:
    """Half-spectra (H, W // 2 + 1, real and imaginary part) of transfer functions, moved from an `old` to a `new` grid.

    Frequencies are counted in cycles per image. Those that both grids hold keep their value. Those that only the new
    grid holds are zero. The operator then acts on a band-limited image as before, and its norm does not grow.
    """
    if old == new:
        return spectrum
    rows = torch.fft.fftfreq(new[0], 1 / new[0], device=spectrum.device).round().long()
    columns = torch.arange(new[1] // 2 + 1, device=spectrum.device)
    kept = (rows.abs() <= old[0] // 2)[:, None] & (columns <= old[1] // 2)
    picked = spectrum[..., rows % old[0], :, :][..., columns.clamp(max=old[1] // 2), :]
    return torch.where(kept[..., None], picked, torch.zeros((), dtype=picked.dtype, device=picked.device))


def resize_token_rows(
    matrix: Float[Tensor, "*lead n m"], num_prefix_tokens: int, old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "*lead n2 m"]:
    """A tokens x atoms matrix whose grid rows are interpolated bicubically; its prefix rows are kept as they are."""
    if old == new:
        return matrix
    prefix, grid = matrix.split([num_prefix_tokens, old[0] * old[1]], dim=-2)
    images = grid.mT.reshape(1, -1, *old)
    resized = F.interpolate(images, size=new, mode="bicubic", align_corners=False, antialias=new < old)
    return torch.cat([prefix, resized.reshape(*grid.mT.shape[:-1], new[0] * new[1]).mT], dim=-2)
