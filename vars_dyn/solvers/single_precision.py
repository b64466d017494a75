"""A problem in single precision, and the alternating direction method of multipliers on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vars_dyn.penalties import Penalty
from vars_dyn.problems import SparseProblem

__all__ = ["Admm", "SinglePrecision"]

#: Over-relaxation of ADMM (Boyd et al., Foundations and Trends in Machine Learning 3, 2011, Sec. 3.4.3).
_RELAX = 1.8
#: A penalty this large makes every code zero: in these units P^T x is at most the signal's dimension.
_IDLE = 2.0**100


class SinglePrecision(NamedTuple):
    """A problem in single precision and in units of its own size; it has one element where the dictionary is shared.

    Attributes:
        gram: G, with the ridge on its diagonal where all signals share it, (elements, d', d').
        drive: P^T x + q, (elements, n, d').
        lam: lam w, (elements, n, d'), or (elements, n, 1) without weights.
        scale: the unit of codes, (elements, n, 1), in the problem's dtype: a code here times `scale` is a code there.
        descent_scale: the same for P^T x.
        penalty: the problem's penalty.
        ridge: that of each signal, (elements, n, 1) or (elements, n, d'); None where signals share it.
    """

    gram: Tensor
    drive: Tensor
    lam: Tensor
    scale: Tensor
    descent_scale: Tensor
    penalty: Penalty
    ridge: Tensor | None = None

    @classmethod
    def of(cls, problem: SparseProblem) -> SinglePrecision:
        dictionary = problem.dictionary
        weight = dictionary.matrix().reshape(-1, dictionary.signal_size, dictionary.code_size)
        x = problem.x.reshape(len(weight), -1, dictionary.signal_size)
        (single, largest), (signals, size) = _in_units(weight, (-2, -1)), _in_units(x, (-1,))
        gram, drive = single.mT @ single, signals @ single
        descent_scale = largest * size
        ridge = torch.as_tensor(problem.ridge, dtype=x.dtype, device=x.device)
        codes, dims = (*problem.batch_shape, *dictionary.code_shape), len(dictionary.code_shape)
        ridge = ridge.flatten(-dims) if ridge.ndim else ridge[None]
        ridge = (ridge if ridge.ndim == 1 else ridge.reshape(*x.shape[:-1], -1)) / largest.reshape(-1, 1, 1) ** 2
        # A problem in its own units has a ridge for each element, which the element's signals may still share.
        own = ridge.float() if problem.has_own_ridges and not bool((ridge == ridge[:, :1]).all()) else None
        if own is None:
            gram.diagonal(dim1=-2, dim2=-1).add_(ridge[:, 0].float())
        if problem.bias is not None:
            drive = drive + (problem.bias.expand(codes).reshape(drive.shape) / descent_scale).float()
        lam = problem.lam.reshape(*x.shape[:-1], 1)
        if problem.weights is not None:
            lam = problem.weight.expand(codes).reshape(drive.shape)
        # A signal of zeros may have a lam beyond single precision. It must stay finite, as infinity times zero is NaN.
        lam = (lam / descent_scale).clamp(max=_IDLE).float()
        return cls(gram, drive, lam, size / largest, descent_scale, problem.penalty, own)

    def rounding_scale(self, problem: SparseProblem) -> Tensor:
        """About |P^T x| + lam of each signal, by which rounding in P^T (x - P a) is measured."""
        if problem.weights is not None:
            return problem.size_of_descent()
        return ((self.critical() + self.lam) * self.descent_scale).reshape(problem.batch_shape)

    def select(self, rows: Tensor) -> SinglePrecision:
        """The elements `rows`."""
        if len(rows) == len(self.gram):
            return self
        gram, drive, lam, scale, descent_scale = (part[rows] for part in self[:5])
        ridge = None if self.ridge is None else self.ridge[rows]
        return SinglePrecision(gram, drive, lam, scale, descent_scale, self.penalty, ridge)

    def pulled(self, a: Tensor) -> Tensor:
        """(G + ridge I) a."""
        image = torch.bmm(a, self.gram)
        return image if self.ridge is None else image.addcmul_(self.ridge, a)

    def correction(self, a: Tensor, missing: Tensor) -> Tensor:
        """A correction that brings codes closer to solving the systems on their supports.

        `missing` is the part of the right-hand sides that the codes do not yet account for.
        """
        mask = (a != 0).to(missing.dtype)
        return _conjugate_gradients(self.pulled, mask, missing * mask)

    def critical(self) -> Tensor:
        """The smallest lam at which the code is zero, (elements, n, 1); only without weights."""
        largest = self.penalty.dual_norm(self.drive)[..., None]
        return largest.clamp(min=torch.finfo(largest.dtype).tiny)

    def share(self) -> Tensor:
        """The penalty over the smallest multiple of it at which the code is zero, (elements, n, 1)."""
        if self.lam.shape[-1] == 1:
            return self.lam / self.critical()
        tiny = torch.finfo(self.lam.dtype).tiny
        return 1 / self.penalty.dual_norm((self.drive / self.lam.clamp(min=1e-30)).clamp(-1e30, 1e30))[..., None].clamp(
            min=tiny
        )


def _in_units(value: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`value` divided by its largest entry, in single precision, and that entry."""
    single = value.float()
    largest = torch.maximum(single.amax(dims, keepdim=True), -single.amin(dims, keepdim=True))
    largest = largest.masked_fill_(largest == 0, 1.0)
    return single / largest, largest.to(value.dtype)


class Admm:
    """The alternating direction method of multipliers on every signal at once; it inverts the matrix only once.

    w = relax s + (1 - relax) a + u with s the argmin of the smooth part at a - u, a = soft(w, lam / rho), u = w - a.
    A ridge of each signal is counted to the penalty, so that one inverse serves all: a = soft(w, lam / rho) / (1 +
    ridge / rho).
    """

    def __init__(self, problem: SinglePrecision, least: float) -> None:
        # With this rho the threshold is about as large as the codes, where few steps were found to be enough. Signals
        # whose codes are zero do not count: the lam of a signal of zeros may be any number in these units.
        share = problem.share()
        busy = (share < 1) & (problem.drive != 0).any(-1, keepdim=True)
        count = busy.sum((-2, -1), keepdim=True).clamp(min=1)
        size = torch.where(busy, share, 0.0).sum((-2, -1), keepdim=True) / count
        diagonal = problem.gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        rho = diagonal * (1.6 * size).clamp(least, 1.0)
        rho = torch.where(rho > 0, rho, 1.0)  # beside a large ridge, a small dictionary may be zero in single precision
        eye = torch.eye(problem.gram.shape[-1], dtype=rho.dtype, device=rho.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(problem.gram + rho * eye)[0])
        self.pull, self.rest = _RELAX * rho * inverse - (_RELAX - 1) * eye, _RELAX * (problem.drive @ inverse)
        self.bound, self.penalty = _one_number(problem.lam / rho), problem.penalty
        self.shrunk = None if problem.ridge is None else 1 / (1 + problem.ridge / rho)
        self.w, self.u = torch.zeros_like(problem.drive), torch.zeros_like(problem.drive)

    def run(self, steps: int) -> None:
        """Take `steps` steps."""
        w, u, v = self.w, self.u, torch.empty_like(self.w)
        # The types of clamp do not say that both bounds are numbers or both tensors.
        bounds: Any = self.penalty.bounds(self.bound)
        for _ in range(steps):
            torch.sub(w, u, alpha=2, out=v)
            w = torch.baddbmm(self.rest, v, self.pull).add_(u, alpha=2 - _RELAX)
            u = w.clamp(*bounds)
            if self.shrunk is not None:
                u = torch.addcmul(w, w - u, self.shrunk, value=-1)
        self.w, self.u = w, u

    def code(self) -> Tensor:
        """The codes reached."""
        return self.w - self.u

    def keep(self, signals: Tensor) -> None:
        """Drop all other signals of the one element."""
        for name in ("rest", "w", "u"):
            setattr(self, name, getattr(self, name)[:, signals])
        if isinstance(self.bound, Tensor):
            self.bound = self.bound[:, signals]
        if self.shrunk is not None:
            self.shrunk = self.shrunk[:, signals]


def _one_number(bound: Tensor) -> Tensor | float:
    """A number where all entries are the same, since clamping by a number takes half as long."""
    least, most = bound.aminmax()
    return float(least) if bool(least == most) else bound


def _conjugate_gradients(pulled: Callable[[Tensor], Tensor], mask: Tensor, right: Tensor, steps: int = 12) -> Tensor:
    """y after a few steps towards (G_A + ridge I) y = right on the supports `mask`, for all signals at once."""
    y, r, p = torch.zeros_like(right), right, right
    square = (r * r).sum(-1, keepdim=True)
    tiny = torch.finfo(right.dtype).tiny
    for _ in range(steps):
        image = pulled(p).mul_(mask)
        step = square / (p * image).sum(-1, keepdim=True).clamp_(min=tiny)
        y, r = torch.addcmul(y, step, p), torch.addcmul(r, step, image, value=-1)
        following = (r * r).sum(-1, keepdim=True)
        p, square = torch.addcmul(r, following / square.clamp_(min=tiny), p), following
    return y
