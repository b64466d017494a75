"""Supports of many signals side by side, in single precision: their systems, and the active set that settles them.

Every support is padded to the size of the largest. The padding is d', the number of an atom that does not exist. So
codes here have one entry more than there are atoms, and Gram matrices have one more row and column, all zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vars_dyn.penalties import Penalty

__all__ = ["SettledSupports", "Supports", "Systems", "padded", "settle"]

#: How far |c_i| may exceed lam before atom i joins, relative to lam.
_SLACK = 1e-4
#: An atom joins if its violation is at least a share of the worst one. These are the share at the first step, its fall
#: per step, and the least share.
_SHARE, _SHARE_FALLS, _SHARE_LEAST = 0.5, 0.09, 0.05


def padded(value: Tensor, rows: bool = True) -> Tensor:
    """`value` with one more column of zeros, and one more row if `rows`."""
    return F.pad(value, (0, 1, 0, 1) if rows else (0, 1))


class Supports(NamedTuple):
    """The atoms of each signal's support, and their signs.

    Attributes:
        atoms: (n, k), padded where a support is smaller.
        sign: (n, k), zero at the padding.
        padding: d', the number of the atom that does not exist.
    """

    atoms: Tensor
    sign: Tensor
    padding: int

    @classmethod
    def of(cls, signs: Tensor) -> Supports:
        """The supports of codes with these `signs`, (n, d')."""
        empty = cls.empty(len(signs), signs.shape[1], signs)
        row, column = signs.nonzero(as_tuple=True)
        return empty.joined(row, column, signs[row, column])

    def compact(self) -> Supports:
        """These supports without the atoms whose sign is zero."""
        none = self.atoms.new_empty(0)
        return self.joined(none, none, self.sign.new_empty(0))

    @classmethod
    def empty(cls, n: int, padding: int, like: Tensor) -> Supports:
        """Empty supports for n signals, in the dtype and on the device of `like`."""
        index = torch.full((n, 1), padding, device=like.device)
        return cls(index, torch.zeros(n, 1, dtype=like.dtype, device=like.device), padding)

    def joined(self, row: Tensor, column: Tensor, sign: Tensor) -> Supports:
        """These supports without atoms whose sign is zero, and with the atoms `column` of the signals `row` added.

        `sign` holds the signs of the added atoms. `row` must increase.
        """
        stays = self.sign != 0
        held, new = stays.sum(1), torch.bincount(row, minlength=len(self.sign))
        k = max(int((held + new).max()), 1)
        n, old = len(self.sign), stays.nonzero(as_tuple=True)
        rank = stays.cumsum(1)[old] - 1
        # Newcomers take the places after the atoms that stay.
        after = (held - new.cumsum(0) + new).index_select(0, row) + torch.arange(len(row), device=row.device)
        place = torch.cat([old[0] * k + rank, row * k + after])
        index = torch.full((n * k,), self.padding, device=row.device)
        signs = torch.zeros(n * k, dtype=self.sign.dtype, device=row.device)
        index.index_copy_(0, place, torch.cat([self.atoms[old], column]))
        signs.index_copy_(0, place, torch.cat([self.sign[old], sign]))
        return Supports(index.view(n, k), signs.view(n, k), self.padding)

    def select(self, rows: Tensor) -> Supports:
        """The supports of the signals `rows`."""
        return Supports(self.atoms[rows], self.sign[rows], self.padding)

    def put(self, rows: Tensor, other: Supports) -> Supports:
        """These supports, with `other` in the place of those of the signals `rows`."""
        k = max(self.atoms.shape[1], other.atoms.shape[1])
        index, sign = (F.pad(t, (0, k - t.shape[1]), value=v) for t, v in ((self.atoms, self.padding), (self.sign, 0)))
        index[rows] = F.pad(other.atoms, (0, k - other.atoms.shape[1]), value=self.padding)
        sign[rows] = F.pad(other.sign, (0, k - other.sign.shape[1]))
        return Supports(index, sign, self.padding)

    def gather(self, value: Tensor) -> Tensor:
        """The entries of `value`, (n, d' + 1), on the supports: (n, k)."""
        return value.gather(1, self.atoms)

    def own(self, lam: Tensor) -> Tensor:
        """`lam`, (n, 1), or its entries on the supports where it has one for every atom."""
        return lam if lam.shape[1] == 1 else self.gather(lam)


class Systems:
    """The Cholesky factors of the supports' Gram matrices; `gram` is (d' + 1, d' + 1).

    `ridge` is added to their diagonals: (n, 1), or (n, d' + 1) where every atom has its own.
    """

    def __init__(self, gram: Tensor, supports: Supports, ridge: Tensor | None = None) -> None:
        index, size = supports.atoms.int(), len(gram)
        n, k = index.shape
        entries = ((index * size)[:, :, None] + index[:, None, :]).view(-1)
        system = gram.view(-1).index_select(0, entries).view(n, k, k)
        system.diagonal(dim1=-2, dim2=-1).add_((index == supports.padding).to(gram.dtype))
        if ridge is not None:
            system.diagonal(dim1=-2, dim2=-1).add_(supports.own(ridge))
        self.factor, failure = torch.linalg.cholesky_ex(system)
        self.singular = failure != 0

    def solve(self, right: Tensor) -> Tensor:
        """The systems' solutions, (n, k), for right-hand sides (n, k)."""
        return torch.cholesky_solve(right[..., None], self.factor).squeeze(-1)


class SettledSupports(NamedTuple):
    """What `settle` found.

    Attributes:
        supports: the supports of the codes found; for signals that are left, the last supports that were tried.
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
    penalty: Penalty,
    limit: int,
    widest: int,
    ridge: Tensor | None = None,
) -> SettledSupports:
    """Active-set steps for all signals at once: solve on the supports, drop atoms whose sign changed, add violators.

    Whole groups of atoms join and leave, and the objective is not computed. A signal that does not settle within
    `limit` steps is left; all that have not settled are left once a support outgrows `widest`.

    `gram` is (d' + 1, d' + 1), `drive` (n, d' + 1) and `lam` (n, 1), or (n, d' + 1) with weights; `ridge` is as `lam`.
    """
    out, rows, steps = supports, torch.arange(len(drive), device=drive.device), 0
    c, changed = drive, torch.zeros_like(supports.sign, dtype=torch.bool)
    if supports.atoms.shape[1] > widest:
        return SettledSupports(out, rows, 0)
    if bool((supports.sign != 0).any()):
        supports, c, changed, steps = *_solved(gram, drive, lam, supports, penalty, ridge), 1
    while len(rows):
        violation = penalty.excess(c, lam).scatter_(1, supports.atoms, -1.0)
        worst = violation.amax(1, keepdim=True)
        within = worst <= _SLACK * lam if lam.shape[1] == 1 else (violation <= _SLACK * lam).all(1, keepdim=True)
        done = (within & ~changed.any(1, keepdim=True)).squeeze(-1)
        finished = int(done.sum())
        if finished == len(rows) or 8 * finished > len(rows) or steps >= limit:
            out = out.put(rows, supports)
            keep = (~done).nonzero().squeeze(-1)
            rows, supports = rows[keep], supports.select(keep)
            c, violation, worst, lam, drive = (t.index_select(0, keep) for t in (c, violation, worst, lam, drive))
            ridge = None if ridge is None else ridge.index_select(0, keep)
            if steps >= limit or not len(rows):
                break
        share = max(_SHARE - _SHARE_FALLS * steps, _SHARE_LEAST)
        threshold = torch.maximum(share * worst, _SLACK * lam)
        row, column = violation.sub_(threshold).clamp_(min=0).nonzero(as_tuple=True)
        supports = supports.joined(row, column, c[row, column].sign())
        if supports.atoms.shape[1] > widest:
            break
        supports, c, changed = _solved(gram, drive, lam, supports, penalty, ridge)
        steps += 1
    return SettledSupports(out, rows, steps)


def _solved(
    gram: Tensor, drive: Tensor, lam: Tensor, supports: Supports, penalty: Penalty, ridge: Tensor | None
) -> tuple[Supports, Tensor, Tensor]:
    """The supports without the atoms whose sign changed in the solutions, P^T (x - P a) - ridge a there, and which
    changed.
    """
    sign = supports.sign
    systems = Systems(gram, supports, ridge)
    y = systems.solve(supports.gather(drive) - penalty.slope(sign, supports.own(lam)))
    # The factor of linearly dependent atoms is useless, so all atoms of such a signal leave.
    changed = (y * sign < 0) | systems.singular[:, None]
    image = F.embedding_bag(supports.atoms, gram, per_sample_weights=y.masked_fill_(changed, 0.0), mode="sum")
    if ridge is not None:
        image.scatter_add_(1, supports.atoms, supports.own(ridge) * y)
    return supports._replace(sign=sign.masked_fill(changed, 0.0)), torch.sub(drive, image, out=image), changed
