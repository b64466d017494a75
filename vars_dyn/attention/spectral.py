"""The largest eigenvalue of many Gram matrices, either differentiable or with its eigenvector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vars_dyn.attention.autograd import plain_tensors

__all__ = ["Eigenvalue", "largest_eigenpair", "largest_eigenvalue", "power_iteration"]

#: A function of symmetric matrices (*batch, d, d) to their largest eigenvalues.
Eigenvalue = Callable[[Tensor], Tensor]

#: The number of iterations between two checks, the most iterations, and the residual at which the iteration may stop,
#: in units of the eigenvalue's rounding.
_CHECK_EVERY, _MOST, _TOLERANCE = 5, 30, 200
#: The least squared norm that a power iteration divides by.
_LEAST = 1e-30


def largest_eigenpair(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue (n,) of positive semi-definite matrices (n, d, d), and its unit eigenvector (n, d).

    It runs a power iteration. If that has Rayleigh quotient rho and residual r, an eigenvalue lies within |r| of rho.
    No other can be as large if 2 (rho - |r|)^2 > |G|_F^2, because the squares of all eigenvalues sum to |G|_F^2.
    Matrices for which this fails, or for which |r| stays above some hundred roundings of rho, are decomposed instead.

    The results are not differentiable. A matrix that is not finite gets NaN and does not change the others' results.
    """
    with torch.no_grad():
        size = gram.square().sum((-2, -1))
        broken = ~size.isfinite()
        image = gram.sum(-1)
        for count in range(1, _MOST + 1):
            vector = image / torch.linalg.vector_norm(image, dim=-1, keepdim=True)
            # A batched matrix product with single columns would take several times as long.
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

    A matrix that is not finite gets NaN. LAPACK would refuse the whole batch because of it.

    Torch's `eigvalsh` is differentiable only once. Its second derivative divides by the differences of all eigenvalues,
    so it is NaN if any two are equal, as in a Gram matrix of low rank. This function divides only by differences from
    the largest eigenvalue. If w is the eigenvector to first order in G, then w^T G w / |w|^2 is the eigenvalue to third
    order.
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


def power_iteration(gram: Tensor) -> Tensor:
    """The Rayleigh quotient (*batch) of positive semi-definite matrices (*batch, d, d) after 32 power iterations.

    It is made of products alone, so it can be exported and compiled, and it is differentiable. It starts at the sum of
    the columns and is never above the largest eigenvalue. It converges the faster the further the second one lies
    below. Gram matrices of random features have entries above zero only, and there it reaches rounding.
    """
    power = gram
    for _ in range(2):  # eight steps with G^4 are fewer operations than 32 with G
        power = power @ power
        power = power / power.square().sum((-2, -1), keepdim=True).clamp(min=_LEAST).sqrt()
    vector = gram.sum(-1, keepdim=True)
    for _ in range(8):
        vector = power @ (vector / vector.square().sum(-2, keepdim=True).clamp(min=_LEAST).sqrt())
    return (vector * (gram @ vector)).sum((-2, -1)) / vector.square().sum((-2, -1)).clamp(min=_LEAST)
