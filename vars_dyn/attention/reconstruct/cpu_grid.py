"""The fast form on the CPU for small kernels on a grid, with its derivative written out by hand.

It computes what `plain.on_grid` and its derivative by autograd compute. Tokens (B, N, C) already lie in memory as an
image whose channels come last. On that layout PyTorch convolves one template at a time, with one kernel per channel,
several times as fast as all templates at once. The iterates are stored as L a_j, because their threshold is then lam:

    L a_0 = L P^T x,  r_j = x - P a_j,  L a_{j+1} = soft(L a_j + P^T r_j, lam),  y = P a_k.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_weight

from vars_dyn.attention.autograd import again, by_hand, plain_tensors
from vars_dyn.attention.precision import full_precision
from vars_dyn.attention.reconstruct import plain
from vars_dyn.attention.reconstruct.values import GridInputs, Steps

__all__ = ["reconstruct", "suits"]


def suits(inputs: GridInputs, norm: Tensor) -> bool:
    """Whether this form takes these tensors."""
    given = (inputs.values, inputs.kernel, norm)
    return plain_tensors(*(given if inputs.rows is None else (*given, inputs.rows)))


def reconstruct(inputs: GridInputs, norm: Float[Tensor, " c"], steps: Steps) -> Float[Tensor, "b heads n c_head"]:
    """P a after the paper's steps at L = `norm`, for small kernels and values in float32 or float64.

    A derivative that will itself be differentiated is computed by the plain form.
    """
    batch, heads, tokens, width = inputs.values.shape
    x = inputs.values.transpose(1, 2).reshape(batch, tokens, heads * width)
    settings = inputs.grid, float(steps.lam), steps.num_steps
    y: Tensor = _ReconstructOnGrid.apply(x, inputs.kernel, inputs.rows, norm, *settings)
    return y.unflatten(-1, (heads, width)).transpose(1, 2)


class _Signal(NamedTuple):
    """Tokens. Those of the grid are an image (B, C, H, W) with channels last in memory; prefix tokens are (B, p, C)."""

    image: Tensor
    prefix: Tensor | None

    @classmethod
    def of(cls, tokens: Tensor, grid: tuple[int, int]) -> _Signal:
        count = tokens.shape[1] - math.prod(grid)
        image = tokens[:, count:].unflatten(1, grid).permute(0, 3, 1, 2)
        image = image.contiguous(memory_format=torch.channels_last)
        return cls(image, tokens[:, :count] if count else None)

    def tokens(self) -> Tensor:
        image = self.image.permute(0, 2, 3, 1).flatten(1, 2)
        return image if self.prefix is None else torch.cat([self.prefix, image], 1)

    def times(self, factor: Tensor) -> _Signal:
        """Every channel multiplied by its entry of `factor` (C,)."""
        return _Signal(self.image * factor[:, None, None], None if self.prefix is None else self.prefix * factor)

    def plus(self, other: _Signal, alpha: float = 1.0) -> _Signal:
        if self.prefix is None or other.prefix is None:
            return _Signal(torch.add(self.image, other.image, alpha=alpha), None)
        return _Signal(
            torch.add(self.image, other.image, alpha=alpha), torch.add(self.prefix, other.prefix, alpha=alpha)
        )

    def dot(self, other: _Signal) -> Tensor:
        """The inner product with `other` for every channel, (C,)."""
        found = (self.image * other.image).sum((0, 2, 3))
        if self.prefix is None or other.prefix is None:
            return found
        return found + (self.prefix * other.prefix).sum((0, 1))


#: One part (B, C, H, W) for each of T templates, with channels last in memory.
Code = list[Tensor]


class _Operator:
    """P and P^T."""

    def __init__(self, kernel: Tensor, rows: Tensor | None) -> None:
        self.kernels = kernel.transpose(0, 1).unsqueeze(2).contiguous()
        self.flipped = self.kernels.flip(-2, -1)
        self.rows = None if rows is None else rows.permute(2, 1, 0).contiguous()  # (T, p, C)
        self.padding = (kernel.shape[-2] // 2, kernel.shape[-1] // 2)

    def _convolved(self, image: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(image, kernel, padding=self.padding, groups=len(kernel))

    def encode(self, x: _Signal) -> Code:
        code = [self._convolved(x.image, kernel) for kernel in self.kernels]
        if self.rows is not None and x.prefix is not None:
            shares = torch.einsum("bpc,tpc->tbc", x.prefix, self.rows) / math.prod(x.image.shape[-2:])
            for part, share in zip(code, shares, strict=True):
                part += share[..., None, None]
        return code

    def decode(self, code: Code) -> _Signal:
        image = self._convolved(code[0], self.flipped[0])
        for part, kernel in zip(code[1:], self.flipped[1:], strict=True):
            image += self._convolved(part, kernel)
        prefix = None if self.rows is None else torch.einsum("tbc,tpc->bpc", _means(code), self.rows)
        return _Signal(image, prefix)

    def add_slopes(self, slopes: tuple[Tensor, Tensor | None], x: _Signal, code: Code) -> None:
        """Add the derivatives of <code, P^T x> in kernels and rows to `slopes`, (T, C, 1, kh, kw) and (T, p, C)."""
        grad_kernels, grad_rows = slopes
        for slope, part in zip(grad_kernels, code, strict=True):
            size = list(slope.shape)
            slope += conv2d_weight(x.image, size, part, padding=self.padding, groups=len(slope))
        if grad_rows is not None and x.prefix is not None:
            grad_rows += torch.einsum("bpc,tbc->tpc", x.prefix, _means(code))


def _means(code: Code) -> Tensor:
    """The mean of every map over the grid, (T, B, C)."""
    return torch.stack([part.mean((-2, -1)) for part in code])


class _ReconstructOnGrid(torch.autograd.Function):
    """`plain.on_grid` and its derivatives with respect to all its tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        rows: Tensor | None,
        norm: Tensor,
        grid: tuple[int, int],
        lam: float,
        num_steps: int,
    ) -> Tensor:
        signal, operator, inverse = _Signal.of(x, grid), _Operator(kernel, rows), norm.reciprocal()
        codes = [[part.mul_(norm[:, None, None]) for part in operator.encode(signal)]]
        for _ in range(num_steps):
            residual = signal.plus(operator.decode(codes[-1]).times(-inverse))
            following = operator.encode(residual)
            for part, before in zip(following, codes[-1], strict=True):
                part += before
                part -= part.clamp(-lam, lam)
            codes.append(following)
        y = operator.decode(codes[-1]).times(inverse).tokens()
        ctx.save_for_backward(x, kernel, rows, norm, y, *(part for code in codes for part in code))
        ctx.grid, ctx.lam, ctx.num_steps = grid, lam, num_steps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if not by_hand(grad):
            form = functools.partial(plain.on_grid, grid=ctx.grid, lam=ctx.lam, num_steps=ctx.num_steps)
            return (*again(form, ctx.saved_tensors[:4], ctx.needs_input_grad, grad), None, None, None)
        with full_precision(grad):
            return (*_backward(ctx, grad), None, None, None)


def _backward(ctx: FunctionCtx, grad: Tensor) -> list[Tensor | None]:
    x, kernel, rows, norm, y, *parts = ctx.saved_tensors  # type: ignore[attr-defined]
    grid, num_steps = ctx.grid, ctx.num_steps  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    operator, inverse, templates = _Operator(kernel, rows), norm.reciprocal(), kernel.shape[1]
    codes = [parts[j * templates : (j + 1) * templates] for j in range(num_steps + 1)]
    slopes = torch.zeros_like(operator.kernels), None if operator.rows is None else torch.zeros_like(operator.rows)
    add_slopes = functools.partial(operator.add_slopes, slopes) if needs[1] or needs[2] else lambda x, code: None
    signal, upper = _Signal.of(x, grid), _Signal.of(grad, grid).times(inverse)
    # y = P (L a_k) / L
    grad_norm = -upper.dot(_Signal.of(y, grid))
    value, grad_x = operator.encode(upper), None
    add_slopes(upper, codes[-1])
    for j in reversed(range(num_steps)):
        # An entry of a code is zero exactly where the threshold cuts it off. No derivative passes through it there.
        for part, after in zip(value, codes[j + 1], strict=True):
            part *= after.sign().square_()
        image, grad_residual = operator.decode(codes[j]).times(inverse), operator.decode(value)
        onward = grad_residual.times(-inverse)
        grad_norm -= onward.dot(image)
        add_slopes(signal.plus(image, alpha=-1), value)
        add_slopes(onward, codes[j])
        for part, more in zip(value, operator.encode(onward), strict=True):
            part += more
        grad_x = grad_residual if grad_x is None else grad_x.plus(grad_residual)
    # L a_0 = L P^T x
    start = operator.decode(value)
    grad_norm += start.dot(signal)
    start = start.times(norm)
    add_slopes(signal.times(norm), value)
    grad_kernels, grad_rows = slopes
    return [
        (start if grad_x is None else grad_x.plus(start)).tokens(),
        grad_kernels.squeeze(2).transpose(0, 1),
        None if grad_rows is None else grad_rows.permute(2, 1, 0),
        grad_norm,
    ]
