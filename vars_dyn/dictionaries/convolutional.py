"""A convolutional dictionary with small kernels, over one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary, Rounding, atom_norms, largest_hermitian, rounded_up

__all__ = ["ConvDictionary"]

#: A step, padding or dilation: one number for all dimensions, or one for each.
PerDimension = int | Sequence[int]

_CONVOLVED: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
#: The most complex numbers of the templates' spectra that a bound on L is computed from (1 GiB in double precision).
_SPECTRUM = 1 << 26
#: Frequencies per degree of the polynomial that the bound looks at where all frequencies would be too many.
_OVERSAMPLED = 16


class ConvDictionary(Dictionary):
    """P^T is the zero-padded, strided convolution with `weight`, and P its exact adjoint, the transposed convolution.

    `weight` has shape (M, C / groups, *k): M templates over 1 to 3 dimensions, such as samples of a sound, rows and
    columns of an image, or frames, rows and columns of a movie. Signals are (*any, C, *n) and codes (*any, M, *n') with
    n' = (n + 2 padding - dilation (k - 1) - 1) // stride + 1 in each dimension. `stride`, `padding` and `dilation` are
    one integer, or one for each dimension, as in torch's convolutions, whose numbers these are. As there, encoding is a
    cross-correlation, so an atom is a template laid down on the signal. `groups=C` makes it depth-wise.

    The dictionary itself holds `weight` only. torch unfolds each signal as it convolves, which takes
    C prod(k) prod(n') numbers per signal in the worst case, and `lipschitz` takes about 3 GiB at most.

    Raises ValueError for a weight, a signal shape or an argument that does not fit, or a kernel larger than the padded
    signal.

    Attributes:
        weight: the templates.
        stride, padding, dilation: one integer where it is the same in all dimensions, else one for each.
        groups: the number of groups.

    Examples:
        >>> P = vd.ConvDictionary(torch.ones(4, 1, 3, 3) / 3, signal_shape=(1, 8, 8), stride=2, padding=1)
        >>> P.code_shape, P.encode(torch.zeros(10, 1, 8, 8)).shape
        ((4, 4, 4), torch.Size([10, 4, 4, 4]))
    """

    def __init__(
        self,
        weight: Float[Tensor, "m c *k"] | _checks.Numbers,
        signal_shape: tuple[int, ...],
        *,
        stride: PerDimension = 1,
        padding: PerDimension = 0,
        dilation: PerDimension = 1,
        groups: int = 1,
    ) -> None:
        weight = _checks.floating_tensor("weight", weight)
        if weight.ndim not in (3, 4, 5) or not all(weight.shape):
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; (M, C / groups, *k) with 1 to 3 dimensions k, none of them "
                "0, is wanted"
            )
        m, c, *kernel = weight.shape
        strides = _per_dimension("stride", stride, len(kernel), least=1)
        paddings = _per_dimension("padding", padding, len(kernel), least=0)
        dilations = _per_dimension("dilation", dilation, len(kernel), least=1)
        _checks.count("groups", groups)
        if len(signal_shape) != len(kernel) + 1 or signal_shape[0] != c * groups or m % groups:
            sides = ", ".join({1: "T", 2: "HW", 3: "THW"}[len(kernel)])
            raise ValueError(
                f"signal_shape is {tuple(signal_shape)} for a weight of shape {tuple(weight.shape)} in {groups} "
                f"groups; ({c * groups}, {sides}) with M divisible by groups is wanted"
            )
        if min(signal_shape) < 1:
            raise ValueError(f"signal_shape is {tuple(signal_shape)}; sides of at least one are wanted")
        padded = [n + 2 * p for n, p in zip(signal_shape[1:], paddings, strict=True)]
        reach = _reach(kernel, dilations)
        if any(r > n for r, n in zip(reach, padded, strict=True)):
            raise ValueError(f"the {_by(reach)} kernel is larger than the padded signal of {_by(padded)}")
        self.stride, self.padding, self.dilation = _plain(strides), _plain(paddings), _plain(dilations)
        self.groups = groups
        self._strides, self._paddings, self._dilations = strides, paddings, dilations
        self.signal_shape = tuple(int(n) for n in signal_shape)
        places = [(n - r) // s + 1 for n, r, s in zip(padded, reach, strides, strict=True)]
        self.code_shape = (m, *places)
        # The transposed convolution gives the shortest signal that has codes of this shape, unless it is told this.
        self._rest = tuple((n - r) % s for n, r, s in zip(padded, reach, strides, strict=True))
        self.weight = weight

    @property
    def dimensions(self) -> int:
        """The number of dimensions that the templates move along, 1 to 3."""
        return len(self.signal_shape) - 1

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self.weight,) = tensors

    def _encode(self, x: Tensor) -> Tensor:
        a = _CONVOLVED[self.dimensions](
            x.reshape(-1, *self.signal_shape),
            self.weight,
            stride=self._strides,
            padding=self._paddings,
            dilation=self._dilations,
            groups=self.groups,
        )
        return a.reshape(*x.shape[: x.ndim - len(self.signal_shape)], *self.code_shape)

    def _decode(self, a: Tensor) -> Tensor:
        x = _TRANSPOSED[self.dimensions](
            a.reshape(-1, *self.code_shape),
            self.weight,
            stride=self._strides,
            padding=self._paddings,
            output_padding=self._rest,
            dilation=self._dilations,
            groups=self.groups,
        )
        return x.reshape(*a.shape[: a.ndim - len(self.code_shape)], *self.signal_shape)

    def _rounding(self) -> Rounding:
        m, c, *kernel = self.weight.shape
        norms = atom_norms(self.weight.detach(), tuple(range(1, self.weight.ndim)))
        norms = norms.reshape(-1, *[1] * self.dimensions)
        # The zeros of the padding add no rounding to the sums.
        return Rounding(norms, c * math.prod(kernel), m * math.prod(kernel), sparse=True)

    def _lipschitz(self) -> Tensor:
        """A proven bound, from the periodic convolution on a torus that holds the signal.

        On a torus whose sides are multiples of the stride and at least the padded signal's, the periodic convolution
        agrees with P^T on embedded signals, so its norm bounds |P^T|. It is block-diagonal under the Fourier transform
        of the stride's polyphase components, with one (M x C prod(stride)) block S per coarse frequency.

        Where the torus has too many frequencies, a smaller one bounds them all: v^H S S^H v is a trigonometric
        polynomial of degree n in each frequency, n the coarse kernel's side less one, and the maximum of such a
        polynomial is at most 1 / cos(pi n / N) times the largest of N > 2 n evenly spaced values (Ehlich and Zeller,
        Math. Z. 86, 41, 1964).
        """
        m, c, *kernel = self.weight.shape
        reach = _reach(kernel, self._dilations)
        sides = [
            -(-max(n + 2 * p, r) // s) * s
            for n, p, r, s in zip(self.signal_shape[1:], self._paddings, reach, self._strides, strict=True)
        ]
        raised = 1.0
        if m * c * math.prod(sides) > _SPECTRUM:
            for axis, (r, s) in enumerate(zip(reach, self._strides, strict=True)):
                degree = -(-r // s) - 1
                few = _OVERSAMPLED * max(degree, 1)
                if few * s < sides[axis]:
                    sides[axis] = few * s
                    raised /= math.cos(math.pi * degree / few)
        work = self.weight if self.weight.dtype in (torch.float32, torch.float64) else self.weight.float()
        placed = work.new_zeros((m, c, *sides))
        places = tuple(slice(0, r, d) for r, d in zip(reach, self._dilations, strict=True))
        placed[(slice(None), slice(None), *places)] = work
        coarse = [part for n, s in zip(sides, self._strides, strict=True) for part in (n // s, s)]
        phases = placed.reshape(self.groups, m // self.groups, c, *coarse)
        grid, inner = range(3, phases.ndim, 2), range(4, phases.ndim, 2)
        spectrum = torch.fft.fftn(phases, dim=tuple(grid)).permute(0, *grid, 1, 2, *inner).flatten(-1 - self.dimensions)
        tall = spectrum if spectrum.shape[-2] <= spectrum.shape[-1] else spectrum.mH
        top = largest_hermitian(tall @ tall.mH).max() * raised
        return rounded_up(top, math.prod(sides) + m + c * math.prod(self._strides)).to(self.weight.dtype)


def _per_dimension(name: str, value: PerDimension, dimensions: int, *, least: int) -> tuple[int, ...]:
    """One integer of at least `least` for each dimension; ValueError otherwise."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (_checks.count(name, value, least=least),) * dimensions
    if len(value) != dimensions:
        raise ValueError(
            f"{name} is {tuple(value)}; one integer, or one for each of {dimensions} dimensions, is wanted"
        )
    return tuple(_checks.count(name, each, least=least) for each in value)


def _plain(values: tuple[int, ...]) -> int | tuple[int, ...]:
    return values[0] if len(set(values)) == 1 else values


def _reach(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The sides of the dilated kernel."""
    return [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]


def _by(sides: Sequence[int]) -> str:
    return " x ".join(str(n) for n in sides)
