"""`python -m experiments.cue --out FIGURE`: a cue at the top of a hierarchy selects one of two objects in an image.

The image holds two digits, one over the other. The first layer reconstructs it from short strokes. The second has a
template for each digit at several places, and predicts the strokes. A cue is a bias: positive on the templates of the
cued digit, negative on all others. The strokes of the cued digit gain, and those of the other lose, as with the
top-down attention of AbSViT (Shi, Darrell and Wang, CVPR 2023), here by one convex energy whose minimum is certified.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import vars_dyn as vd
from experiments import cli
from experiments.report.outputs import refuse_foreign
from experiments.report.plots import save

__all__ = ["Options", "Responses", "main", "responses"]

SIZE = 12
#: Places of the templates, in pixels right of the centre, and of the two digits.
PLACES = (-2, 0, 2)


@dataclass
class Options:
    """What to draw.

    Attributes:
        out: the figure's file.
        left, right: the two digits.
        lam: the penalties of the strokes and of the templates.
        coupling: how strongly templates bind strokes.
        cue: the size of the bias, as a share of the templates' penalty; below one, no template answers to it alone.
        json: print the numbers as one JSON object.
        overwrite: replace a file that is no figure of this package.
    """

    out: str
    left: int = 3
    right: int = 7
    lam: tuple[float, float] = (0.05, 0.1)
    coupling: float = 0.5
    cue: float = 0.8
    json: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """ValueError for digits that are not two digits, and for numbers out of range."""
        if not (0 <= self.left <= 9 and 0 <= self.right <= 9) or self.left == self.right:
            raise ValueError(f"left and right are {self.left} and {self.right}; two different digits are wanted")
        if not self.coupling > 0 or not min(self.lam) > 0 or not self.cue >= 0:
            raise ValueError(
                f"coupling, lam and cue are {self.coupling}, {self.lam} and {self.cue}; positive numbers are wanted"
            )


@dataclass
class Responses:
    """The settled codes without a cue and under each cue.

    Attributes:
        image: (SIZE, SIZE).
        strokes: the layer-1 codes by condition ("none", "left", "right").
        reconstructions: what the strokes reconstruct, by condition.
        own: by object ("left", "right"), which strokes are its own: those at least twice as active for the object alone
            as for the other alone.
        relative_gap: the largest certificate.
    """

    image: Tensor
    strokes: dict[str, Tensor]
    reconstructions: dict[str, Tensor]
    own: dict[str, Tensor]
    relative_gap: float

    def activity(self) -> dict[str, dict[str, float]]:
        """The summed activity of each object's strokes, by condition and object."""
        return {
            cue: {name: float(code[mask].sum()) for name, mask in self.own.items()}
            for cue, code in self.strokes.items()
        }


def _digit(number: int, shift: int) -> Tensor:
    """A digit as SIZE x SIZE pixels in a row, with ink 1 on a ground of 0. The font comes with matplotlib."""
    face = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), SIZE)
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE / 2 + shift, SIZE / 2), str(number), fill=255, font=face, anchor="mm")
    return torch.from_numpy(np.asarray(image, dtype=np.float64) / 255).flatten()


def _strokes() -> vd.DenseDictionary:
    """Short strokes of four orientations at every pixel, of unit norm where they are not cut off."""
    y, x = torch.meshgrid(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0), indexing="ij")
    kernels = []
    for angle in (math.pi * k / 4 for k in range(4)):
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        kernel = torch.exp(-(along**2) / (2 * 1.6**2) - across**2 / (2 * 0.6**2))
        kernels.append(kernel / kernel.norm())
    return vd.DenseDictionary(
        vd.ConvDictionary(torch.stack(kernels)[:, None].double(), (1, SIZE, SIZE), padding=2).matrix()
    )


def responses(options: Options) -> Responses:
    """Solve the hierarchy without a cue and with each."""
    strokes, lam, top = _strokes(), options.lam[0], options.lam[1]

    def alone(image: Tensor) -> Tensor:
        return vd.solve(vd.SparseProblem(strokes, image[None], lam, nonnegative=True)).code[0]

    numbers = torch.tensor([number for number in range(10) for _ in PLACES])
    drawn = torch.stack([alone(_digit(number, shift)) for number in range(10) for shift in PLACES], 1)
    templates = vd.DenseDictionary(drawn / drawn.norm(dim=0))
    objects = {"left": _digit(options.left, PLACES[0]), "right": _digit(options.right, PLACES[-1])}
    image = torch.maximum(*objects.values())
    codes, pictures, worst = {}, {}, 0.0
    for cue, number in (("none", -1), ("left", options.left), ("right", options.right)):
        bias = torch.where(numbers == number, 1.0, -1.0).double() * options.cue * top * (number >= 0)
        hierarchy = vd.Hierarchy(
            [strokes, templates], options.lam, [options.coupling], nonnegative=True, bias=[None, bias]
        )
        found = hierarchy.solve(image[None])
        codes[cue], worst = found.codes[0][0], max(worst, float(found.relative_gap.max()))
        pictures[cue] = strokes.decode(codes[cue]).reshape(SIZE, SIZE)
    left, right = (alone(each) for each in objects.values())
    own = {"left": left > 2 * right, "right": right > 2 * left}
    return Responses(image.reshape(SIZE, SIZE), codes, pictures, own, worst)


def _draw(found: Responses, options: Options, path: Path) -> None:
    figure, axes = plt.subplots(1, 5, figsize=(12, 2.6), layout="constrained", width_ratios=[1, 1, 1, 1, 1.4])
    numbers = {"left": options.left, "right": options.right}
    base = found.reconstructions["none"]
    shown = [(found.image, "image"), (base, "reconstruction, no cue")]
    for axis, (picture, title) in zip(axes, shown, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize="small")
    changes = {name: found.reconstructions[name] - base for name in numbers}
    most = max(float(change.abs().max()) for change in changes.values()) or 1.0
    for axis, (name, change) in zip(axes[2:], changes.items(), strict=False):
        drawn = axis.imshow(change, cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_title(f"change by cue {numbers[name]}", fontsize="small")
    figure.colorbar(drawn, ax=axes[3])
    for axis in axes[:4]:
        axis.axis("off")
    activity = found.activity()
    for i, name in enumerate(numbers):
        share = [100 * (activity[cue][name] / activity["none"][name] - 1) for cue in numbers]
        axes[4].bar(np.arange(2) + 0.4 * i - 0.2, share, 0.36, label=f"strokes of {numbers[name]}")
    axes[4].axhline(0, color="k", lw=0.6)
    axes[4].set_xticks([0, 1], [f"cue {numbers[name]}" for name in numbers])
    axes[4].set_ylabel("change of activity (%)")
    axes[4].legend(fontsize="x-small")
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("cue", "Draw what a top-down cue does to the codes of an image with two objects.")
    parser.add_class_arguments(Options, None)

    def command(values: Any) -> None:
        options = Options(**{name: getattr(values, name) for name in Options.__dataclass_fields__})
        options.check()
        refuse_foreign((Path(options.out),), options.overwrite)
        found = responses(options)
        _draw(found, options, Path(options.out))
        if options.json:
            print(json.dumps({"activity": found.activity(), "relative_gap": found.relative_gap}))
        print(options.out)

    return cli.run(parser, command, arguments, None)


if __name__ == "__main__":
    sys.exit(main())
