"""The quadratic form of a field's energy, written out, where signals or units may have constants of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.dynamics.constants import largest, of_signals, smallest
from vars_dyn.shapes import expand_trailing

__all__ = ["Form", "form_of"]


class Form(NamedTuple):
    """Q = divisor (shared + diag(rest)) for every signal.

    Attributes:
        shared: (*elements, n, n), the same for all signals.
        rest: at least zero, and broadcasts against codes; 0.0 where signals have no constants of their own.
        divisor: above zero, one per signal, or 1.0.
    """

    shared: Tensor
    rest: float | Tensor
    divisor: float | Tensor


def form_of(dictionary: Dictionary, curvature: float | Tensor, ridge: float | Tensor) -> Form:
    """Q = P^T diag(curvature) P + diag(ridge); the two broadcast against signals and codes.

    A curvature of each signal is divided out, and of ridges of each signal their smallest is shared. Raises ValueError
    where the curvatures of signals have different signs, since no quadratic form can then be shared.
    """
    signal, code = len(dictionary.signal_shape), len(dictionary.code_shape)
    divisor: float | Tensor = 1.0
    weight: float | Tensor = curvature
    if isinstance(curvature, Tensor) and curvature.ndim > signal:
        low, high = smallest(curvature), largest(curvature)
        if not (low > 0 or high < 0 or low == high == 0):
            raise ValueError(
                "gamma - 1/alpha is above zero for some signals and not for others, which then share no quadratic "
                "form; run them apart"
            )
        weight = float(high > 0) - float(low < 0)
        if weight:
            divisor = of_signals(curvature.abs(), signal)
            ridge = ridge / of_signals(curvature.abs(), signal, code)
    least: float | Tensor = ridge
    rest: float | Tensor = 0.0
    if isinstance(ridge, Tensor) and ridge.ndim > code:
        lead = tuple(range(len(dictionary.batch_shape), ridge.ndim - code))
        floor = ridge.detach().amin(lead, keepdim=True)
        least, rest = floor.squeeze(lead), ridge - floor
    matrix = dictionary.matrix()
    rows = weight.expand(dictionary.signal_shape).flatten()[:, None] if isinstance(weight, Tensor) else weight
    gram = matrix.mT @ (rows * matrix)
    diagonal = torch.as_tensor(least, dtype=gram.dtype, device=gram.device)
    diagonal = diagonal.flatten(-code) if diagonal.ndim else expand_trailing(diagonal, 1)
    return Form(gram + torch.diag_embed(diagonal.expand(*diagonal.shape[:-1], gram.shape[-1])), rest, divisor)
