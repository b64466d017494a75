"""P and P^T of templates on a grid, alone or beside features of tokens, with the steps that surround them."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vars_dyn.attention.reconstruct.compiled.features import Features
from vars_dyn.attention.reconstruct.compiled.signals import Layout, Signals, array
from vars_dyn.attention.reconstruct.compiled.values import Code, Kernels, Slot

__all__ = ["Codes", "Operator"]


@cache
def _loops() -> Any:
    # deferred: needs numba, which is optional and takes time to import
    from vars_dyn.attention.reconstruct.compiled import loops

    return loops


class Codes(NamedTuple):
    """A code: its maps (C, T, length), their sums over every image (C, T, B), and the features' part, if any.

    There are no sums without prefix tokens. The features' part is (heads, B, c, m).
    """

    maps: Tensor
    sums: Tensor
    dense: Tensor | None


class Operator:
    """P and P^T. Factors and gains of channels and images are (C, B)."""

    def __init__(self, layout: Layout, kernel: Tensor, rows: Tensor | None, features: Features | None) -> None:
        self.layout, self.features = layout, features
        self.rows = None if rows is None or not layout.prefix else rows.unflatten(0, (layout.heads, layout.width))
        own = kernel.contiguous()
        self.kernels = Kernels(array(own), array(own.flip(-2, -1)))
        self.slopes = torch.zeros_like(own)
        self.row_slopes = None if rows is None else torch.zeros_like(rows)
        self._none = own.new_empty(0, 0, 0)

    def by_head(self, factor: Tensor) -> Tensor:
        """(C, B) as (heads, B, c, 1)."""
        return factor.unflatten(0, (self.layout.heads, self.layout.width)).transpose(1, 2).unsqueeze(-1)

    def empty(self) -> Codes:
        """Room for a code; a features' part is not in it."""
        channels, templates, images = len(self.slopes), self.slopes.shape[1], self.layout.batch
        maps = self.slopes.new_empty(channels, templates, self.layout.geometry.length)
        sums = self._none if self.rows is None else maps.new_empty(channels, templates, images)
        return Codes(maps, sums, None)

    def advance(
        self,
        source: tuple[Signals, int],
        old: Codes | None,
        gain: Tensor,
        lam: float,
        base: tuple[Signals, int] | None,
        target: tuple[Signals, int],
        factor: Tensor,
    ) -> Codes:
        """The code soft(old + P^T source, lam), or gain P^T source without `old`; target = base + factor P code."""
        code, kind = self.empty(), array(gain).dtype.type
        given = (
            *(self.layout.geometry, self.kernels, source[0].slot(source[1]), array(gain)),
            array(self._none if old is None else old.maps),
            Code(array(code.maps), array(code.sums), array(self._share(source))),
            *(kind(lam), Slot(array(target[0].maps), -1) if base is None else base[0].slot(base[1])),
            *(target[0].slot(target[1]), array(factor)),
        )
        self._each(lambda channels: _loops().advance(*given, channels))
        self._decode_prefix(code, target, factor, base)
        if self.features is None:
            return code
        dense = self.features.encode(*source)
        if old is None or old.dense is None:
            dense *= self.by_head(gain)
        else:
            dense += old.dense
            dense -= dense.clamp(-lam, lam)
        self.features.add_decoded(dense * self.by_head(factor), *target)
        return code._replace(dense=dense)

    def retreat(
        self,
        source: tuple[Signals, int],
        after: Codes,
        value: Codes | None,
        gates: bool,
        against: tuple[Signals, int],
        target: tuple[Signals, int],
        factor: Tensor,
    ) -> Codes:
        """The derivative of a step. `value` becomes value + P^T source where `after` is not zero; target = factor P value.

        Without `gates` all of it is kept. The slopes in kernels and rows gain those of <after, P^T source> and of
        <value, P^T against>.
        """
        new = self.empty() if value is None else value
        given = (
            *(self.layout.geometry, self.kernels, source[0].slot(source[1]), value is not None),
            *(array(after.maps), gates, Code(array(new.maps), array(new.sums), array(self._share(source)))),
            *(against[0].slot(against[1]), array(self.slopes), target[0].slot(target[1]), array(factor)),
        )
        self._each(lambda channels: _loops().retreat(*given, channels))
        if self.rows is not None and self.row_slopes is not None:
            for (signals, slot), code in ((source, after), (against, new)):
                slope = torch.einsum("hbcp,hctb->hcpt", signals.prefix[slot], self._means(code))
                self.row_slopes += slope.flatten(0, 1)
        self._decode_prefix(new, target, factor, None)
        if self.features is None or after.dense is None:
            return new
        dense = self.features.encode(*source)
        if value is not None and value.dense is not None:
            dense += value.dense
        if gates:
            # An entry of a code is zero exactly where the threshold cuts it off. No derivative passes through it there.
            dense *= after.dense.sign().square_()
        self.features.add_decoded(dense * self.by_head(factor), *target)
        return new._replace(dense=dense)

    def _each(self, work: Callable[[tuple[int, int]], None]) -> None:
        """Do some work for all channels, on as many threads as torch uses."""
        channels, threads = len(self.slopes), torch.get_num_threads()
        if threads == 1:
            return work((0, channels))
        cuts = [channels * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, zip(cuts, cuts[1:], strict=False)))
        return None

    def _share(self, source: tuple[Signals, int]) -> Tensor:
        """What prefix tokens add to P^T of a signal: the same at every pixel, (C, T, B)."""
        if self.rows is None:
            return self._none
        signals, slot = source
        found = torch.einsum("hbcp,hcpt->hctb", signals.prefix[slot], self.rows) / math.prod(self.layout.grid)
        return found.flatten(0, 1).contiguous()

    def _means(self, code: Codes) -> Tensor:
        """(heads, c, T, B)."""
        return (code.sums / math.prod(self.layout.grid)).unflatten(0, (self.layout.heads, self.layout.width))

    def _decode_prefix(
        self, code: Codes, target: tuple[Signals, int], factor: Tensor, base: tuple[Signals, int] | None
    ) -> None:
        if self.rows is None:
            return
        found = torch.einsum("hctb,hcpt->hbcp", self._means(code), self.rows) * self.by_head(factor)
        target[0].prefix[target[1]] = found if base is None else found + base[0].prefix[base[1]]
