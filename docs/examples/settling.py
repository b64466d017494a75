"""Animate a recorded run as a small GIF: `python docs/examples/settling.py STORE FIGURE`.

`python -m vars_dyn.simulate --animate run.gif` writes the same at full size. Here forty images share one palette, and
only what changes from one to the next is stored.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageSequence

import vars_dyn as vd
from vars_dyn.plotting import animate

WIDTH, IMAGES, COLOURS, MILLISECONDS, LAST = 800, 40, 128, 120, 2500


def main(store: str, path: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.gif"
        animate(vd.open_dataset(store), whole, images=IMAGES)
        with Image.open(whole) as film:
            height = round(film.height * WIDTH / film.width)
            size = (WIDTH, height)
            images = [f.convert("RGB").resize(size, Image.Resampling.LANCZOS) for f in ImageSequence.Iterator(film)]
    palette = images[-1].quantize(COLOURS, dither=Image.Dither.NONE)
    first, *rest = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
    pauses = [MILLISECONDS] * len(rest) + [LAST]
    first.save(path, save_all=True, append_images=rest, duration=pauses, loop=0, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
