"""The dynamic part of a union, random features of tokens, beside maps on the token grid.

Features are those of `cpu_features`: F = exp(w.q) unnormalised, with Phi = F diag(scale). Their rows are the prefix
tokens and then the pixels as they lie in a map, with zero rows for the zeros beside the pixels. Codes are
(heads, B, c, m).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.attention.reconstruct.compiled.signals import Layout, Signals
from vars_dyn.attention.spectral import largest_eigenpair

__all__ = ["Features"]


class Features(NamedTuple):
    """Phi with its Gram matrix and the eigenpair of its largest eigenvalue.

    Attributes:
        unit: the normalised queries, (heads, B, rows, c).
        rows: F, (heads, B, rows, m).
        scale: one over the norms of the columns of F, (heads, B, 1, m).
        largest: the largest eigenvalue, (heads, B).
        vector: its unit eigenvector, (heads, B, m).
    """

    unit: Tensor
    rows: Tensor
    scale: Tensor
    largest: Tensor
    vector: Tensor

    @classmethod
    def of(cls, layout: Layout, queries: Tensor, norms: Tensor, projection: Tensor) -> Features:
        """From queries (B, heads, N, c), their norms (B, heads, N, 1), and random vectors (heads, c, m)."""
        (batch, heads, _, c), m, p = queries.shape, projection.shape[-1], layout.prefix
        unit = queries.new_zeros(heads, batch, p + layout.span, c)
        torch.div(queries[:, :, :p].transpose(0, 1), norms[:, :, :p].transpose(0, 1), out=unit[:, :, :p])
        pixels = (t[:, :, p:].transpose(0, 1).unflatten(2, layout.grid) for t in (queries, norms))
        torch.div(*pixels, out=layout.pixels(unit[:, :, p:], 2))
        # torch computes powers of two in a fraction of the time of exponentials.
        rows = torch.bmm(unit.flatten(1, 2), projection / math.log(2)).exp2_().view(*unit.shape[:3], m)
        layout.beside(rows[:, :, p:], 2).zero_()
        gram = torch.bmm(rows.flatten(0, 1).mT, rows.flatten(0, 1))
        scale = gram.diagonal(dim1=-2, dim2=-1).rsqrt().unsqueeze(-2)
        largest, vector = largest_eigenpair(gram.mul_(scale.mT * scale))
        shape = heads, batch
        return cls(unit, rows, scale.unflatten(0, shape), largest.unflatten(0, shape), vector.unflatten(0, shape))

    def encode(self, signals: Signals, slot: int) -> Tensor:
        """Phi^T of a signal."""
        code = torch.empty(*self.rows.shape[:2], self.unit.shape[-1], self.rows.shape[-1], dtype=self.rows.dtype)
        for head in range(len(code)):
            self.encode_head(head, signals, slot, code)
        return code

    def encode_head(self, head: int, signals: Signals, slot: int, code: Tensor) -> None:
        """Set a head's part of `code` to Phi^T of a signal."""
        own, p, out = self.rows[head], signals.layout.prefix, code[head]
        torch.bmm(signals.of_head(head, slot), own[:, p:], out=out)
        if p:
            out.baddbmm_(signals.prefix_of_head(head, slot), own[:, :p])
        out *= self.scale[head]

    def add_decoded(self, head: int, code: Tensor, signals: Signals, slot: int) -> None:
        """Add Phi code to a head's part of a signal, for the head's code (B, c, m)."""
        own, p, code = self.rows[head], signals.layout.prefix, code * self.scale[head]
        signals.of_head(head, slot).baddbmm_(code, own[:, p:].mT)
        if p:
            signals.prefix_of_head(head, slot).baddbmm_(code, own[:, :p].mT)

    def slopes(self, pairs: list[tuple[Signals, Tensor]], grad_largest: Tensor) -> Tensor:
        """The derivative in the exponents w.q, (heads, B, rows, m), of sum <code, Phi^T signal> and of L.

        Every pair has signals and their codes (heads, B, c, slots, m). `grad_largest` (heads, B) is that in L.
        """
        slope = torch.empty_like(self.rows)
        scaled = self.vector.unsqueeze(-2) * self.scale
        for head, (out, own) in enumerate(zip(slope, self.rows, strict=True)):
            # dL = vector^T dG vector
            along = own @ scaled[head].mT
            torch.bmm(along, scaled[head] * (2 * grad_largest[head, :, None, None]), out=out)
            for signals, codes in pairs:
                p, code = signals.layout.prefix, codes[head].flatten(1, 2) * self.scale[head]
                out[:, p:].baddbmm_(signals.all_of_head(head).mT, code)
                if p:
                    out[:, :p].baddbmm_(signals.prefixes_of_head(head).mT, code)
        # Normalisation fixes the atoms' lengths, and so takes away this part of the derivative.
        radial = (self.rows * slope).sum(-2, keepdim=True).mul_(self.scale.square())
        return slope.addcmul_(self.rows, radial, value=-1).mul_(self.rows)

    def to_queries(self, slope: Tensor, projection: Tensor, norms: Tensor, layout: Layout) -> Tensor:
        """The derivative in the queries, (B, heads, N, c), from that in the exponents."""
        turned = torch.bmm(slope.flatten(1, 2), projection.mT).view_as(self.unit)
        turned.addcmul_(self.unit, (self.unit * turned).sum(-1, keepdim=True), value=-1)
        p = layout.prefix
        pixels = layout.pixels(turned[:, :, p:], 2).flatten(2, 3)
        found = torch.cat([turned[:, :, :p], pixels], 2) if p else pixels
        return found.transpose(0, 1) / norms

    def to_projection(self, slope: Tensor) -> Tensor:
        """The derivative in the random vectors, (heads, c, m)."""
        return torch.bmm(self.unit.flatten(1, 2).mT, slope.flatten(1, 2))
