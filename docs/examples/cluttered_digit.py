"""A digit in clutter: the digit, which a template explains, emerges, and the rest fades (the paper's Fig. 2).

Run it from the root of a clone as `python docs/examples/cluttered_digit.py [FIGURE]`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import vars_dyn as vd
from vars_dyn.recording import to_dataset

Picture = NDArray[np.float64]

SIZE = 32
FONTS = ("DejaVu Sans", "DejaVu Serif")
SHIFTS = (-4, 0, 4)
SHOWN = (0.0, 0.5, 1.0, 2.0, 4.0, 10.0, 40.0)


def digit(text: str, font: str = FONTS[0], shift: tuple[int, int] = (0, 0)) -> Picture:
    """A digit as an image of SIZE x SIZE pixels, with ink 1 on a ground of 0. The fonts come with matplotlib."""
    face = ImageFont.truetype(font_manager.findfont(font), 26)
    image = Image.new("L", (SIZE, SIZE))
    centre = (SIZE / 2 + shift[0], SIZE / 2 + shift[1])
    ImageDraw.Draw(image).text(centre, text, fill=255, font=face, anchor="mm")
    return np.asarray(image, dtype=np.float64) / 255


def templates() -> torch.Tensor:
    """Clean digits in every font and at every shift, with norm 1. Each column is one atom."""
    images = [
        digit(text, font, (right, down))
        for text in "0123456789"
        for font in FONTS
        for right in SHIFTS
        for down in SHIFTS
    ]
    return torch.from_numpy(np.stack([image.ravel() / np.linalg.norm(image) for image in images], axis=1))


def clutter(seed: int = 0, strokes: int = 26) -> Picture:
    """Short strokes at random places, in the digit's own ink."""
    generator = np.random.default_rng(seed)
    image = Image.new("L", (4 * SIZE, 4 * SIZE))
    for _ in range(strokes):
        x, y = generator.uniform(0, 4 * SIZE, 2)
        angle, length = generator.uniform(0, np.pi), generator.uniform(18, 34)
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        ImageDraw.Draw(image).line([(x, y), end], fill=255, width=8)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64) / 255


def simulate(text: str = "3") -> tuple[Picture, xr.Dataset]:
    """Integrate Eq. 8-9 on a digit in clutter, with non-negative codes, until the run is proven to have settled."""
    figure = digit(text)
    x = torch.from_numpy(np.maximum(figure, clutter()).reshape(1, -1))
    dictionary = vd.DenseDictionary(templates())
    lam = 0.6 * dictionary.encode(x).amax(-1)
    field = vd.SparseRecurrent(dictionary, x, lam=lam, threshold="nonnegative")
    times = torch.from_numpy(
        np.concatenate([np.arange(0, 40) / 10, np.arange(4, 40), np.arange(40, 401, 10)]).astype(float)
    )
    return figure, to_dataset(field, vd.integrate(field, field.initial_state(), times, gap=1e-6))


def contrast(figure: Picture, run: xr.Dataset) -> Picture:
    """The mean potential z in pixels with only clutter, relative to the mean in the digit's pixels, at each time."""
    ink = figure.ravel() > 0.5
    only_clutter = (run.signals.to_numpy()[0] > 0.5) & ~ink
    z = run.z.to_numpy()[:, 0]
    return z[:, only_clutter].mean(1) / z[:, ink].mean(1)


def picture(figure: Picture, run: xr.Dataset) -> Figure:
    """Draw the neurons and what the templates explain at a few times, and the contrast at all times."""
    canvas = Figure(figsize=(12.5, 3.2), layout="constrained")
    FigureCanvasAgg(canvas)
    left, right = canvas.subfigures(1, 2, width_ratios=(4.0, 1.3))
    frames = run.sel(time=list(SHOWN))
    explained = frames.code.dot(run.dictionary, dim="atom").to_numpy()[:, 0]
    rows: tuple[tuple[str, Any], ...] = (("neurons z", frames.z.to_numpy()[:, 0]), ("explained, P a", explained))
    for axes, (name, images) in zip(left.subplots(2, len(SHOWN)), rows, strict=True):
        for ax, image, moment in zip(axes, images, SHOWN, strict=True):
            # Each frame is scaled to its own brightest pixel, since the next layer sees contrast.
            ax.imshow(image.reshape(SIZE, SIZE), cmap="gray", vmin=0, vmax=image.max() or 1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if name.startswith("neurons"):
                ax.set_title(f"t = {moment:g}", fontsize=10)
        axes[0].set_ylabel(name)
    ax = right.subplots()
    ax.plot(run.time, contrast(figure, run), color="#1f5fa8")
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.6)
    ax.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    ax.set(
        xlim=(0, 100), ylim=(0.6, 1), xlabel="time (membrane time constants)", ylabel="z in clutter / z in the digit"
    )
    ax.spines[["top", "right"]].set_visible(False)
    return canvas


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "_static" / "cluttered-digit.png"
    digit_alone, trajectory = simulate()
    picture(digit_alone, trajectory).savefig(place, dpi=90)
    share = contrast(digit_alone, trajectory)
    print(f"clutter over digit: {share[0]:.2f} at the start, {share[-1]:.2f} at rest")
    print(f"active templates: {int((trajectory.code_end != 0).sum())} of {trajectory.sizes['atom']}")
    print(f"relative gap at the end: {float(trajectory.relative_gap_end.max()):.1e}")
