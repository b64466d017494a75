"""Loops over templates that are laid down on an image: their correlations with it, and coordinate descent.

An image is (C, H, W), a template (C, kh, kw). A placed template has a row of `places`, its number and where its corner
lies on the image; the part beyond the border is cut off. One step costs a few hundred operations, whatever the image's
size, because only the template's own pixels change.
"""

from __future__ import annotations

import numpy as np

from vars_dyn.solvers.compiled.loops import compiled, inlined
from vars_dyn.solvers.compiled.values import Array, Index

__all__ = ["correlate", "descend", "lay"]


@inlined
def _inside(corner: int, length: int, side: int) -> tuple[int, int]:
    """Which entries of a template of `length` lie on an image of `side`."""
    return max(0, -corner), min(length, side - corner)


@inlined
def _dot(template: Array, image: Array, y: int, x: int) -> float:
    top, bottom = _inside(y, template.shape[1], image.shape[1])
    left, right = _inside(x, template.shape[2], image.shape[2])
    total = 0.0
    for c in range(template.shape[0]):
        for i in range(top, bottom):
            row, own = image[c, y + i], template[c, i]
            for j in range(left, right):
                total += own[j] * row[x + j]
    return total


@inlined
def _add(value: float, template: Array, image: Array, y: int, x: int) -> None:
    top, bottom = _inside(y, template.shape[1], image.shape[1])
    left, right = _inside(x, template.shape[2], image.shape[2])
    for c in range(template.shape[0]):
        for i in range(top, bottom):
            row, own = image[c, y + i], template[c, i]
            for j in range(left, right):
                row[x + j] += value * own[j]


@compiled
def correlate(image: Array, templates: Array, places: Index, out: Array) -> None:
    """The inner product of each placed template with the image."""
    for t in range(len(places)):
        out[t] = _dot(templates[places[t, 0]], image, places[t, 1], places[t, 2])


@compiled
def lay(values: Array, templates: Array, places: Index, image: Array) -> None:
    """Add the placed templates times `values` to the image."""
    for t in range(len(places)):
        if values[t] != 0:
            _add(values[t], templates[places[t, 0]], image, places[t, 1], places[t, 2])


@compiled
def descend(
    r: Array, templates: Array, places: Index, squares: Array, lam: float, ridge: float, nonnegative: bool,
    code: Array, tol: float, sweeps: int,
) -> float:  # fmt: skip
    """Sweeps over the placed templates, each entry of `code` going to its minimum given the others.

    `r` is the image that is left to explain, and follows. `squares` are the squared norms of the placed templates.
    Ends where no entry moved by more than `tol`, measured in P^T x, or after `sweeps`; returns the largest such move.
    """
    most = 0.0
    for _ in range(sweeps):
        most = 0.0
        for t in range(len(places)):
            curvature = squares[t] + ridge
            if curvature == 0:
                continue
            template, y, x, old = templates[places[t, 0]], places[t, 1], places[t, 2], code[t]
            aim = _dot(template, r, y, x) + squares[t] * old
            size = aim if nonnegative else abs(aim)
            new = np.copysign(size - lam, aim) / curvature if size > lam else 0.0
            if new != old:
                _add(old - new, template, r, y, x)
                code[t] = new
                most = max(most, abs(new - old) * curvature)
        if most <= tol:
            break
    return most
