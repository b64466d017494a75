"""The rows "training": steps of a small RVT in bfloat16, VARS-D against softmax attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import models  # noqa: F401  # registers the models
from experiments.benchmark.contract import Contender, Goal, Row

__all__ = ["training"]

SOFTMAX, OURS = "softmax", "vars_d"
#: The side of the images in pixels, and how many there are, by the number of tokens that patches of 4 pixels make.
SIDE = {64: 32, 256: 64}
IMAGES = {64: 64, 256: 16}


class _Done(NamedTuple):
    """The loss before the step."""

    attention: str
    tokens: int
    loss: float


def _draw(tokens: int) -> tuple[Tensor, Tensor]:
    """Standard normal images, and labels. What the images show does not change the time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES[tokens], 3, SIDE[tokens], SIDE[tokens], generator=generator)
    return images, torch.randint(10, (len(images),), generator=generator)


def _work(attention: str, tokens: int, bfloat16: bool = True) -> Callable[[], _Done]:
    images, labels = _draw(tokens)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = timm.create_model("vars_rvt_micro", attention=attention, img_size=SIDE[tokens])
    # The learning rate is zero, so that every round takes the same step.
    optimizer = torch.optim.AdamW(model.parameters(), 0.0)

    def work() -> _Done:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return _Done(attention, tokens, float(loss.detach()))

    return work


@cache
def _loss(attention: str, tokens: int) -> float:
    return _work(attention, tokens, bfloat16=False)().loss


def _judge(done: _Done) -> dict[str, float]:
    exact = _loss(done.attention, done.tokens)
    return {"accuracy": abs(done.loss - exact) / exact, "images": IMAGES[done.tokens]}


def training(tokens: int) -> Row:
    """The row at 64 tokens, which CIFAR-10's images of 32 x 32 pixels make, or at 256, from images twice as wide."""
    return Row(
        f"training-{tokens}",
        f"a training step (forward, backward, AdamW) of vars_rvt_micro on {IMAGES[tokens]} images of {SIDE[tokens]} x "
        f"{SIDE[tokens]} pixels, {tokens} tokens, bfloat16 autocast",
        "relative distance of the loss from float32's",
        0.02,
        tuple(Contender(kind, partial(_work, kind, tokens), ours=kind == OURS) for kind in (SOFTMAX, OURS)),
        _judge,
        (Goal(OURS, SOFTMAX, 1 / 0.95),),
    )
