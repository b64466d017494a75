"""The largest eigenvalue of many Gram matrices and its eigenvector, by power iterations that prove what they found."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest_eigenpair"]

#: Iterations between two checks, the most of them, and the residual wanted, in roundings of the eigenvalue.
_CHECK_EVERY, _MOST, _TOLERANCE = 5, 30, 200


def largest_eigenpair(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue (n,) of positive semi-definite matrices (n, d, d), and its unit eigenvector (n, d).

    A power iteration with Rayleigh quotient rho and residual r has an eigenvalue within |r| of rho, and no other can be
    as large if 2 (rho - |r|)^2 > |G|_F^2, as the squares of all eigenvalues sum to |G|_F^2. Matrices for which that
    does not hold, or |r| stays above some hundred roundings of rho, are decomposed. Not differentiable.
    """
    with torch.no_grad():
        size = gram.square().sum((-2, -1))
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
            found = alone & (residual <= _TOLERANCE * torch.finfo(gram.dtype).eps * value)
            if bool(found.all()):
                return value, vector
            if not bool(alone.all()):
                break
        values, vectors = torch.linalg.eigh(gram[~found])
        value[~found], vector[~found] = values[:, -1], vectors[..., -1]
        return value, vector
