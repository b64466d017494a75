"""Images that are drawn here, so that one can start without a data set.

They show six shapes of random colour, place, size and turn.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

__all__ = ["SHAPES", "draw", "write_images"]

SHAPES = ("cross", "disc", "ring", "square", "stripes", "triangle")


def draw(shape: str, seed: int, size: int = 32) -> UInt8[np.ndarray, "size size 3"]:
    """Draw a shape on a ground of another brightness, with a little noise. A seed always draws the same image."""
    if shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}; one of {', '.join(SHAPES)} is wanted")
    generator = np.random.default_rng([SHAPES.index(shape), seed])
    ground, ink = generator.integers(0, 110, 3), generator.integers(145, 256, 3)
    if generator.random() < 0.5:
        ground, ink = ink, ground
    fine = 4 * size  # drawn larger, then averaged
    image = Image.new("RGB", (fine, fine), tuple(int(value) for value in ground))
    radius = generator.uniform(0.25, 0.4) * fine
    centre = generator.uniform(radius, fine - radius, 2)
    _put(ImageDraw.Draw(image), shape, centre, radius, generator.uniform(0, 90), tuple(int(value) for value in ink))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX)).astype(float)
    return np.clip(np.round(pixels + generator.normal(0, 6, pixels.shape)), 0, 255).astype(np.uint8)


def _put(
    canvas: ImageDraw.ImageDraw, shape: str, centre: np.ndarray, radius: float, turn: float, ink: tuple[int, ...]
) -> None:
    def polygon(points: list[tuple[float, float]]) -> None:
        angle = math.radians(turn)
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        canvas.polygon([tuple(centre + radius * (rotation @ np.array(point))) for point in points], fill=ink)

    box = [*(centre - radius), *(centre + radius)]
    if shape == "disc":
        canvas.ellipse(box, fill=ink)
    elif shape == "ring":
        canvas.ellipse(box, outline=ink, width=round(0.35 * radius))
    elif shape == "square":
        polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    elif shape == "triangle":
        polygon([(math.cos(a), math.sin(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    elif shape == "cross":
        for wide, high in ((1, 0.25), (0.25, 1)):
            polygon([(-wide, -high), (wide, -high), (wide, high), (-wide, high)])
    else:
        for low in (-0.9, -0.2, 0.5):
            polygon([(-1, low), (1, low), (1, low + 0.35), (-1, low + 0.35)])


def write_images(folder: Path, train: int = 80, val: int = 20, size: int = 32) -> None:
    """Draw `train` and `val` images of each shape into `folder`/train and `folder`/val, one folder per shape."""
    for name, first, count in (("train", 0, train), ("val", train, val)):
        for shape in SHAPES:
            (folder / name / shape).mkdir(parents=True, exist_ok=True)
            for seed in range(first, first + count):
                Image.fromarray(draw(shape, seed, size)).save(folder / name / shape / f"{seed:05d}.png")
