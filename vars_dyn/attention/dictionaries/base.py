"""The contract of a dictionary whose signals are the tokens of a layer."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from vars_dyn.attention.spectral import Eigenvalue, largest_eigenvalue
from vars_dyn.dictionaries.base import Dictionary

__all__ = ["TokenDictionary"]


class TokenDictionary(Dictionary):
    """A batched dictionary for layers: flat signals (N,), flat codes (d',), and bounds that gradients flow through.

    Methods do not inspect values, so that a layer neither waits for the GPU nor breaks a compiled graph.
    """

    @abstractmethod
    def differentiable_lipschitz(self, largest: Eigenvalue = largest_eigenvalue) -> Tensor:
        """L, the largest eigenvalue of P^T P or a tight bound on it, of shape `batch_shape`.

        `largest` finds the largest eigenvalues of matrices. Unlike `lipschitz`, the result is part of the autograd
        graph, and it has no margin added for rounding.
        """

    @abstractmethod
    def row_sum(self) -> Tensor:
        """A bound on max_i sum_j |G_ij| without eigenvalues, of shape `batch_shape`; differentiable."""
