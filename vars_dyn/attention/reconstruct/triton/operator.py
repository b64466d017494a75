"""The kernels as operators of PyTorch, `vars_dyn::reconstruct_features` and its derivative.

torch.compile, torch.export and FLOP counters see them as they see PyTorch's own operators. An operator is traced for a
GPU without knowing which. So a call on one that the kernels do not take computes the plain form.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch

from vars_dyn.attention.autograd import again
from vars_dyn.attention.precision import full_precision
from vars_dyn.attention.reconstruct import plain
from vars_dyn.attention.reconstruct.triton.limits import NARROW, SHARED, WIDEST, padded

__all__ = ["apply", "count_flops", "widest"]

_NAME = "vars_dyn::reconstruct_features"


def apply(q: Tensor, projection: Tensor, v: Tensor, lam: float, num_steps: int) -> Tensor:
    """P a (B, heads, N, c) in the dtype of v, differentiable; without what a derivative needs where none is wanted."""
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (q, projection, v))
    result: Tensor = torch.ops.vars_dyn.reconstruct_features(q, projection, v, lam, num_steps, keep)[0]
    return result


@functools.cache
def widest(device: torch.device) -> tuple[int, int]:
    """The widest head and the most features that a device takes; (0, 0) if Triton has no matrix products for it."""
    if importlib.util.find_spec("triton") is None:
        return 0, 0
    if device.type == "cpu":
        return WIDEST
    properties: Any = torch.cuda.get_device_properties(device)  # torch 2.14 does not declare all of them
    if torch.version.hip is not None or properties.major < 8:
        return 0, 0
    return WIDEST if properties.shared_memory_per_block_optin >= SHARED else NARROW


def _taken(q: Tensor, m: int) -> bool:
    """Whether the kernels take a head of q's width and m features on q's device."""
    most = widest(q.device)
    return q.shape[-1] <= most[0] and m <= most[1]


def _rows(x: Tensor) -> Tensor:
    """`x`, copied if its last stride is not 1, because the kernels assume that it is."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _plain(q: Tensor, projection: Tensor, v: Tensor, lam: float, num_steps: int) -> Tensor:
    return plain.on_tokens(q, projection, None, v, lam, num_steps)


def _results(q: Tensor, m: int, v: Tensor, num_steps: int, keep: bool) -> tuple[Tensor, ...]:
    """Empty tensors of the forms of the operator's results: P a, and the fields of `device.Kept`."""
    batch, heads, tokens, c = q.shape
    pairs, width, features, codes = batch * heads, padded(int(c)), padded(m), num_steps + 1 if keep else 0
    y = v.new_empty(batch, tokens, heads, c).transpose(1, 2)
    shapes: tuple[tuple[int, ...], ...]
    gram = (pairs, features, features) if keep else (pairs, 0)
    shapes = (gram, (pairs, codes, width, features), (pairs, features), (pairs,), (pairs, features))
    return y, *(q.new_empty(shape, dtype=torch.float32) for shape in shapes)


@torch.library.custom_op(
    _NAME,
    mutates_args=(),
    schema="(Tensor q, Tensor projection, Tensor v, float lam, int num_steps, bool keep) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _reconstruct(
    q: Tensor, projection: Tensor, v: Tensor, lam: float, num_steps: int, keep: bool
) -> tuple[Tensor, ...]:
    m = projection.shape[-1]
    if not _taken(q, m):
        y, *unused = _results(q, m, v, num_steps, keep)
        return y.copy_(_plain(q, projection, v, lam, num_steps)), *(t.zero_() for t in unused)
    from vars_dyn.attention.reconstruct.triton import launch  # deferred: Triton is optional and slow to import

    given = _rows(q), projection.contiguous(), _rows(v)
    y, kept = launch.reconstruction(*given, lam, num_steps, launch.launch_plan(q, m), keep)
    return y, *kept


@_reconstruct.register_fake
def _(q: Tensor, projection: Tensor, v: Tensor, lam: float, num_steps: int, keep: bool) -> tuple[Tensor, ...]:
    # The kernels are made for these widths, so a graph may as well be.
    return _results(q, int(projection.shape[-1]), v, num_steps, keep)


@torch.library.custom_op(
    f"{_NAME}_backward",
    mutates_args=(),
    schema="(Tensor q, Tensor projection, Tensor v, Tensor grad, Tensor[] kept, float lam, int num_steps, "
    "bool in_projection) -> (Tensor, Tensor, Tensor)",
)
def _derivatives(
    q: Tensor,
    projection: Tensor,
    v: Tensor,
    grad: Tensor,
    kept: list[Tensor],
    lam: float,
    num_steps: int,
    in_projection: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from vars_dyn.attention.reconstruct.triton import launch  # deferred: Triton is optional and slow to import

    with full_precision(grad):
        given = _rows(q), projection.contiguous(), _rows(v), _rows(grad)
        plan = launch.launch_plan(q, projection.shape[-1])
        grad_q, grad_v, grad_projection = launch.derivatives(*given, launch.Kept(*kept), plan, in_projection)
    return grad_q, grad_v, projection.new_empty(0) if grad_projection is None else grad_projection


def _gradients(q: Tensor, projection: Tensor, v: Tensor, in_projection: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty tensors of the forms of the derivatives with respect to q, v and the projection."""
    like = [t.new_empty(t.shape[0], t.shape[2], t.shape[1], t.shape[3]).transpose(1, 2) for t in (q, v)]
    return like[0], like[1], projection.new_empty(projection.shape if in_projection else (0,))


@_derivatives.register_fake
def _(
    q: Tensor,
    projection: Tensor,
    v: Tensor,
    grad: Tensor,
    kept: list[Tensor],
    lam: float,
    num_steps: int,
    in_projection: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(q, projection, v, in_projection)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, projection, v, ctx.lam, ctx.num_steps, _ = inputs
    ctx.save_for_backward(q, projection, v, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, nothing = grads[0], (None, None, None)
    if grad is None:
        return None, None, None, *nothing
    q, projection, v, *kept = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    # A derivative that will itself be differentiated, and one of a batch of gradients, are those of the plain form.
    again_by_autograd = torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad)
    if again_by_autograd or not _taken(q, projection.shape[-1]):
        form = functools.partial(_plain, lam=ctx.lam, num_steps=ctx.num_steps)
        return *again(form, (q, projection, v), wanted[:3], grad), *nothing
    backward = torch.ops.vars_dyn.reconstruct_features_backward
    grad_q, grad_v, grad_w = backward(q, projection, v, grad, kept, ctx.lam, ctx.num_steps, wanted[1])
    return grad_q if wanted[0] else None, grad_w if wanted[1] else None, grad_v if wanted[2] else None, *nothing


_reconstruct.register_autograd(_backward, setup_context=_setup)


def count_flops() -> None:
    """Tell PyTorch's FLOP counters, if any were imported, how many products the operators stand for."""
    counters: Any = sys.modules.get("torch.utils.flop_counter")
    if counters is None:  # importing them would import Triton
        return
    operators = torch.ops.vars_dyn
    formulas = {operators.reconstruct_features: _flops, operators.reconstruct_features_backward: _backward_flops}
    if operators.reconstruct_features in counters.flop_registry:
        return
    for operator, formula in formulas.items():
        counters.register_flop_formula(operator)(formula)
    for mode in _python_dispatch._get_current_dispatch_mode_stack():
        if isinstance(mode, counters._FlopCounterMode | counters.FlopCounterMode):
            counter = mode if isinstance(mode, counters.FlopCounterMode) else mode.counter
            counter.flop_registry.update({op: counters.flop_registry[op] for op in formulas})


def _flops(
    q: tuple[int, ...], projection: tuple[int, ...], v: Any, lam: float, num_steps: int, *more: Any, **options: Any
) -> int:
    """Those of the plain form: features, Gram matrix, encoding, the steps, and decoding."""
    batch, heads, tokens, c = q
    m = projection[-1]
    return 2 * batch * heads * m * (tokens * c + tokens * m + tokens * c + num_steps * c * m + tokens * c)


def _backward_flops(
    q: tuple[int, ...],
    projection: tuple[int, ...],
    v: Any,
    grad: Any,
    kept: Any,
    lam: float,
    num_steps: int,
    in_projection: bool,
    **options: Any,
) -> int:
    """Two products for each of the forward pass, but one for that of the features if the projection is constant."""
    batch, heads, tokens, c = q
    whole = 2 * _flops(q, projection, v, lam, num_steps)
    return whole if in_projection else whole - 2 * batch * heads * tokens * c * projection[-1]
