"""The plain form of the reconstruction, made of PyTorch's own operations. The other forms are tested against it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from vars_dyn.attention.dictionaries.base import TokenDictionary
from vars_dyn.attention.dictionaries.features import FeatureDictionary
from vars_dyn.attention.dictionaries.grid import GridDictionary, TokenConvDictionary, TokenFourierDictionary
from vars_dyn.attention.dictionaries.tokens import Grid
from vars_dyn.attention.dictionaries.union import TokenUnion
from vars_dyn.attention.precision import full_precision, working
from vars_dyn.attention.reconstruct.values import FeatureInputs, Inputs, Steps
from vars_dyn.attention.spectral import largest_eigenvalue, power_iteration
from vars_dyn.attention.unrolled import GATES, UNROLLED, Map, ista
from vars_dyn.problems import SparseProblem
from vars_dyn.thresholds import soft_threshold

__all__ = ["by_head", "codes", "lipschitz", "on_grid", "on_tokens", "on_union", "reconstruct"]

_logger = logging.getLogger(__name__)


def reconstruct(inputs: Inputs, steps: Steps) -> Tensor:
    """P a of shape (B, heads, N, c) for any inputs and any steps, in float32 or a wider dtype."""
    dictionary, signal = inputs.reconstruction()
    code = codes(dictionary, signal, steps)
    if steps.drop is not None:
        code = steps.drop(code)
    with full_precision(code):
        return by_head(dictionary.decode(code)).mT


def on_tokens(
    queries: Tensor, projection: Tensor, static: Tensor | None, values: Tensor, lam: float, num_steps: int
) -> Tensor:
    """`reconstruct` for `FeatureInputs` and the paper's steps, as a function of tensors; in the dtype of `values`."""
    with full_precision(values):
        inputs = FeatureInputs(queries, projection, static, values)
        return reconstruct(inputs, Steps(lam, num_steps)).to(values.dtype)


def on_grid(
    tokens: Tensor, kernel: Tensor, rows: Tensor | None, norm: Tensor, grid: Grid, lam: float, num_steps: int
) -> Tensor:
    """P a of tokens (B, N, C) for small kernels and the paper's steps at L = `norm` (C,), as a function of tensors."""
    signal = tokens.mT.unsqueeze(-2)
    dictionary = TokenConvDictionary(kernel, rows, grid, signal.shape[:-2])
    b = dictionary.encode(signal)
    code = ista(dictionary.gram, b, b, lam, norm[:, None, None], num_steps, soft_threshold)
    return dictionary.decode(code).squeeze(-2).mT


def on_union(
    queries: Tensor,
    projection: Tensor,
    values: Tensor,
    kernel: Tensor,
    rows: Tensor | None,
    norm: Tensor,
    grid: Grid,
    lam: float,
    num_steps: int,
) -> Tensor:
    """P a (B, heads, N, c) for features beside small kernels and the paper's steps, as a function of tensors.

    L is the features' largest eigenvalue and the kernels' `norm` (C,) together.
    """
    signal = values.mT.unsqueeze(-2)
    features = FeatureInputs(queries, projection, None, values).features()
    static = TokenConvDictionary(kernel, rows, grid, signal.shape[:-2])
    dictionary = TokenUnion(FeatureDictionary(features, channels=values.shape[-1]), static)
    largest = dictionary.parts[0].differentiable_lipschitz() + static.per_element(norm)
    b = dictionary.encode(signal)
    code = ista(dictionary.gram, b, b, lam, largest[..., None, None], num_steps, soft_threshold)
    return dictionary.decode(code).squeeze(-2).mT


def codes(dictionary: TokenDictionary, signal: Tensor, steps: Steps, observe: list[Tensor] | None = None) -> Tensor:
    """Codes (*batch_shape, n, d') of signals (*batch_shape, n, N).

    `observe` receives the start and every iterate of an unrolled solver, or the final code of any other solver.
    """
    if not isinstance(steps.solver, str):
        code = steps.solver(SparseProblem(dictionary, signal, steps.lam))
        if observe is not None:
            observe.append(code)
        return code
    variant, lam, norm = steps.variant, steps.lam, lipschitz(dictionary, steps)[..., None, None]
    gate = GATES[variant.threshold]
    if steps.metric is not None:
        lam, norm = working(steps.metric.lam) * lam, norm / working(steps.metric.lipschitz)
    b = dictionary.encode(signal)
    start = gate(b, lam) if variant.start == "threshold" else b
    if observe is not None:
        observe.append(start)
    watch = None if observe is None else observe.append
    return UNROLLED[steps.solver](_gram(dictionary, steps), b, start, lam, norm, steps.num_steps, gate, watch)


def lipschitz(dictionary: TokenDictionary, steps: Steps) -> Tensor:
    """L in the step size 1 / L of an unrolled solver, of shape `batch_shape`."""
    variant = steps.variant
    if steps.stored is not None and isinstance(dictionary, GridDictionary):
        return dictionary.per_element(working(steps.stored))
    if variant.bound in ("spectral", "power_iteration"):
        by_powers = variant.bound == "power_iteration" or _in_onnx_export()
        norm = dictionary.differentiable_lipschitz(power_iteration if by_powers else largest_eigenvalue)
    else:
        norm = dictionary.row_sum()
    norm = norm if variant.differentiate_bound else norm.detach()
    return norm + 1 if variant.bound == "row_sum_plus_one" else norm


def _in_onnx_export() -> bool:
    """Whether the layer is traced for ONNX, which has no eigenvalues; said once for each layer."""
    if not (torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()):
        return False
    _logger.warning(
        "ONNX has no eigenvalues: L of the step 1/L is exported as 32 power iterations, which agree with it to "
        'rounding; Variant(bound="row_sum") exports a bound that is cheaper and larger'
    )
    return True


def _gram(dictionary: TokenDictionary, steps: Steps) -> Map:
    """The map a -> G a of the iteration."""
    if steps.variant.half_spectrum_gram and isinstance(dictionary, TokenFourierDictionary):
        return dictionary.half_spectrum_gram
    if steps.metric is not None and isinstance(dictionary, FeatureDictionary):
        metric = working(steps.metric.matrix)
        matrix = (metric @ dictionary.gram_matrix() @ metric).mT
        return lambda a: a @ matrix
    return dictionary.gram


def by_head(value: Tensor) -> Tensor:
    """Signals or codes of a reconstruction as (B, heads, c, size), for every kind of dictionary."""
    return value.squeeze(-2) if value.ndim == 5 else value
