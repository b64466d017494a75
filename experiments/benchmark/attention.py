"""The rows "attention" and "attention-block": layers, alone and in blocks, against softmax attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from experiments.benchmark.contract import Contender, Goal, Row
from vars_dyn.attention import PerformerAttention, SoftmaxAttention, Variant, VarsAttention

__all__ = ["LAYERS", "attention", "blocks", "layer_of"]

DIM, HEADS = 192, 6
SOFTMAX, DYNAMIC, STATIC = "softmax", "VARS-D", "VARS-S, convolution"
BOTH, UNION = "VARS-SD, a matrix per head", "VARS-SD, convolution"


def _vars(dictionary: str, variant: str | Variant = "paper") -> Callable[[tuple[int, int]], nn.Module]:
    return lambda grid: VarsAttention(
        DIM,
        HEADS,
        qkv_bias=True,
        grid_size=grid,
        dictionary=dictionary,
        variant=variant,
        num_prefix_tokens=0,
        num_steps=3,
        lam=0.3,
    )


#: Name to a function that makes the layer for a token grid.
LAYERS: dict[str, Callable[[tuple[int, int]], nn.Module]] = {
    SOFTMAX: lambda grid: SoftmaxAttention(DIM, HEADS, qkv_bias=True),
    DYNAMIC: _vars("dynamic"),
    BOTH: _vars("static+dynamic", Variant(static="full")),
    UNION: _vars("static+dynamic"),
    STATIC: _vars("static"),
    "VARS-S, released form": _vars("static", "released"),
    "Performer": lambda grid: PerformerAttention(DIM, HEADS, qkv_bias=True),
}
#: The number of images at each number of tokens.
IMAGES = {196: 8, 784: 2}
LAYER_GOALS = {
    196: {DYNAMIC: 0.85, BOTH: 1.4, UNION: 1.5, STATIC: 1.5},
    784: {DYNAMIC: 0.4, BOTH: 0.5, UNION: 0.6, STATIC: 0.7},
}
BLOCK_GOALS = {196: {STATIC: 2.0}, 784: {STATIC: 1.5}}


class _Case(NamedTuple):
    """A layer of LAYERS, alone or in a block, with drawn tokens."""

    name: str
    tokens: int
    block: bool


class _Done(NamedTuple):
    """The output and the gradient with respect to the tokens, of the first image."""

    case: _Case
    y: Tensor
    slope: Tensor


def layer_of(name: str, tokens: int, block: bool = False) -> nn.Module:
    """A layer of LAYERS, or timm's transformer block with it. The weights are drawn with seed 0."""
    height = max(n for n in range(1, math.isqrt(tokens) + 1) if tokens % n == 0)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layer = LAYERS[name]((height, tokens // height))
        if not block:
            return layer
        around = Block(DIM, HEADS, qkv_bias=True)
        around.attn = layer
        return around


def _draw(tokens: int) -> tuple[Tensor, Tensor]:
    """Standard normal tokens, and gradients with respect to the output."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(IMAGES[tokens], tokens, DIM, generator=generator) for _ in range(2))
    return x, grad


def _work(case: _Case, dtype: torch.dtype = torch.float32) -> Callable[[], _Done]:
    layer = layer_of(*case).to(dtype)
    x, grad = (t.to(dtype) for t in _draw(case.tokens))
    x.requires_grad_()

    def work() -> _Done:
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        y.backward(grad)
        assert x.grad is not None
        return _Done(case, y[0].detach(), x.grad[0])

    return work


@cache
def _exact(case: _Case) -> _Done:
    return _work(case, torch.float64)()


def _judge(done: _Done) -> dict[str, float]:
    pairs = zip(done[1:], _exact(done.case)[1:], strict=True)
    return {"accuracy": float(torch.stack([(a - b).norm() / b.norm() for a, b in pairs]).amax())}


def _row(tokens: int, name: str, what: str, kinds: list[str], block: bool, limits: dict[str, float]) -> Row:
    ours = [kind for kind in kinds if kind != SOFTMAX]
    return Row(
        f"{name}-{tokens}",
        f"{what} forward and backward, {IMAGES[tokens]} images of {tokens} tokens, width {DIM}, {HEADS} heads, "
        "float32, k = 3",
        "relative distance of output and gradient from float64",
        # Rounding can put an entry on the other side of its threshold, which moves a gradient by some 5e-4.
        1e-3,
        tuple(Contender(k, partial(_work, _Case(k, tokens, block)), ours=k != SOFTMAX) for k in kinds),
        _judge,
        tuple(Goal(kind, SOFTMAX, limits.get(kind, math.nan)) for kind in ours),
    )


def attention(tokens: int) -> Row:
    """The row that times layers with their projections."""
    return _row(tokens, "attention", "an attention layer", list(LAYERS), False, LAYER_GOALS[tokens])


def blocks(tokens: int) -> Row:
    """The row that times transformer blocks: norm, attention, norm and an MLP of ratio 4."""
    kinds = [SOFTMAX, DYNAMIC, STATIC, "VARS-S, released form"]
    return _row(tokens, "attention-block", "a transformer block", kinds, True, BLOCK_GOALS[tokens])
