"""The largest eigenvalue of many Gram matrices: differentiable, or with its eigenvector by a power iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from vars_dyn.attention.autograd import plain_tensors

__all__ = ["largest_eigenpair", "largest_eigenvalue"]

#: Iterations between two checks, the most of them, and the residual wanted, in roundings of the eigenvalue.
_CHECK_EVERY, _MOST, _TOLERANCE = 5, 30, 200


def largest_eigenpair(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue (n,) of positive semi-definite matrices (n, d, d), and its unit eigenvector (n, d).

    A power iteration with Rayleigh quotient rho and residual r has an eigenvalue within |r| of rho. No other can be as
    large if 2 (rho - |r|)^2 > |G|_F^2, as the squares of all eigenvalues sum to |G|_F^2. Matrices for which that does
    not hold, or for which |r| stays above some hundred roundings of rho, are decomposed. Not differentiable. A matrix
    that is not finite gets NaN, and does not change the results of the others.
    """
    with torch.no_grad():
        size = gram.square().sum((-2, -1))
        broken = ~size.isfinite()
        image = gram.sum(-1)
        for count in range(1, _MOST + 1):
            vector = image / torch.linalg.vector_norm(image, dim=-1, keepdim=True)
            # A batched product with single columns takes several times as long.
            image = (gram * vector.unsqueeze(-2)).sum(-1)
            if count % _CHECK_EVERY:
                continue
            value = (vector * image).sum(-1)
            residual = torch.linalg.vector_norm(image - value.unsqueeze(-1) * vector, dim=-1)
            alone = 2 * (value - residual).clamp(min=0).square() > size
            found = alone & (residual <= _TOLERANCE * torch.finfo(gram.dtype).eps * value) | broken
            if bool(found.all()):
                return value, vector
            if not bool((alone | broken).all()):
                break
        values, vectors = torch.linalg.eigh(gram[~found])
        value[~found], vector[~found] = values[:, -1], vectors[..., -1]
        return value, vector


def largest_eigenvalue(gram: Tensor) -> Tensor:
    """The largest eigenvalue of symmetric matrices (*batch, d, d), of shape `batch`; differentiable three times.

    A matrix that is not finite gets NaN. LAPACK would refuse the whole batch for it.

    Torch's `eigvalsh` is differentiable once: its second derivative divides by the differences of all eigenvalues, and
    is NaN where any two are equal, as in a Gram matrix of low rank. Here only the differences from the largest count:
    with w the eigenvector to first order in G, w^T G w / |w|^2 is the eigenvalue to third order.
    """
    finite = gram.isfinite().all(-1).all(-1)
    gram = torch.where(finite[..., None, None], gram, 0.0)
    if plain_tensors(gram, device=gram.device.type) and not (torch.is_grad_enabled() and gram.requires_grad):
        return torch.where(finite, torch.linalg.eigvalsh(gram)[..., -1], torch.nan)
    values, vectors = torch.linalg.eigh(gram.detach())
    vector, apart = vectors[..., -1:], values[..., -1:] - values
    least = gram.shape[-1] * torch.finfo(gram.dtype).eps * values[..., -1:].abs()
    inverse = torch.where(apart > least, 1 / apart, 0.0).unsqueeze(-1)
    image = gram @ vector
    # dw = (L - G)^+ dG w
    moved = vector + vectors @ (inverse * (vectors.mT @ (image - image.detach())))
    ratio = (moved * (gram @ moved)).sum((-2, -1)) / moved.square().sum((-2, -1))
    return torch.where(finite, ratio, torch.nan)
