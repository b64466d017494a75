"""Peak memory of the forward and backward pass of an attention layer, each measured in a process of its own.

`python -m experiments.benchmark.attention_memory` prints, for several layers and numbers of tokens, by how many MiB the
forward and backward pass of one image raise the peak resident memory (Linux: VmHWM). One of the layers is softmax
attention that writes out its N x N matrix. `--json` prints one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import torch
from torch import Tensor

from experiments.benchmark.attention import BOTH, DIM, DYNAMIC, HEADS, SOFTMAX, layer_of
from experiments.benchmark.machine import peak_bytes
from experiments.report import tables
from vars_dyn.attention import SoftmaxAttention

TOKENS = (784, 1568, 3136)
WRITTEN_OUT = "softmax, N x N written out"


class _WrittenOut(SoftmaxAttention):
    """Softmax attention that forms its matrix."""

    def heads(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        q, k, v = self.split_heads(self.qkv(x))
        return (q * self.head_dim**-0.5 @ k.mT).softmax(-1) @ v


def measure(name: str, tokens: int) -> float:
    """MiB by which one image's forward and backward pass raise this process's peak."""
    torch.set_num_threads(1)
    layer = _WrittenOut(DIM, HEADS, qkv_bias=True) if name == WRITTEN_OUT else layer_of(name, tokens)
    x = torch.randn(1, tokens, DIM, generator=torch.Generator().manual_seed(0)).requires_grad_()
    # Run once before, because what libraries set up at their first use does not belong to the layer.
    layer_of(DYNAMIC, 16)(torch.randn(1, 16, DIM)).sum().backward()
    before = peak_bytes()
    layer(x).sum().backward()
    return (peak_bytes() - before) / 2**20


def measured_apart(name: str, tokens: int) -> float:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "experiments.benchmark.attention_memory", "--measure", name, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--measure", nargs=2, metavar=("LAYER", "TOKENS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(measure(arguments.measure[0], int(arguments.measure[1])))
        return
    found = {name: [measured_apart(name, n) for n in TOKENS] for name in (DYNAMIC, BOTH, SOFTMAX, WRITTEN_OUT)}
    titles = ["layer", *(f"MiB at {n} tokens" for n in TOKENS), "growth, first to last", "of N x N at last"]
    rows = []
    for name, peaks in found.items():
        growth, share = peaks[-1] / peaks[0], peaks[-1] / found[WRITTEN_OUT][-1]
        rows.append([name, *(f"{peak:.1f}" for peak in peaks), f"{growth:.2f}", f"{share:.3f}"])
    print(tables.markdown(titles, rows, spaced=True), end="")
    if arguments.json:
        print(json.dumps({"tokens": TOKENS, "mib": found}))


if __name__ == "__main__":
    main()
