"""Coordinate descent for templates that are laid down on images, with Newton steps on the support, in compiled loops.

A code of an image is long and sparse, and an entry of it concerns few pixels. So the entries that may become active are
worked on alone (a working set), on the residual image, and P^T is applied to the whole image only to find more of them.
Between sweeps, conjugate gradients on the support solve for all its entries together, since sweeps alone are slow where
templates overlap (compare Moreau, Oudre and Vayatis, ICML 2018; Massias, Gramfort and Salmon, ICML 2018).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn.dictionaries.convolutional import ConvDictionary
from vars_dyn.penalties import L1, NonNegativeL1
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.compiled.active_set import available
from vars_dyn.solvers.compiled.work import ACCURACY
from vars_dyn.solvers.methods import Found, Goal
from vars_dyn.solvers.proposals import Proposal, Proposing

__all__ = ["CoordinateDescent"]

#: The most looks at the whole image.
_LOOKS = 200
#: The conditions of the working set are to hold within this share of the worst violation outside of it.
_SHARE = 0.1
#: Sweeps before a Newton step, the most Newton steps between looks, and the most conjugate-gradient steps of one.
_SWEEPS, _NEWTON, _CONJUGATE = 5, 20, 400
#: By how much conjugate gradients reduce the failure of the conditions.
_REDUCE = 1e-3
#: The fewest entries that may join at a look. More join where the support is larger than this.
_NEW = 1024


@cache
def _loops() -> Any:
    # deferred: needs numba, which is optional and takes time to import
    from vars_dyn.solvers.compiled import placed

    return placed


class CoordinateDescent(Proposing):
    """Coordinate descent and Newton steps on a working set of each image. FISTA goes on where it falls short."""

    def suits(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> bool:
        """True with numba, for one or two dimensions, on the CPU, without dilation, groups, weights and a bias."""
        dictionary, ridge = problem.dictionary, problem.ridge
        return (
            start is None
            and available()
            and type(dictionary) is ConvDictionary
            and dictionary.dimensions <= 2
            and dictionary.groups == 1
            and dictionary.dilation == 1
            and problem.weights is None
            and problem.bias is None
            and not (isinstance(ridge, Tensor) and ridge.ndim)
            and type(problem.penalty) in (L1, NonNegativeL1)
            and problem.x.dtype in (torch.float32, torch.float64)
            and problem.x.device.type == "cpu"
            and bool((problem.lam > 0).all())
        )

    def propose(self, problem: SparseProblem, goal: Goal) -> Proposal:
        """Codes of one image after the other, in double precision."""
        wide = problem if problem.x.dtype == torch.float64 else problem.to(dtype=torch.float64)
        code, scale = torch.zeros(len(wide.x), *wide.dictionary.code_shape, dtype=torch.float64), wide.size_of_descent()
        iterations = torch.zeros(len(wide.x), dtype=torch.long)
        for number, image in enumerate(_Image(wide, i, goal) for i in range(len(wide.x))):
            iterations[number] = image.solve(float(ACCURACY * scale[number]))
            code[number] = image.code()
        found = Found.certified(problem, code.to(problem.x.dtype), iterations)
        final = found.kkt_residual <= 2 * problem.rounding(found.code)
        return Proposal(found, scale.to(problem.x.dtype), final)


class _Set(NamedTuple):
    """A working set: flat indices of a code's entries, their placed templates' `places` and `squares`, and `values`."""

    index: NDArray[np.int64]
    places: NDArray[np.int64]
    squares: NDArray[np.float64]
    values: NDArray[np.float64]

    def select(self, rows: Any) -> _Set:
        """The entries `rows`."""
        return _Set(*(part[rows] for part in self))


class _Image:
    """One image on its way to its code."""

    def __init__(self, problem: SparseProblem, number: int, goal: Goal) -> None:
        self.problem = problem.select(torch.tensor([number]))
        dictionary: Any = problem.dictionary
        flat = dictionary.dimensions == 1
        lead = (1,) if flat else ()
        m, channels, *kernel = dictionary.weight.shape
        self.templates = dictionary.weight.detach().reshape(m, channels, *lead, *kernel).contiguous().numpy()
        x = problem.x[number]
        self.x = x.reshape(channels, *lead, *x.shape[1:]).contiguous().numpy()
        self.places_shape = (m, *lead, *dictionary.code_shape[1:])
        strides, paddings = dictionary.stride, dictionary.padding

        def both(value: Any, alone: int) -> tuple[int, int]:
            value = (value,) * dictionary.dimensions if isinstance(value, int) else tuple(value)
            return (alone, *value) if flat else value

        self.strides, self.paddings = both(strides, 1), both(paddings, 0)
        self.lam, self.ridge = float(problem.lam[number]), float(problem.ridge)
        self.goal, self.nonnegative = goal, problem.nonnegative
        none = np.empty(0, dtype=np.int64)
        self.held = _Set(none, np.empty((0, 3), dtype=np.int64), np.empty(0), np.empty(0))
        self.r = self.x.copy()

    def code(self) -> Tensor:
        """The code that was reached."""
        out = np.zeros(self.problem.dictionary.code_size)
        out[self.held.index] = self.held.values
        return torch.from_numpy(out).reshape(self.problem.dictionary.code_shape)

    def solve(self, accuracy: float) -> int:
        """Go on until the conditions hold within `accuracy`, or the gap is reached; returns the looks that it took."""
        before = np.inf
        for look in range(1, min(_LOOKS, self.goal.max_iterations) + 1):
            c = self._look()
            outside, inside = self._violations(c)
            worst = max(outside.max(initial=0.0), inside.max(initial=0.0))
            if worst <= accuracy or (worst >= before and worst <= 100 * accuracy):
                return look
            if not self.goal.polish and self._reached(c):
                return look
            before = worst
            self._join(c, outside, accuracy)
            self._settle(max(_SHARE * worst, 0.5 * accuracy))
        return look

    def _look(self) -> NDArray[np.float64]:
        """P^T r - ridge a over the whole image, flattened; r is computed again from the code."""
        self.held = self.held.select(self.held.values != 0)
        self.r = self.x.copy()
        _loops().lay(-self.held.values, self.templates, self.held.places, self.r)
        dictionary = self.problem.dictionary
        c: NDArray[np.float64] = (
            dictionary.encode_unchecked(torch.from_numpy(self.r).reshape(1, *dictionary.signal_shape))
            .numpy()
            .reshape(-1)
        )
        if self.ridge:
            c[self.held.index] -= self.ridge * self.held.values
        return c

    def _violations(self, c: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How much the conditions fail: of idle entries, at least zero, over the whole code, and of the held ones."""
        outside = np.maximum((c if self.nonnegative else np.abs(c)) - self.lam, 0)
        outside[self.held.index] = 0
        return outside, np.abs(c[self.held.index] - self.lam * np.sign(self.held.values))

    def _reached(self, c: NDArray[np.float64]) -> bool:
        code = self.code()[None]
        found = self.problem.relative_gap(code)
        return bool((found <= self.goal.tol).all())

    def _join(self, c: NDArray[np.float64], outside: NDArray[np.float64], accuracy: float) -> None:
        """Take in the idle entries that violate their conditions most."""
        new = np.flatnonzero(outside > 0.1 * accuracy)
        most = max(_NEW, len(self.held.index))
        if len(new) > most:
            new = new[np.argpartition(-outside[new], most)[:most]]
        index = np.concatenate([self.held.index, new])
        values = np.concatenate([self.held.values, np.zeros(len(new))])
        m, y, x = np.unravel_index(index, self.places_shape)
        y, x = y * self.strides[0] - self.paddings[0], x * self.strides[1] - self.paddings[1]
        # Neighbours in memory are worked on one after the other.
        order = np.lexsort((m, x, y))
        places = np.ascontiguousarray(np.stack([m, y, x], -1)[order]).astype(np.int64)
        self.held = _Set(index[order], places, self._squares(places), values[order])

    def _squares(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """The squared norms of the placed templates."""
        whole = np.square(self.templates).sum((1, 2, 3))[places[:, 0]]
        sides, kernel = self.x.shape[1:], self.templates.shape[2:]
        cut = np.zeros(len(places), dtype=bool)
        for axis in range(2):
            corner = places[:, 1 + axis]
            cut |= (corner < 0) | (corner + kernel[axis] > sides[axis])
        if cut.any():
            squares = np.empty(int(cut.sum()))
            for t, (m, y, x) in enumerate(places[cut]):
                part = self.templates[m, :, max(0, -y) : sides[0] - y, max(0, -x) : sides[1] - x]
                squares[t] = np.square(part).sum()
            whole[cut] = squares
        return whole

    def _settle(self, tol: float) -> None:
        """Bring the conditions of the working set within `tol`."""
        for _ in range(_NEWTON):
            held = self.held
            moved = _loops().descend(
                self.r, self.templates, held.places, held.squares, self.lam, self.ridge, self.nonnegative,
                held.values, 0.1 * tol, _SWEEPS,
            )  # fmt: skip
            if moved <= 0.1 * tol:
                return
            rows = np.flatnonzero(held.values)
            if not len(rows) or self._newton(rows, tol) <= 0.1 * tol:
                continue

    def _newton(self, rows: NDArray[np.int64], tol: float) -> float:
        """A step to the minimum on the support `rows`, at which entries stop at zero; returns the failure before it."""
        loops, own = _loops(), self.held.select(rows)
        out = np.empty(len(rows))

        def applied(image: NDArray[np.float64]) -> NDArray[np.float64]:
            loops.correlate(image, self.templates, own.places, out)
            return out

        right = applied(self.r) - self.ridge * own.values - self.lam * np.sign(own.values)
        failing = float(np.abs(right).max())
        if failing <= 0.1 * tol:
            return failing
        diagonal = own.squares + self.ridge
        step, image = np.zeros(len(rows)), np.zeros_like(self.x)
        residual, direction = right.copy(), right / diagonal
        inner, first = residual @ direction, np.linalg.norm(residual)
        canvas = np.empty_like(self.x)
        for _ in range(_CONJUGATE):
            canvas.fill(0.0)
            loops.lay(direction, self.templates, own.places, canvas)
            push = applied(canvas) + self.ridge * direction
            curvature = direction @ push
            if not curvature > 0:
                break
            along = inner / curvature
            step += along * direction
            image += along * canvas
            residual -= along * push
            if np.linalg.norm(residual) <= _REDUCE * first:
                break
            scaled = residual / diagonal
            following = residual @ scaled
            direction, inner = scaled + (following / inner) * direction, following
        self._go(rows, own, step, image)
        return failing

    def _go(self, rows: NDArray[np.int64], own: _Set, step: NDArray[np.float64], image: NDArray[np.float64]) -> None:
        """Take the step, whose image is `image`; entries that would change their sign become zero, if E falls so."""
        there = own.values + step
        crossing = there * own.values < 0
        if not crossing.any():
            self.held.values[rows] = there
            self.r -= image
            return
        clipped = np.where(crossing, 0.0, there)
        r = self.x.copy() if len(rows) == 0 else self.r - image
        _loops().lay(np.where(crossing, there, 0.0), self.templates, own.places, r)
        if self._energy(r, clipped) <= self._energy(self.r, own.values):
            self.held.values[rows], self.r = clipped, r
            return
        ratio = np.where(crossing, -own.values / np.where(crossing, step, 1.0), np.inf)
        first = ratio.min()
        self.held.values[rows] = np.where(ratio <= first, 0.0, own.values + first * step)
        self.r -= first * image

    def _energy(self, r: NDArray[np.float64], values: NDArray[np.float64]) -> float:
        """E, of the held entries."""
        return (
            0.5 * float(np.vdot(r, r))
            + self.lam * float(np.abs(values).sum())
            + 0.5 * self.ridge * float(values @ values)
        )
