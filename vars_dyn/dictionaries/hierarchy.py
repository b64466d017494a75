"""Layers of dictionaries joined to one: the block matrix of a hierarchy's energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from vars_dyn import _checks, _scaling
from vars_dyn.dictionaries.base import Dictionary, Rounding, rounded_up
from vars_dyn.dictionaries.dense import largest_eigenvalue

__all__ = ["HierarchyDictionary"]

#: Up to this many numbers in B its largest eigenvalue is computed from the matrix, and beyond from the layers' bounds.
_MATRIX_LIMIT = 1 << 22


class HierarchyDictionary(Dictionary):
    """B of the energy  sum_l mu_l/2 |a_{l-1} - P_l a_l|^2 = 1/2 |B a - [x; 0; ...]|^2,  a_0 = x and mu_1 = 1:

        B = [[P_1, 0, ...], [-sqrt(mu_2) I, sqrt(mu_2) P_2, 0, ...], ...]

    (docs/mathematics.md, "Hierarchies"). Signals are flat, (*any, d + m_1 + ... + m_{L-1}); `joined` appends the zeros.
    Codes are flat, (*any, m_1 + ... + m_L), with each layer's code flattened in row-major order; `split` takes them
    apart. L is exact where B is small enough to be written out; elsewhere it is bounded by the layers' norms.

    Args:
        layers: P_1, ..., P_L, dictionaries that chain: the signals of each have as many entries as the codes of the
            one below, and are reshaped. None may be batched.
        coupling: mu_2, ..., mu_L, above zero: numbers, or zero-dimensional tensors that may require gradients.

    Raises ValueError for layers that do not chain, and for couplings of another number or sign.

    Examples:
        >>> lower, upper = torch.eye(3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
        >>> B = vd.HierarchyDictionary(vd.DenseDictionary(lower), vd.DenseDictionary(upper), coupling=(1.0,))
        >>> B.signal_shape, B.code_shape
        ((6,), (4,))
        >>> [code.shape for code in B.split(torch.zeros(10, 4, dtype=torch.float64))]
        [torch.Size([10, 3]), torch.Size([10, 1])]
    """

    def __init__(self, *layers: Dictionary, coupling: Sequence[float | Tensor] = ()) -> None:
        if not layers:
            raise ValueError("a hierarchy of no dictionaries came; at least one is wanted")
        for level, layer in enumerate(layers):
            if layer.batch_shape:
                raise ValueError(
                    f"layer {level + 1} has batch shape {layer.batch_shape}; one without a batch is wanted"
                )
            _checks.same_kind(f"layer {level + 1}", layer.tensors()[0], layers[0].tensors()[0], "layer 1")
            if level and layer.signal_size != layers[level - 1].code_size:
                raise ValueError(
                    f"layer {level + 1} has signals of {layer.signal_size} entries and layer {level} codes of "
                    f"{layers[level - 1].code_size}; the same number is wanted"
                )
        if len(_checks.sequence("coupling", coupling, "layer above the first")) != len(layers) - 1:
            raise ValueError(f"coupling has {len(coupling)} numbers; one for each layer above the first is wanted")
        for level, value in enumerate(coupling):
            _checks.number(f"coupling[{level}]", value, positive=True)
        self.layers = tuple(layers)
        own = [torch.as_tensor(value, dtype=self.dtype, device=self.device) for value in coupling]
        #: sqrt(mu_l) of the layers above the first, times the unit in which B is given.
        self.roots = torch.stack(own).sqrt() if own else torch.zeros(0, dtype=self.dtype, device=self.device)
        self.code_shape = (sum(layer.code_size for layer in layers),)
        self.signal_shape = (sum(layer.signal_size for layer in layers),)

    def tensors(self) -> tuple[Tensor, ...]:
        roots = (self.roots,) if len(self.layers) > 1 else ()
        return (*(t for layer in self.layers for t in layer.tensors()), *roots)

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].dtype

    @property
    def device(self) -> torch.device:
        return self.layers[0].device

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        if len(self.layers) > 1:
            *tensors, self.roots = tensors  # type: ignore[assignment]
        layers = []
        for layer in self.layers:
            n = len(layer.tensors())
            layers.append(layer.with_tensors(tuple(tensors[:n])))
            tensors = tensors[n:]
        self.layers = tuple(layers)

    def joined(self, x: Tensor) -> Tensor:
        """[x; 0; ...], (*any, d + m_1 + ...), for signals x of the first layer, (*any, *signal_shape)."""
        _checks.trailing("x", x, self.layers[0].signal_shape)
        flat = x.flatten(-len(self.layers[0].signal_shape))
        return torch.cat([flat, flat.new_zeros(*flat.shape[:-1], self.signal_size - flat.shape[-1])], -1)

    def split(self, a: Tensor) -> tuple[Tensor, ...]:
        """The layers' own codes, each of shape (*any, *layer.code_shape), of a joined code (*any, m_1 + ... + m_L)."""
        _checks.trailing("a", a, self.code_shape)
        pieces = a.split([layer.code_size for layer in self.layers], dim=-1)
        return tuple(p.reshape(*a.shape[:-1], *own.code_shape) for p, own in zip(pieces, self.layers, strict=True))

    def join(self, codes: Sequence[Tensor]) -> Tensor:
        """The joined code of the layers' codes: the inverse of `split`."""
        return torch.cat([a.flatten(-len(own.code_shape)) for a, own in zip(codes, self.layers, strict=True)], -1)

    def _encode(self, x: Tensor) -> Tensor:
        rows = x.split([layer.signal_size for layer in self.layers], dim=-1)
        codes = []
        for level, (row, layer) in enumerate(zip(rows, self.layers, strict=True)):
            code = layer.encode_unchecked(row.reshape(*x.shape[:-1], *layer.signal_shape)).flatten(
                -len(layer.code_shape)
            )
            code = code if level == 0 else self.roots[level - 1] * code
            codes.append(code if level + 1 == len(rows) else code - self.roots[level] * rows[level + 1])
        return torch.cat(codes, -1)

    def _decode(self, a: Tensor) -> Tensor:
        pieces = a.split([layer.code_size for layer in self.layers], dim=-1)
        rows = []
        for level, (piece, layer) in enumerate(zip(pieces, self.layers, strict=True)):
            row = layer.decode_unchecked(piece.reshape(*a.shape[:-1], *layer.code_shape)).flatten(
                -len(layer.signal_shape)
            )
            rows.append(row if level == 0 else self.roots[level - 1] * (row - pieces[level - 1]))
        return torch.cat(rows, -1)

    def _lipschitz(self) -> Tensor:
        if self.signal_size * self.code_size <= _MATRIX_LIMIT:
            return largest_eigenvalue(self.matrix())
        # |B a|^2 is at most |N v|^2 for the norms v_l of the layers' codes, with N the matrix of the blocks' norms.
        norms = torch.stack([layer.lipschitz().sqrt() for layer in self.layers]).double()
        roots = torch.cat([norms.new_ones(1), self.roots.double()])
        blocks = torch.diag(roots * norms) + torch.diag(roots[1:], -1)
        return rounded_up(largest_eigenvalue(blocks), 8 * len(norms)).to(self.dtype) * (1 + torch.finfo(self.dtype).eps)

    def _largest(self) -> Tensor:
        own = [self.layers[0].largest()]
        own += [root * layer.largest().clamp(min=1) for root, layer in zip(self.roots, self.layers[1:], strict=True)]
        return torch.stack([value.detach() for value in own]).amax(0)

    def _scaled(self, exponent: Tensor) -> Self:
        first, *others = self.layers
        twin = self.with_tensors(self.tensors())
        twin.layers, twin.roots = (first.scaled(exponent), *others), _scaling.scaled(self.roots, exponent)
        return twin

    def _rounding(self) -> Rounding:
        norms, squares = [], torch.cat([self.roots.detach().square(), self.roots.new_zeros(1)])
        parts = [layer.rounding() for layer in self.layers]
        for level, (own, layer) in enumerate(zip(parts, self.layers, strict=True)):
            flat = own.norms.detach().expand(layer.code_shape).flatten()
            weight = 1.0 if level == 0 else self.roots[level - 1].detach()
            norms.append(((weight * flat).square() + squares[level]).sqrt() * (1 + 8 * torch.finfo(flat.dtype).eps))
        # A row of layer l rounds its product, the difference and the factor. The norms of an atom's two blocks add up
        # to at most sqrt(2) times its norm.
        encode, decode = max(own.encode for own in parts) + 4, max(own.decode for own in parts) + 4
        return Rounding(torch.cat(norms), encode, math.ceil(1.5 * decode), sparse=False)
