"""Parameters and GFLOPs of the models, beside those published of their baselines: `python -m models.cost`.

One FLOP is one multiply-accumulate, as in the papers on DeiT, GFNet and RVT and so in the VARS paper's Table 2. Matrix
products, convolutions and attention are counted, at batch 1 and 224 x 224 pixels. FFTs, eigenvalues and element-wise
work are not counted, because the usual counters leave them out too.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import models.deit
import models.gfnet
import models.rvt  # noqa: F401
from vars_dyn.attention import KINDS, attention_class

__all__ = ["BASELINES", "Cost", "cost_of", "table"]

#: The baselines' published (parameters in millions, GFLOPs). DeiT: Touvron et al., ICML 2021; GFNet: Rao et al.,
#: NeurIPS 2021, and its repository's README; RVT: Mao et al., CVPR 2022.
BASELINES = {
    "vars_deit_tiny": (5, 1.3),
    "vars_deit_small": (22, 4.6),
    "vars_deit_base": (86, 17.5),
    "vars_gfnet_tiny": (7, 1.3),
    "vars_gfnet_extra_small": (16, 2.8),
    "vars_gfnet_small": (25, 4.5),
    "vars_gfnet_base": (43, 7.9),
    "vars_rvt_tiny": (8.6, 1.3),
    "vars_rvt_small": (22.1, 4.7),
    "vars_rvt_base": (86.2, 17.7),
}


class Cost(NamedTuple):
    """The cost of a model: trainable parameters in millions, and GFLOPs for one image."""

    parameters: float
    gflops: float


def cost_of(model: nn.Module, img_size: int = 224) -> Cost:
    """The cost of `model` for one square image of `img_size` pixels a side.

    The model may be on any device, "meta" included, and in any mode. Its operations are counted on the meta device,
    because fused kernels of other devices hide their products from the counter.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        macs = _products(model, img_size) / 2
    finally:
        for module, mode in modes.items():
            module.training = mode
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Cost(trainable / 1e6, macs / 1e9)


@torch.no_grad()
def _products(model: nn.Module, img_size: int) -> int:
    """The number of multiplications and additions for one image."""
    shape = (1, 3, img_size, img_size)
    state = {
        name: torch.empty_like(value, device="meta")
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    try:
        with FlopCounterMode(display=False) as counter:
            torch.func.functional_call(model, state, (torch.zeros(shape, device="meta"),))
    except (RuntimeError, NotImplementedError):
        # A solver that stops when its result is accurate needs real numbers, which the meta device does not have.
        device = next(model.parameters()).device
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(torch.zeros(shape, device=device))
    return counter.get_total_flops()


def table(stem: str = "conv", variant: str = "paper") -> list[dict[str, object]]:
    """One row per model and attention, for a `stem` of DeiT and GFNet and a `variant` of the VARS layers.

    The row of a family's own attention also has the numbers that are `published` for it.
    """
    rows: list[dict[str, object]] = []
    for name, published in BASELINES.items():
        family = name.split("_")[1]
        own = ["global_filter"] if family == "gfnet" else []
        for attention in [*own, *KINDS]:
            options: dict[str, Any] = {} if family == "rvt" else {"stem": stem}
            layer = attention_class(attention, variant=variant) if attention.startswith("vars") else attention
            cost = cost_of(timm.create_model(name, attention=layer, device="meta", **options))
            baseline = attention == ("global_filter" if own else "softmax")
            said = {"published": {"parameters": published[0], "gflops": published[1]}} if baseline else {}
            rows.append({"model": name, "attention": attention, **cost._asdict(), **said})
    return rows


def main() -> None:
    """Print the table, as Markdown or JSON."""
    parser = argparse.ArgumentParser(prog="python -m models.cost", description=__doc__.splitlines()[0])
    parser.add_argument("--stem", choices=["conv", "patch"], default="conv", help="patch embedding of DeiT and GFNet")
    parser.add_argument("--variant", choices=["paper", "released"], default="paper", help="form of the VARS layers")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of Markdown")
    arguments = parser.parse_args()
    rows = table(arguments.stem, arguments.variant)
    if arguments.json:
        print(json.dumps(rows))
        return
    print("| model | attention | parameters (M) | GFLOPs | published (M) | published (GFLOPs) |")
    print("|---|---|--:|--:|--:|--:|")
    for row in rows:
        said = row.get("published")
        published = f"{said['parameters']} | {said['gflops']}" if isinstance(said, dict) else "|"
        print(f"| {row['model']} | {row['attention']} | {row['parameters']:.1f} | {row['gflops']:.2f} | {published} |")


if __name__ == "__main__":
    main()
