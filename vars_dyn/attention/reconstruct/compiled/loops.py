"""The steps on a token grid, channel by channel, in loops that numba compiles. Only `forms` imports this, if it can.

A map of one channel is one row of numbers: `lead` zeros, then every image with `lead` zeros and its pixels row by row,
each followed by columns of zeros, and `lead` zeros at the end. So a convolution is a sum of the row itself at fixed
distances, whose loop has no edges, and a processor's vector units are always full. A channel's maps stay in the
processor's first cache while its templates are gone through.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from vars_dyn.attention.reconstruct.compiled.values import Array, Code, Geometry, Kernels, Slot

__all__ = ["advance", "retreat"]

#: How sums may be reordered. NaN and infinity keep their meaning: an image with NaN tokens gives NaN.
_ORDER = {"reassoc", "contract", "nsz"}
_SETTINGS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": _ORDER}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(inspect.unwrap(function), **_SETTINGS)


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(inspect.unwrap(function), forceinline=True, **_SETTINGS)


@_inlined
def _convolve(out: Array, x: Array, at: int, width: int, kernel: Array) -> None:
    """Add to out_i the sum of kernel_d x_{at + i + d} over the distances d of the kernel's entries."""
    n, (height, across) = len(out), kernel.shape
    first = at - (height // 2) * width - across // 2
    if height == 3 and across == 3:
        k0, k1, k2 = kernel[0], kernel[1], kernel[2]
        a0, a1, a2, b0, b1, b2, c0, c1, c2 = k0[0], k0[1], k0[2], k1[0], k1[1], k1[2], k2[0], k2[1], k2[2]
        a = x[first : first + n + 2]
        b = x[first + width : first + width + n + 2]
        c = x[first + 2 * width : first + 2 * width + n + 2]
        for i in range(n):
            above = a0 * a[i] + a1 * a[i + 1] + a2 * a[i + 2]
            level = b0 * b[i] + b1 * b[i + 1] + b2 * b[i + 2]
            out[i] += above + level + (c0 * c[i] + c1 * c[i + 1] + c2 * c[i + 2])
        return
    for r in range(height):
        for s in range(across):
            weight, start = kernel[r, s], first + r * width + s
            y = x[start : start + n]
            for i in range(n):
                out[i] += weight * y[i]


@_inlined
def _step(out: Array, old: Array, x: Array, at: int, width: int, kernel: Array, lam: float, mask: Array) -> None:
    """out = soft(old + the convolution of `_convolve`, lam) at pixels, with zeros beside them; for kernels of 3 x 3."""
    n, first, zero = len(out), at - width - 1, mask[0] - mask[0]
    k0, k1, k2 = kernel[0], kernel[1], kernel[2]
    a0, a1, a2, b0, b1, b2, c0, c1, c2 = k0[0], k0[1], k0[2], k1[0], k1[1], k1[2], k2[0], k2[1], k2[2]
    a = x[first : first + n + 2]
    b = x[first + width : first + width + n + 2]
    c = x[first + 2 * width : first + 2 * width + n + 2]
    for i in range(n):
        above = a0 * a[i] + a1 * a[i + 1] + a2 * a[i + 2]
        level = b0 * b[i] + b1 * b[i + 1] + b2 * b[i + 2]
        v = old[i] + above + level + (c0 * c[i] + c1 * c[i + 1] + c2 * c[i + 2])
        v -= max(min(v, lam), -lam)
        out[i] = v if mask[i] != 0 else zero


@_inlined
def _correlate(slope: Array, code: Array, x: Array, at: int, width: int) -> None:
    """Add to every entry of a kernel's slope the inner product of a code with x at the entry's distance."""
    n, (height, across) = len(code), slope.shape
    first, zero = at - (height // 2) * width - across // 2, x[0] - x[0]
    for r in range(height):
        own, start = slope[r], first + r * width
        if across == 3:
            # Nine sums at once are slower than three times three.
            y, s0, s1, s2 = x[start : start + n + 2], zero, zero, zero
            for i in range(n):
                v = code[i]
                s0 += v * y[i]
                s1 += v * y[i + 1]
                s2 += v * y[i + 2]
            own[0] += s0
            own[1] += s1
            own[2] += s2
        else:
            for s in range(across):
                y, total = x[start + s : start + s + n], zero
                for i in range(n):
                    total += code[i] * y[i]
                own[s] += total


@_inlined
def _share(out: Array, share: Array, geometry: Geometry, image: int) -> None:
    """Add every image's number to its entries; `image` is the number of the first."""
    for b in range(len(out) // geometry.stride):
        part, value = out[b * geometry.stride : (b + 1) * geometry.stride], share[image + b]
        for i in range(len(part)):
            part[i] += value


@_inlined
def _sums(code: Array, sums: Array, geometry: Geometry, image: int) -> None:
    """The sum of a code over each image."""
    for b in range(len(code) // geometry.stride):
        part, total = code[b * geometry.stride : (b + 1) * geometry.stride], code[0] - code[0]
        for i in range(len(part)):
            total += part[i]
        sums[image + b] = total


@_inlined
def _hand_over(total: Array, geometry: Geometry, image: int, target: Array, base: Array, factor: Array) -> None:
    """target = base + factor total, with zeros beside the pixels; `base` may be empty."""
    for b in range(len(total) // geometry.stride):
        start = b * geometry.stride
        at = geometry.lead + image * geometry.stride + start
        part, out = total[start : start + geometry.stride], target[at : at + geometry.stride]
        weight, mask = factor[image + b], geometry.mask
        zero = mask[0] - mask[0]
        if len(base):
            before = base[at : at + geometry.stride]
            for i in range(len(part)):
                v = before[i] + weight * part[i]
                out[i] = v if mask[i] != 0 else zero
        else:
            for i in range(len(part)):
                v = weight * part[i]
                out[i] = v if mask[i] != 0 else zero


@_inlined
def _zero(out: Array) -> None:
    for i in range(len(out)):
        out[i] = 0


@_compiled
def advance(
    geometry: Geometry,
    kernels: Kernels,
    source: Slot,
    gain: Array,
    old: Array,
    code: Code,
    lam: float,
    base: Slot,
    target: Slot,
    factor: Array,
    channels: tuple[int, int],
) -> None:
    """A step, and what follows from it: code = soft(old + P^T source, lam), target = base + factor P code.

    Without `old` it is code = gain P^T source. Without `base` it is target = factor P code.
    """
    stride, lead, width, zero = geometry.stride, geometry.lead, geometry.width, geometry.mask[0] - geometry.mask[0]
    total = np.empty(geometry.chunk * stride, gain.dtype)
    mask = geometry.mask
    for c in range(channels[0], channels[1]):
        x, out = source.maps[c, source.number], target.maps[c, target.number]
        before = base.maps[c, base.number] if base.number >= 0 else total[:0]
        for image in range(0, geometry.images, geometry.chunk):
            last = min(image + geometry.chunk, geometry.images)
            start, stop = lead + image * stride, lead + last * stride
            acc = total[: stop - start]
            _zero(acc)
            for t in range(code.maps.shape[1]):
                row = code.maps[c, t]
                new, kernel = row[start:stop], kernels.own[c, t]
                if len(old) and kernel.shape == (3, 3) and not len(code.share):
                    _step(new, old[c, t, start:stop], x, start, width, kernel, lam, mask)
                else:
                    _zero(new)
                    _convolve(new, x, start, width, kernel)
                    if len(code.share):
                        _share(new, code.share[c, t], geometry, image)
                    if len(old):
                        own = old[c, t, start:stop]
                        for i in range(len(new)):
                            v = own[i] + new[i]
                            v -= max(min(v, lam), -lam)
                            new[i] = v if mask[i] != 0 else zero
                    else:
                        for b in range(last - image):
                            part, weight = new[b * stride : (b + 1) * stride], gain[c, image + b]
                            for i in range(stride):
                                v = weight * part[i]
                                part[i] = v if mask[i] != 0 else zero
                if image == 0:
                    _zero(row[:start])
                _zero(row[stop : stop + lead])
                if len(code.sums):
                    _sums(new, code.sums[c, t], geometry, image)
                _convolve(acc, row, start, width, kernels.flipped[c, t])
            _hand_over(acc, geometry, image, out, before, factor[c])
        _zero(out[:lead])
        _zero(out[lead + geometry.images * stride :])


@_compiled
def retreat(
    geometry: Geometry,
    kernels: Kernels,
    source: Slot,
    adds: bool,
    after: Array,
    gates: bool,
    value: Code,
    against: Slot,
    slopes: Array,
    target: Slot,
    factor: Array,
    channels: tuple[int, int],
) -> None:
    """The derivative of a step: value <- (value + P^T source) where `after` is not zero, target = factor P value.

    Without `adds` it is P^T source alone, and without `gates` all of it is kept. `slopes` receives the derivatives in
    the kernels of <after, P^T source> and of <value, P^T against>.
    """
    stride, lead, width, zero = geometry.stride, geometry.lead, geometry.width, geometry.mask[0] - geometry.mask[0]
    total = np.empty(geometry.chunk * stride, factor.dtype)
    mask = geometry.mask
    for c in range(channels[0], channels[1]):
        x, y, out = source.maps[c, source.number], against.maps[c, against.number], target.maps[c, target.number]
        for image in range(0, geometry.images, geometry.chunk):
            last = min(image + geometry.chunk, geometry.images)
            start, stop = lead + image * stride, lead + last * stride
            acc = total[: stop - start]
            _zero(acc)
            for t in range(value.maps.shape[1]):
                row, own = value.maps[c, t], after[c, t, start:stop]
                new = row[start:stop]
                if not adds:
                    _zero(new)
                _convolve(new, x, start, width, kernels.own[c, t])
                if len(value.share):
                    _share(new, value.share[c, t], geometry, image)
                if gates:
                    for i in range(len(new)):
                        new[i] = new[i] if own[i] != 0 else zero
                else:
                    for i in range(len(new)):
                        new[i] = new[i] if mask[i] != 0 else zero
                if image == 0:
                    _zero(row[:start])
                _zero(row[stop : stop + lead])
                if len(value.sums):
                    _sums(new, value.sums[c, t], geometry, image)
                _correlate(slopes[c, t], own, x, start, width)
                _correlate(slopes[c, t], new, y, start, width)
                _convolve(acc, row, start, width, kernels.flipped[c, t])
            _hand_over(acc, geometry, image, out, total[:0], factor[c])
        _zero(out[:lead])
        _zero(out[lead + geometry.images * stride :])
