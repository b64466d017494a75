"""Units in which the signals and the dictionary of a problem are about one, so that nothing underflows or overflows.

With signals x 2^-e, a dictionary P 2^-f, a penalty lam 2^-(e+f) and a ridge mu 2^-2f, codes become a 2^(f-e), P^T x is
multiplied by 2^-(e+f), and E by 2^-2e. Powers of two round nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn import _scaling
from vars_dyn.dictionaries.base import Dictionary, Rounding
from vars_dyn.shapes import expand_trailing

__all__ = ["Units", "flat_rounding", "narrowed", "units"]


class Units(NamedTuple):
    """The units of a problem, one per signal.

    Attributes:
        e, f: integer exponents of the signals' and the dictionary's units.
        own: f in the shape in which it scales the dictionary: one number, or one per element.
        code_dims: how many dimensions a code has.
        plain: whether the numbers are in range as they are. These units are then not needed, and e and f are unused.
    """

    e: Tensor
    f: Tensor
    own: Tensor
    code_dims: int
    plain: bool

    def _by(self, value: Tensor, exponent: Tensor) -> Tensor:
        return value if self.plain else _scaling.scaled(value, exponent)

    def code(self, a: Tensor, *, back: bool = False) -> Tensor:
        """A code in these units; with `back`, a code of these units in the original ones."""
        if self.plain:
            return a
        exponent = self.e - self.f if back else self.f - self.e
        return _scaling.scaled(a, exponent.reshape(*exponent.shape, *(1,) * self.code_dims))

    def amplitude(self, value: Tensor) -> Tensor:
        """An entry of each signal's code: from these units to the original ones."""
        return self._by(value, self.e - self.f)

    def energy(self, value: Tensor) -> Tensor:
        """E: from these units to the original ones."""
        return self._by(value, 2 * self.e)

    def descent(self, value: Tensor) -> Tensor:
        """P^T x: from these units to the original ones."""
        return self._by(value, self.e + self.f)

    def penalty(self, lam: Tensor, length: Tensor) -> Tensor:
        """The penalty in the original units, for sum_i r(a_i) = `length` in these and lam in the original ones."""
        lam = lam.to(length.dtype)
        if self.plain:
            return lam * length
        own = torch.frexp(lam.detach()).exponent
        return _scaling.scaled(_scaling.scaled(lam, -own) * length, own + self.e - self.f)

    def bias(self, q: Tensor) -> Tensor:
        """A bias, shaped like the signals' codes: from the original units to these."""
        if self.plain:
            return q
        exponent = self.e + self.f
        return _scaling.scaled(q, -exponent.reshape(*exponent.shape, *(1,) * self.code_dims))

    def weight(self, lam: Tensor) -> Tensor:
        """lam in these units, at most the dtype's largest number; not zero unless it is zero."""
        number = torch.finfo(lam.dtype)
        inside = self._by(lam, -(self.e + self.f)).clamp(max=number.max)
        return torch.where(lam > 0, inside.clamp(min=number.smallest_normal * number.eps), inside)

    def ridge(self, ridge: Tensor) -> Tensor:
        """The ridge in these units, which broadcasts against codes; the elements' dictionaries may have units each."""
        exponent = expand_trailing(self.f, self.code_dims) if self.own.ndim else self.own
        return self._by(ridge, -2 * exponent)


def units(x: Tensor, dictionary: Dictionary, ridge: float | Tensor, bias: Tensor | None = None) -> Units:
    """Units for signals x and P. The size of P is the larger of its largest entry and the square root of the ridge.

    The size of a signal is the larger of its largest entry and that of its bias over the size of P.

    Raises ValueError where x or P are not finite.
    """
    with torch.no_grad():
        batch = x.shape[: x.ndim - len(dictionary.signal_shape)]
        size = _scaling.largest(x, len(dictionary.signal_shape))
        root = torch.as_tensor(ridge, dtype=torch.float64, device=x.device).sqrt()
        if root.ndim:
            shared = root.ndim == len(dictionary.code_shape) or not dictionary.batch_shape
            root = _scaling.largest(root, root.ndim - (0 if shared else len(dictionary.batch_shape)))
        own = dictionary.largest()
        both = torch.cat([size.flatten(), torch.maximum(own.to(root), root).to(size.dtype).flatten()])
        if not bool(torch.isfinite(both).all()) and not bool(torch.isfinite(own).all() & torch.isfinite(size).all()):
            raise ValueError("the dictionary or x holds NaN or infinite entries; finite numbers are wanted")
        e, f = torch.frexp(size).exponent, torch.frexp(torch.maximum(own.double(), root)).exponent
        if bias is not None:
            largest = _scaling.largest(bias, len(dictionary.code_shape))
            by_bias = torch.frexp(largest).exponent - (f[..., None] if f.ndim else f)
            e = torch.where((largest > 0) & ((by_bias > e) | (size == 0)), by_bias, e)
        plain = _scaling.within(torch.cat([e.flatten(), f.flatten()]), x.dtype)
    per_signal = f[..., None].expand(batch) if f.ndim else f.expand(batch)
    return Units(e, per_signal, f, len(dictionary.code_shape), plain)


def narrowed(value: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` in a dtype, rounded upwards; it is zero only where `bound`, from which it was computed, is zero."""
    number = torch.finfo(dtype)
    if value.dtype != dtype:
        value = (value * (1 + number.eps)).to(dtype)
    # A subnormal number has lost its last digits.
    return torch.where((value < number.smallest_normal) & (bound != 0), value + number.smallest_normal / 2**3, value)


def flat_rounding(dictionary: Dictionary, original: Dictionary | None) -> Rounding:
    """The dictionary's rounding, with norms of shape (*batch, 1, d'), (d',), or (1,) where they differ little.

    `original` is the dictionary before it was scaled, if it was: then only a dictionary of zeros has norms of zero.
    """
    found, event = dictionary.rounding(), len(dictionary.code_shape)
    norms = found.norms.expand(*found.norms.shape[: max(found.norms.ndim - event, 0)], *dictionary.code_shape)
    norms = norms.flatten(-event)
    if original is not None:
        some = original.largest() > 0
        norms = torch.where(
            some[..., None, None] if some.ndim else some, norms.clamp(min=torch.finfo(norms.dtype).tiny), 0.0
        )
    if norms.ndim == 1 and bool(norms.max() <= 2 * norms.min()):
        norms = norms.max()[None]
    return found._replace(norms=norms)
