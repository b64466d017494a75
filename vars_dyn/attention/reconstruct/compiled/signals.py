"""Signals on the token grid as maps, rows of numbers in which pixels have zeros beside them (`values.Geometry`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.attention.reconstruct.compiled.values import Array, Geometry, Slot

__all__ = ["Layout", "Signals", "array"]


def array(tensor: Tensor) -> Array:
    """A tensor's memory as an array."""
    return tensor.detach().numpy()


class Layout(NamedTuple):
    """Where tokens lie in maps.

    Attributes:
        batch, heads, width: B, the number of heads, and the channels of a head.
        prefix: the number of prefix tokens.
        grid: (H, W).
        geometry: where pixels lie in a map.
    """

    batch: int
    heads: int
    width: int
    prefix: int
    grid: tuple[int, int]
    geometry: Geometry

    @classmethod
    def of(cls, values: Tensor, grid: tuple[int, int], kernel: tuple[int, int]) -> Layout:
        """For values (B, heads, N, c) and kernels of these sides."""
        batch, heads, tokens, width = values.shape
        geometry = Geometry.of(batch, grid, kernel, array(values.new_empty(0)).dtype)
        return cls(batch, heads, width, tokens - math.prod(grid), grid, geometry)

    @property
    def span(self) -> int:
        """The length of the part of a map that holds an image's pixels, with the zeros between them."""
        return self.grid[0] * self.geometry.width

    def pixels(self, spans: Tensor, dim: int) -> Tensor:
        """The pixels in a dimension of length `span`, as two dimensions (H, W)."""
        return spans.unflatten(dim, (self.grid[0], -1)).narrow(dim + 1, 0, self.grid[1])

    def beside(self, spans: Tensor, dim: int) -> Tensor:
        """The zeros between the pixels in such a dimension, as two dimensions."""
        rest = self.geometry.width - self.grid[1]
        return spans.unflatten(dim, (self.grid[0], -1)).narrow(dim + 1, self.grid[1], rest)


class Signals(NamedTuple):
    """Several signals.

    Attributes:
        maps: (C, slots, length).
        prefix: the prefix tokens, (slots, heads, B, c, p).
        layout: where the tokens lie.
    """

    maps: Tensor
    prefix: Tensor
    layout: Layout

    @classmethod
    def empty(cls, layout: Layout, slots: int, like: Tensor) -> Signals:
        """Room for signals."""
        maps = like.new_empty(layout.heads * layout.width, slots, layout.geometry.length)
        return cls(maps, like.new_empty(slots, layout.heads, layout.batch, layout.width, layout.prefix), layout)

    @classmethod
    def of(cls, layout: Layout, values: Tensor) -> Signals:
        """One signal, from values (B, heads, N, c)."""
        found = cls.empty(layout, 1, values)
        found.maps.zero_()
        p = layout.prefix
        found._pixels(0).copy_(values[:, :, p:].unflatten(2, layout.grid).permute(1, 4, 0, 2, 3))
        found.prefix[0] = values[:, :, :p].permute(1, 0, 3, 2)
        return found

    def _images(self, slot: int) -> Tensor:
        """A signal's images with the zeros before them, (C, B, stride)."""
        geometry = self.layout.geometry
        part = self.maps[:, slot, geometry.lead : geometry.lead + geometry.images * geometry.stride]
        return part.unflatten(-1, (geometry.images, geometry.stride))

    def _pixels(self, slot: int) -> Tensor:
        """(heads, c, B, H, W)."""
        layout = self.layout
        spans = self._images(slot)[..., layout.geometry.lead :].unflatten(0, (layout.heads, layout.width))
        return layout.pixels(spans, 3)

    def values(self, slot: int) -> Tensor:
        """A signal as values (B, heads, N, c), which lie in memory as (B, N, heads, c)."""
        layout = self.layout
        p, count = layout.prefix, layout.prefix + math.prod(layout.grid)
        tokens = self.maps.new_empty(layout.batch, count, layout.heads, layout.width)
        tokens[:, p:].unflatten(1, layout.grid).copy_(self._pixels(slot).permute(2, 3, 4, 0, 1))
        tokens[:, :p] = self.prefix[slot].permute(1, 3, 0, 2)
        return tokens.transpose(1, 2)

    def slot(self, index: int) -> Slot:
        """A signal's maps for the compiled loops."""
        return Slot(array(self.maps), index)

    def _of_channels(self, first: int, rows: int, count: int) -> Tensor:
        """Rows of maps from row `first` on, for every image: (B, count, span)."""
        geometry = self.layout.geometry
        strides = geometry.stride, rows * geometry.length, 1
        offset = self.maps.storage_offset() + first * geometry.length + 2 * geometry.lead
        return self.maps.as_strided((geometry.images, count, self.layout.span), strides, offset)

    def of_head(self, head: int, slot: int) -> Tensor:
        """The pixels of a head's channels in a signal, (B, c, span)."""
        slots, width = self.maps.shape[1], self.layout.width
        return self._of_channels(head * width * slots + slot, slots, width)

    def all_of_head(self, head: int) -> Tensor:
        """The same of all signals, channel by channel, (B, c slots, span)."""
        slots, width = self.maps.shape[1], self.layout.width
        return self._of_channels(head * width * slots, 1, width * slots)

    def prefix_of_head(self, head: int, slot: int) -> Tensor:
        """The prefix tokens of a head's channels in a signal, (B, c, p)."""
        return self.prefix[slot, head]

    def prefixes_of_head(self, head: int) -> Tensor:
        """The same of all signals, channel by channel, (B, c slots, p)."""
        return self.prefix[:, head].permute(1, 2, 0, 3).flatten(1, 2)

    def put(self, slot: int, other: Signals, factor: Tensor) -> None:
        """Set a signal to the only one of `other` times a factor (C, B)."""
        lead = self.layout.geometry.lead
        for end in (self.maps[:, slot, :lead], self.maps[:, slot, -lead:] if lead else self.maps[:, slot, :0]):
            end.zero_()
        torch.mul(other._images(0), factor.unsqueeze(-1), out=self._images(slot))
        # A factor that is not finite makes no zeros, and the image before reads these.
        self._images(slot)[..., :lead].zero_()
        if self.layout.prefix:
            torch.mul(other.prefix[0], self._prefix_factor(factor), out=self.prefix[slot])

    def take_off(self, other: Signals, slots: range, factor: Tensor) -> None:
        """Subtract the sum of some of `other` times a factor (C, B) from the only signal."""
        first, *rest = (other._images(i) for i in slots)
        for part in rest:
            first = first + part
        self._images(0).addcmul_(first, factor.unsqueeze(-1), value=-1)
        if self.layout.prefix:
            parts = other.prefix[slots.start : slots.stop].sum(0)
            self.prefix[0].addcmul_(parts, self._prefix_factor(factor), value=-1)

    def _prefix_factor(self, factor: Tensor) -> Tensor:
        return factor.unflatten(0, (self.layout.heads, self.layout.width)).transpose(1, 2).unsqueeze(-1)

    def dot(self, slot: int, other: Signals, own: int) -> Tensor:
        """The inner product with one of `other` for every channel and image, (C, B)."""
        found = (self._images(slot) * other._images(own)).sum(-1)
        if self.layout.prefix:
            found += (self.prefix[slot] * other.prefix[own]).sum(-1).transpose(1, 2).flatten(0, 1)
        return found
