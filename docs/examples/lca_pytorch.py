"""The LCA layers beside lca-pytorch: `python docs/examples/lca_pytorch.py CLONE`.

CLONE is a clone of https://github.com/lanl/lca-pytorch. Both code the same crops of a photograph with the same random
atoms, in one thread. lca-pytorch takes its 1000 iterations of a hundredth of a time constant.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time

import torch
from torch.nn import functional as F

import vars_dyn as vd
from vars_dyn.images import read_image
from vars_dyn.learning.photographs import photographs


def main(clone: str) -> None:
    """Print a row of the table for each way of padding."""
    sys.path.insert(0, clone)
    from lcapt.lca import LCAConv2D

    torch.set_num_threads(1)
    torch.manual_seed(0)
    image = torch.from_numpy(read_image(photographs()[0]))[0]
    x = torch.stack([image[r : r + 24, c : c + 24] for r, c in ((150, 200), (300, 150))])
    x = x[:, None].float()
    print("| padding | processor time, theirs / ours | relative gap, theirs / ours | largest difference / entry |")
    print("|---|---|---|---|")
    for padding in ("valid", "same", "same, the border coded"):
        with tempfile.TemporaryDirectory() as folder:
            theirs = LCAConv2D(16, 1, folder, 7, pad=padding[:5].rstrip(","))
        outside = padding.endswith("coded")
        prepared = not outside
        ours = vd.LCA2d(
            16, 1, 7, pad="valid" if outside else padding, input_zero_mean=prepared, input_unit_var=prepared
        )
        y = x
        if outside:
            y = x - x.mean((1, 2, 3), keepdim=True)
            y = F.pad(y / y.std((1, 2, 3), keepdim=True), (3, 3, 3, 3))
        with torch.no_grad():
            ours.weights.copy_(theirs.weights)
            start = time.process_time()
            codes = theirs(x)
            middle = time.process_time()
            found = ours.encode(y)
            end = time.process_time()
            dictionary = ours.dictionary(y.shape[-2:]).detach()
            gap = vd.SparseProblem(dictionary, found.inputs, 0.25, nonnegative=True).relative_gap(codes)
        away, most = float((codes - found.acts).abs().max()), float(codes.abs().max())
        print(
            f"| {padding} | {middle - start:.1f} s / {end - middle:.1f} s | {float(gap.max()):.1e} / "
            f"{float(found.relative_gap.max()):.1e} | {away:.2f} / {most:.2f} |"
        )
    print(f"\nOne thread of {platform.processor() or platform.machine()}, torch {torch.__version__}, seed 0.")


if __name__ == "__main__":
    main(sys.argv[1])
