"""Supports of many signals side by side, in single precision: their systems, and the active set that settles them.

Codes here are one entry longer than they are, and Gram matrices one row and column of zeros: supports are padded to the
largest with the number of that spare entry, where nothing ever happens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Settled", "Supports", "Systems", "settle", "with_spare"]

#: How far |c_i| may exceed lam before atom i joins, relative to lam.
_SLACK = 1e-4
#: Atoms join whose violation is at least a share of the worst one's: the first step's, what it falls by, the last.
_SHARE, _SHARE_FALLS, _SHARE_LEAST = 0.5, 0.09, 0.05


def with_spare(value: Tensor, rows: bool = True) -> Tensor:
    """`value` with one more column of zeros, and row if `rows`."""
    return F.pad(value, (0, 1, 0, 1) if rows else (0, 1))


class Supports(NamedTuple):
    """The atoms of each signal's support, and their signs.

    Attributes:
        atoms: (n, k), the spare entry's number where a support is smaller.
        sign: (n, k), zero there.
        spare: that number, d'.
    """

    atoms: Tensor
    sign: Tensor
    spare: int

    @classmethod
    def of(cls, signs: Tensor) -> Supports:
        """The non-zeros of `signs`, (n, d')."""
        empty = cls.empty(len(signs), signs.shape[1], signs)
        row, column = signs.nonzero(as_tuple=True)
        return empty.joined(row, column, signs[row, column])

    def compact(self) -> Supports:
        """Without the atoms that have lost their signs."""
        none = self.atoms.new_empty(0)
        return self.joined(none, none, self.sign.new_empty(0))

    @classmethod
    def empty(cls, n: int, spare: int, like: Tensor) -> Supports:
        """Of n signals, nothing."""
        index = torch.full((n, 1), spare, device=like.device)
        return cls(index, torch.zeros(n, 1, dtype=like.dtype, device=like.device), spare)

    def joined(self, row: Tensor, column: Tensor, sign: Tensor) -> Supports:
        """What has a sign here, and the atoms `column` of the signals `row` (in increasing order) with their `sign`."""
        stays = self.sign != 0
        held, new = stays.sum(1), torch.bincount(row, minlength=len(self.sign))
        k = max(int((held + new).max()), 1)
        n, old = len(self.sign), stays.nonzero(as_tuple=True)
        rank = stays.cumsum(1)[old] - 1
        # The newcomers' places follow those that are held.
        after = (held - new.cumsum(0) + new).index_select(0, row) + torch.arange(len(row), device=row.device)
        place = torch.cat([old[0] * k + rank, row * k + after])
        index = torch.full((n * k,), self.spare, device=row.device)
        signs = torch.zeros(n * k, dtype=self.sign.dtype, device=row.device)
        index.index_copy_(0, place, torch.cat([self.atoms[old], column]))
        signs.index_copy_(0, place, torch.cat([self.sign[old], sign]))
        return Supports(index.view(n, k), signs.view(n, k), self.spare)

    def select(self, rows: Tensor) -> Supports:
        """Those of some signals."""
        return Supports(self.atoms[rows], self.sign[rows], self.spare)

    def put(self, rows: Tensor, other: Supports) -> Supports:
        """With those of `rows` in the place of what is here."""
        k = max(self.atoms.shape[1], other.atoms.shape[1])
        index, sign = (F.pad(t, (0, k - t.shape[1]), value=v) for t, v in ((self.atoms, self.spare), (self.sign, 0)))
        index[rows] = F.pad(other.atoms, (0, k - other.atoms.shape[1]), value=self.spare)
        sign[rows] = F.pad(other.sign, (0, k - other.sign.shape[1]))
        return Supports(index, sign, self.spare)

    def gather(self, value: Tensor) -> Tensor:
        """Of (n, d' + 1) the entries on the supports, (n, k)."""
        return value.gather(1, self.atoms)


class Systems:
    """The Cholesky factors of the supports' Gram matrices; `gram` is (d' + 1, d' + 1)."""

    def __init__(self, gram: Tensor, supports: Supports) -> None:
        index, size = supports.atoms.int(), len(gram)
        n, k = index.shape
        entries = ((index * size)[:, :, None] + index[:, None, :]).view(-1)
        system = gram.view(-1).index_select(0, entries).view(n, k, k)
        system.diagonal(dim1=-2, dim2=-1).add_((index == supports.spare).to(gram.dtype))
        self.factor, failure = torch.linalg.cholesky_ex(system)
        self.singular = failure != 0

    def solve(self, right: Tensor) -> Tensor:
        """(n, k) for (n, k)."""
        return torch.cholesky_solve(right[..., None], self.factor).squeeze(-1)


class Settled(NamedTuple):
    """What `settle` found.

    Attributes:
        supports: of the codes found; of the signals that are left, the last that were tried.
        left: the signals whose conditions do not hold yet.
        steps: systems solved.
    """

    supports: Supports
    left: Tensor
    steps: int


def settle(
    gram: Tensor,
    drive: Tensor,
    lam: Tensor,
    supports: Supports,
    nonnegative: bool,
    limit: int,
    widest: int,
) -> Settled:
    """Active-set steps of all signals at once: solve on the supports, drop what changed its sign, add what violates.

    Whole groups join and leave, and nothing is asked of the objective: a signal that this does not settle within
    `limit` steps is left, as all are once a support outgrows `widest`. `gram` is (d' + 1, d' + 1), `drive` (n, d' + 1)
    and `lam` (n, 1).
    """
    out, rows, steps = supports, torch.arange(len(drive), device=drive.device), 0
    c, changed = drive, torch.zeros_like(supports.sign, dtype=torch.bool)
    if supports.atoms.shape[1] > widest:
        return Settled(out, rows, 0)
    if bool((supports.sign != 0).any()):
        supports, c, changed, steps = *_solved(gram, drive, lam, supports), 1
    while len(rows):
        violation = (c.clone() if nonnegative else c.abs()).sub_(lam).scatter_(1, supports.atoms, -1.0)
        worst = violation.amax(1, keepdim=True)
        done = ((worst <= _SLACK * lam) & ~changed.any(1, keepdim=True)).squeeze(-1)
        finished = int(done.sum())
        if finished == len(rows) or 8 * finished > len(rows) or steps >= limit:
            out = out.put(rows, supports)
            keep = (~done).nonzero().squeeze(-1)
            rows, supports = rows[keep], supports.select(keep)
            c, violation, worst, lam, drive = (t.index_select(0, keep) for t in (c, violation, worst, lam, drive))
            if steps >= limit or not len(rows):
                break
        share = max(_SHARE - _SHARE_FALLS * steps, _SHARE_LEAST)
        threshold = torch.maximum(share * worst, _SLACK * lam)
        row, column = violation.sub_(threshold).clamp_(min=0).nonzero(as_tuple=True)
        supports = supports.joined(row, column, c[row, column].sign())
        if supports.atoms.shape[1] > widest:
            break
        supports, c, changed = _solved(gram, drive, lam, supports)
        steps += 1
    return Settled(out, rows, steps)


def _solved(gram: Tensor, drive: Tensor, lam: Tensor, supports: Supports) -> tuple[Supports, Tensor, Tensor]:
    """The supports without what changes its sign in their solutions, P^T (x - P a) for the rest, and what changed."""
    sign = supports.sign
    systems = Systems(gram, supports)
    y = systems.solve(supports.gather(drive) - lam * sign)
    # Of dependent atoms nothing comes of use: such a signal starts again.
    changed = (y * sign < 0) | systems.singular[:, None]
    image = F.embedding_bag(supports.atoms, gram, per_sample_weights=y.masked_fill_(changed, 0.0), mode="sum")
    return supports._replace(sign=sign.masked_fill(changed, 0.0)), torch.sub(drive, image, out=image), changed
