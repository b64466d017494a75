"""Layers of sparse-coding neurons with one energy: an ordinary sparse problem over the codes of all layers.

    E(a_1, ..., a_L) = sum_l  mu_l/2 |a_{l-1} - P_l a_l|^2 + lam_l sum_i w_li |a_li| - q_l.a_l,   a_0 = x,  mu_1 = 1

It is jointly convex. With B of `HierarchyDictionary` it is a problem with dictionary B, signal [x; 0; ...] and one
weight per atom (docs/mathematics.md, "Hierarchies"), so certificates, solvers, fields and gradients apply to it as they
are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries import Dictionary, HierarchyDictionary
from vars_dyn.dynamics.sparse import SparseRecurrent
from vars_dyn.problems import SparseProblem, checked_weights
from vars_dyn.shapes import expand_trailing, per_atom, per_signal
from vars_dyn.solvers.equilibrium import equilibrium

__all__ = ["Hierarchy", "LayerCodes", "hierarchy_problem"]

Numbers = Sequence[float | Tensor]
PerLayer = Sequence[Tensor | None]


class LayerCodes(NamedTuple):
    """The codes of all layers for a batch of signals.

    Attributes:
        codes: a_1, ..., a_L, each (*any, *code_shape) of its layer.
        relative_gap: with feedback that of the joint problem; without, the largest of the layers' own. One per signal.
        converged: whether every such gap is within the tolerance, one per signal.
        neurons: without feedback, the settled neurons z_l = P_l a_l + x_l of all layers, each (*any, *signal_shape) of
            its layer, where x_l is what the layer sees; empty with feedback.
    """

    codes: tuple[Tensor, ...]
    relative_gap: Tensor
    converged: Tensor
    neurons: tuple[Tensor, ...] = ()


class Hierarchy:
    """Layers P_1, ..., P_L with their penalties, couplings and cues; a plain value.

    Args:
        layers: dictionaries that chain, from the signals upwards: P_l maps codes of layer l to codes of layer l - 1.
        lam: lam_1, ..., lam_L, at least zero: numbers, or tensors with one per signal.
        coupling: mu_2, ..., mu_L, above zero. A larger one makes layer l bind the code below more strongly.
        nonnegative: whether codes must not be negative, in all layers.
        weights, bias: for every layer None, or w_l and q_l as `SparseProblem` takes them, shaped like the layer's code.
            A bias, or a weight below one, on atoms of the top layer is a cue: the layers below come to favour what
            these atoms predict.

    Raises ValueError for layers that do not chain, and for lists that do not have one entry per layer.

    Examples:
        >>> lower = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> upper = vd.DenseDictionary(torch.ones(3, 1, dtype=torch.float64))
        >>> layers = vd.Hierarchy([lower, upper], lam=[0.1, 0.1], coupling=[1.0])
        >>> found = layers.solve(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
        >>> [code.shape for code in found.codes]
        [torch.Size([3]), torch.Size([1])]
    """

    def __init__(
        self,
        layers: Sequence[Dictionary],
        lam: Numbers,
        coupling: Numbers,
        nonnegative: bool = False,
        weights: PerLayer | None = None,
        bias: PerLayer | None = None,
    ) -> None:
        _checks.sequence("lam", lam, "layer")
        self.dictionary = HierarchyDictionary(*layers, coupling=coupling)
        self.lam, self.coupling, self.nonnegative = tuple(lam), tuple(coupling), nonnegative
        self.weights = self._per_layer("weights", weights)
        self.bias = self._per_layer("bias", bias)
        self._per_layer("lam", self.lam)

    @property
    def layers(self) -> tuple[Dictionary, ...]:
        """P_1, ..., P_L."""
        return self.dictionary.layers

    def _per_layer(self, name: str, value: Sequence[Any] | None) -> tuple[Any, ...]:
        if value is None:
            return (None,) * len(self.layers)
        if len(value) != len(self.layers):
            raise ValueError(f"{name} has {len(value)} entries; one for each of {len(self.layers)} layers is wanted")
        return tuple(value)

    def problem(self, x: Float[Tensor, "*shape"] | _checks.Numbers) -> SparseProblem:
        """The problem over the joined code for signals x, (*any, *signal_shape) of the first layer."""
        x = _checks.floating_tensor("x", x)
        lam, weights, bias = self._joined(x)
        joined = self.dictionary.joined(x)
        return SparseProblem(self.dictionary, joined, lam, nonnegative=self.nonnegative, weights=weights, bias=bias)

    def field(self, x: Float[Tensor, "*shape"] | _checks.Numbers, **constants: float | Tensor) -> SparseRecurrent:
        """The neurons of all layers, whose equilibrium solves `problem(x)` with the paper's constants.

        Their z has a part for every layer: the neurons of the signal, and neurons with the error of each layer's
        prediction. `constants` are alpha, beta, gamma, tau_z and tau_u of `SparseRecurrent`.
        """
        x = _checks.floating_tensor("x", x)
        lam, weights, bias = self._joined(x)
        threshold = "nonnegative" if self.nonnegative else "soft"
        more: dict[str, Any] = {**constants, "threshold": threshold, "weights": weights, "bias": bias}
        return SparseRecurrent(self.dictionary, self.dictionary.joined(x), lam, **more)

    def split(self, code: Tensor) -> tuple[Tensor, ...]:
        """The codes of the layers, of a joined code."""
        return self.dictionary.split(code)

    def solve(
        self,
        x: Float[Tensor, "*shape"],
        *,
        feedback: bool = True,
        forward: Sequence[Callable[[Tensor], Tensor]] | None = None,
        tol: float | None = None,
    ) -> LayerCodes:
        """The codes of all layers, differentiable in all that they depend on.

        With feedback they minimise the joint energy. Without, each layer solves its own problem, from the signals
        upwards, and settles before the next begins: a_l minimises 1/2 |x_l - P_l a_l|^2 + (lam_l / mu_l) |a_l|_1 for
        what it sees, x_l, with x_1 = x.

        Args:
            x: signals, (*any, *signal_shape) of the first layer.
            feedback: whether upper layers act on lower ones.
            forward: without feedback, W_2, ..., W_L of Eq. 1-3: layer l sees x_l = W_l(z_{l-1}), where z_{l-1} =
                P_{l-1} a_{l-1} + x_{l-1} are the settled neurons of the layer below. `P.encode` of the layers below the
                top is a choice that always fits. None: layer l sees the code below, x_l = a_{l-1}. That is the limit of
                the joint codes where all mu_l go to zero and lam_l / mu_l stays as it is.
            tol: that of `equilibrium`.

        Raises ValueError for `forward` with feedback, or of another length than the layers above the first, and for
        what it returns if it does not fit the layer.
        """
        if feedback:
            if forward is not None:
                raise ValueError(
                    "forward is given with feedback, which joins the layers by their energy; None is wanted"
                )
            found = equilibrium(self.problem(x), tol=tol)
            return LayerCodes(self.split(found.code), found.relative_gap, found.converged)
        if forward is not None and len(forward) != len(self.layers) - 1:
            raise ValueError(f"forward has {len(forward)} maps; one for each layer above the first is wanted")
        codes, neurons, gaps, converged, seen = [], [], [], [], x
        for level, layer in enumerate(self.layers):
            found = equilibrium(self._alone(level, seen), tol=tol)
            codes.append(found.code)
            neurons.append(layer.decode(found.code) + seen)
            gaps.append(found.relative_gap)
            converged.append(found.converged)
            if level + 1 < len(self.layers):
                lead = found.code.shape[: found.code.ndim - len(layer.code_shape)]
                shape = (*lead, *self.layers[level + 1].signal_shape)
                seen = found.code.reshape(shape) if forward is None else forward[level](neurons[-1])
                if forward is not None and seen.numel() == math.prod(shape):
                    seen = seen.reshape(shape)
        return LayerCodes(tuple(codes), torch.stack(gaps).amax(0), torch.stack(converged).all(0), tuple(neurons))

    def _alone(self, level: int, seen: Tensor) -> SparseProblem:
        """The problem of one layer for what it sees, without what acts on it from above."""
        mu = self.coupling[level - 1] if level else 1.0
        bias, weights = self.bias[level], self.weights[level]
        bias = None if bias is None else bias / mu
        lam, layer = self.lam[level] / mu, self.layers[level]
        return SparseProblem(layer, seen, lam, nonnegative=self.nonnegative, weights=weights, bias=bias)

    def _joined(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """lam, weights and bias over the joined code: the largest lam_l, and weights relative to it."""
        _checks.floating_tensor("x", x)
        _checks.trailing("x", x, self.layers[0].signal_shape)
        batch = tuple(x.shape[: x.ndim - len(self.layers[0].signal_shape)])
        lams = [per_signal(f"lam[{level}]", value, batch, x) for level, value in enumerate(self.lam)]
        largest = torch.stack(lams).amax(0)
        alike = all(not isinstance(value, Tensor) or not value.ndim for value in self.lam)
        pieces, biases = [], []
        for layer, lam, own, current in zip(self.layers, lams, self.weights, self.bias, strict=True):
            shape = layer.code_shape
            share = torch.where(largest > 0, lam / torch.where(largest > 0, largest, 1.0), 1.0)
            if alike:
                share = share.flatten()[:1].reshape(()) if share.numel() else x.new_ones(())
            weights = x.new_ones(shape) if own is None else checked_weights(own, shape, batch, x)
            bias = x.new_zeros(shape) if current is None else per_atom("bias", current, shape, batch, x)
            # Zero times infinity is no weight: a silenced atom stays silenced.
            scaled = expand_trailing(share, len(shape)) * weights.masked_fill(weights.isinf(), 0.0)
            pieces.append(scaled.masked_fill(weights.isinf(), torch.inf).flatten(-len(shape)))
            biases.append(bias.flatten(-len(shape)))
        found = tuple(_side_by_side(parts, batch) for parts in (pieces, biases))
        return largest, found[0], None if all(q is None for q in self.bias) else found[1]


def _side_by_side(parts: list[Tensor], batch: tuple[int, ...]) -> Tensor:
    """The layers' values in a row; with one row per signal where one of them has it."""
    if any(part.ndim > 1 for part in parts):
        parts = [part.expand(*batch, part.shape[-1]) for part in parts]
    return torch.cat(parts, -1)


def hierarchy_problem(
    x: Float[Tensor, "*shape"] | _checks.Numbers,
    layers: Sequence[Dictionary],
    lam: Numbers,
    coupling: Numbers,
    nonnegative: bool = False,
    weights: PerLayer | None = None,
    bias: PerLayer | None = None,
) -> SparseProblem:
    """The problem of a `Hierarchy` over the joined code, for signals x, (*any, *signal_shape) of the first layer.

    Its dictionary is a `HierarchyDictionary`, whose `split` gives the layers' codes. Raises ValueError as `Hierarchy`.

    Examples:
        >>> lower = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> upper = vd.DenseDictionary(torch.ones(3, 1, dtype=torch.float64))
        >>> x = torch.ones(3, dtype=torch.float64)
        >>> problem = vd.hierarchy_problem(x, [lower, upper], lam=[0.1, 0.1], coupling=[1.0])
        >>> lowest, top = problem.dictionary.split(vd.solve(problem).code)
        >>> lowest.shape, top.shape
        (torch.Size([3]), torch.Size([1]))
    """
    return Hierarchy(layers, lam, coupling, nonnegative, weights, bias).problem(x)
