"""Small data sets in the layouts of the real ones, and models whose answers are written into the images."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from experiments.settings import Data
from vars_dyn.attention import SoftmaxAttention

DATA = Data(image_size=8, crop=1)


def write(path: Path, first: int, second: int = 0) -> None:
    """Write an image in which `Reader` sees class `first`, and then class `second`. Both are below 1000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blue = (first // 256) * 16 + second // 256
    Image.new("RGB", (8, 8), (first % 256, second % 256, blue)).save(path)


class Reader(nn.Module):
    """A model that reads its logits from the colours that `write` gave an image."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.classes, self.calls = classes, 0

    def extra_repr(self) -> str:
        return f"{self.classes} classes"

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        red, green, blue = (images[:, i, 4, 4].mul(255).round().long() for i in range(3))
        logits = torch.zeros(len(images), self.classes)
        logits.scatter_(1, (green + blue % 16 * 256)[:, None], 1.0)
        return logits.scatter(1, (red + blue // 16 * 256)[:, None], 2.0)


class Bright(nn.Module):
    """One layer of softmax attention that looks at bright tokens of 2 x 2 pixels.

    Its map, scaled from its minimum to its maximum, is 1 where a token is white and 0 where it is black.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attn = SoftmaxAttention(1, 1, qkv_bias=True)
        with torch.no_grad():
            self.attn.qkv.weight.copy_(torch.tensor([[0.0], [1.0], [0.0]]))
            self.attn.qkv.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        tokens = F.avg_pool2d(images.mean(1, keepdim=True), 2).flatten(2).mT
        return self.attn(tokens).mean(1)
