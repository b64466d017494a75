"""P and P^T of templates on a grid, alone or beside features of tokens, with the steps that surround them."""

from __future__ import annotations

import itertools
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
        self._next: Tensor | None = None

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
        """The code soft(old + P^T source, lam), or gain P^T source without `old`; target = base + factor P code.

        With `base`, the target is the next source.
        """
        code, kind = self.empty(), array(gain).dtype.type
        given = (
            *(self.layout.geometry, self.kernels, source[0].slot(source[1]), array(gain)),
            array(self._none if old is None else old.maps),
            Code(array(code.maps), array(code.sums), array(self._share(source))),
            *(kind(lam), Slot(array(target[0].maps), -1) if base is None else base[0].slot(base[1])),
            *(target[0].slot(target[1]), array(factor)),
        )
        dense = self._encoded(source)
        if dense is not None:
            if old is None or old.dense is None:
                dense *= self.by_head(gain)
            else:
                dense += old.dense
                dense -= dense.clamp(-lam, lam)
        code = code._replace(dense=dense)
        self._decode(lambda channels: _loops().advance(*given, channels), code, target, factor, base, base is not None)
        return code

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
        """The derivative of a step: value <- (value + P^T source) where `after` is not zero, target = factor P value.

        The target is the next source. Without `gates` all of it is kept, and nothing comes next. The slopes in kernels
        and rows gain those of <after, P^T source> and of <value, P^T against>.
        """
        new = self.empty() if value is None else value
        given = (
            *(self.layout.geometry, self.kernels, source[0].slot(source[1]), value is not None),
            *(array(after.maps), gates, Code(array(new.maps), array(new.sums), array(self._share(source)))),
            *(against[0].slot(against[1]), array(self.slopes), target[0].slot(target[1]), array(factor)),
        )
        dense = self._encoded(source)
        if dense is not None and value is not None and value.dense is not None:
            dense += value.dense
        if dense is not None and gates and after.dense is not None:
            # An entry of a code is zero exactly where the threshold cuts it off. No derivative passes through it there.
            dense *= after.dense.sign().square_()
        new = new._replace(dense=dense)
        self._decode(lambda channels: _loops().retreat(*given, channels), new, target, factor, None, gates)
        if self.rows is not None and self.row_slopes is not None:
            for (signals, slot), code in ((source, after), (against, new)):
                slope = torch.einsum("hbcp,hctb->hcpt", signals.prefix[slot], self._means(code))
                self.row_slopes += slope.flatten(0, 1)
        return new

    def _encoded(self, signal: tuple[Signals, int]) -> Tensor | None:
        """Phi^T of a signal, which is at hand if the signal was the last target."""
        if self.features is None:
            return None
        found, self._next = self._next, None
        return self.features.encode(*signal) if found is None else found

    def _decode(
        self,
        loop: Callable[[tuple[int, int]], None],
        code: Codes,
        target: tuple[Signals, int],
        factor: Tensor,
        base: tuple[Signals, int] | None,
        goes_on: bool,
    ) -> None:
        """Run a loop, which sets `code` and its part of `target`, and add the other parts of P code to `target`.

        It goes head by head, so that a head's maps and features are still in a cache when they are needed again. With
        `goes_on`, Phi^T of the target, which is then the next source, is computed too.
        """
        by_head, width = self.by_head(factor), self.layout.width
        following = None if code.dense is None or not goes_on else torch.empty_like(code.dense)
        for head in range(self.layout.heads):
            self._each(loop, head * width, (head + 1) * width)
            if self.rows is not None:
                found = torch.einsum("ctb,cpt->bcp", self._means(code)[head], self.rows[head]) * by_head[head]
                signals, slot = target
                signals.prefix[slot, head] = found if base is None else found + base[0].prefix[base[1], head]
            if self.features is not None and code.dense is not None:
                self.features.add_decoded(head, code.dense[head] * by_head[head], *target)
                if following is not None:
                    self.features.encode_head(head, *target, following)
        self._next = following

    def _each(self, work: Callable[[tuple[int, int]], None], start: int, stop: int) -> None:
        """Do some work for channels, on as many threads as torch uses."""
        threads = torch.get_num_threads()
        if threads == 1:
            return work((start, stop))
        cuts = [start + (stop - start) * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, itertools.pairwise(cuts)))
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
