"""The reconstruction P a that a layer computes from its values. Only this module chooses between its forms.

The plain form serves all inputs and steps. The paper's steps also have faster forms, whose derivative is written out by
hand: on the CPU for features of tokens (`cpu_features`) and for small kernels on a grid (`cpu_grid`), and on a GPU for
features (`triton`). Each agrees with the plain form to the dtype's rounding.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vars_dyn.attention.reconstruct import cpu_features, cpu_grid, plain
from vars_dyn.attention.reconstruct import triton as kernels
from vars_dyn.attention.reconstruct.compiled import form as compiled
from vars_dyn.attention.reconstruct.values import FeatureInputs, GridInputs, Inputs, Steps, UnionInputs, are_the_papers

__all__ = ["reconstruct"]


def reconstruct(inputs: Inputs, steps: Steps, form: Literal["fastest", "plain"] = "fastest") -> Tensor:
    """P a of shape (B, heads, N, c). The GPU kernels return the values' own dtype, all other forms float32 or wider."""
    if form == "plain" or not are_the_papers(steps):
        return plain.reconstruct(inputs, steps)
    if isinstance(inputs, FeatureInputs):
        if inputs.static is None and kernels.suit(inputs.queries, inputs.projection, inputs.values):
            return kernels.reconstruct(inputs, steps)
        inputs = inputs.working()
        norms = cpu_features.query_norms(inputs)
        if norms is not None:
            return cpu_features.reconstruct(inputs, norms, steps)
    if isinstance(inputs, GridInputs) and inputs.small:
        inputs = inputs.working()
        norm = plain.lipschitz(inputs.dictionary(inputs.kernel.shape[:1]), steps)
        if compiled.suits(inputs, norm):
            return compiled.reconstruct(inputs, norm, None, steps)
        if cpu_grid.suits(inputs, norm):
            return cpu_grid.reconstruct(inputs, norm, steps)
    if isinstance(inputs, UnionInputs) and inputs.grid.small:
        inputs = inputs.working()
        norm = plain.lipschitz(inputs.grid.dictionary(inputs.grid.kernel.shape[:1]), steps)
        norms = cpu_features.query_norms(inputs.features) if compiled.suits(inputs, norm) else None
        if norms is not None:
            return compiled.reconstruct(inputs, norm, norms, steps)
    return plain.reconstruct(inputs, steps)
