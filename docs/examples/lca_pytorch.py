"""The LCA layers beside lca-pytorch: `python docs/examples/lca_pytorch.py CLONE`.

CLONE is a clone of https://github.com/lanl/lca-pytorch. Both layers get the same atoms and images, in one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import vars_dyn as vd
from vars_dyn.images import read_image
from vars_dyn.learning.photographs import photographs


def theirs(neurons: int, size: int, pad: str, iterations: int, tau: float) -> Any:
    """A layer of lca-pytorch. Its constructor writes a folder, which goes away."""
    from lcapt.lca import LCAConv2D

    with tempfile.TemporaryDirectory() as folder:
        return LCAConv2D(neurons, 1, folder, size, lca_iters=iterations, tau=tau, pad=pad)


def padded(x: Tensor, border: int) -> Tensor:
    """What lca-pytorch codes with `pad="same"`: the prepared images in a frame of zeros."""
    x = x - x.mean((1, 2, 3), keepdim=True)
    return F.pad(x / x.std((1, 2, 3), keepdim=True), [border] * 4)


def same_codes() -> None:
    """The largest difference between the codes after 2000 time constants, in float64."""
    x = torch.randn(2, 1, 10, 10, dtype=torch.float64)
    print("| padding | largest difference | largest entry |\n|---|---|---|")
    for pad in ("valid", "same"):
        peer = theirs(2, 3, pad, iterations=40_000, tau=20).double()
        prepared = pad == "valid"
        layer = vd.LCA2d(2, 1, 3, pad="valid", tol=1e-12, input_zero_mean=prepared, input_unit_var=prepared).double()
        with torch.no_grad():
            layer.weights.copy_(peer.weights)
            codes, ours = peer(x), layer(x if prepared else padded(x, 1))
        print(f"| {pad} | {float((codes - ours).abs().max()):.1e} | {float(codes.abs().max()):.2f} |")


def same_time() -> None:
    """Processor time and gap on two crops of a photograph, with lca-pytorch's default iterations, in float32."""
    image = torch.from_numpy(read_image(photographs()[0]))[0]
    x = torch.stack([image[r : r + 24, c : c + 24] for r, c in ((150, 200), (300, 150))])[:, None].float()
    peer, layer = theirs(16, 7, "valid", iterations=1000, tau=100), vd.LCA2d(16, 1, 7, pad="valid")
    with torch.no_grad():
        layer.weights.copy_(peer.weights)
        start = time.process_time()
        codes = peer(x)
        middle = time.process_time()
        found = layer.encode(x)
        end = time.process_time()
        dictionary = layer.dictionary(x.shape[-2:]).detach()
        gap = vd.SparseProblem(dictionary, found.inputs, layer.lambda_, nonnegative=True).relative_gap(codes)
    print(f"\nlca-pytorch: {middle - start:.1f} s, relative gap {float(gap.max()):.1e}")
    print(f"vars_dyn: {end - middle:.1f} s, relative gap {float(found.relative_gap.max()):.1e}")
    print(f"torch {torch.__version__}, one thread, seed 0")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    same_codes()
    same_time()
