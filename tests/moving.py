"""Movies and sounds that the tests write."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def grating(frames: int = 12, rows: int = 24, columns: int = 32, speed: float = 1.0, period: float = 8.0) -> Any:
    """A grating that drifts to the right by `speed` pixels a frame, (frame, row, column) of bytes."""
    t, x = np.arange(frames)[:, None, None], np.arange(columns)[None, None]
    wave = 127.5 + 90 * np.cos(2 * np.pi * (x - speed * t) / period)
    return np.broadcast_to(np.round(wave), (frames, rows, columns)).astype(np.uint8)


def noise(frames: int, rows: int = 16, columns: int = 16, seed: int = 0) -> Any:
    """Coarse noise, different in each frame, (frame, row, column, 3) of bytes."""
    drawn = np.random.default_rng(seed).integers(0, 256, (frames, rows // 8, columns // 8, 3))
    return drawn.repeat(8, 1).repeat(8, 2).astype(np.uint8)


def write_movie(
    path: Path,
    frames: Sequence[Any],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 25,
    options: dict[str, str] | None = None,
) -> Path:
    """A movie of frames (row, column) or (row, column, 3) of bytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for frame in frames:
            kind = "gray" if frame.ndim == 2 else "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind)))
        container.mux(stream.encode())
    return path
