"""Parts of a suite: fixed ranges of images, which do not depend on the batch size or on where a run is interrupted."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.images import Labelled

__all__ = ["IMAGES_OF_A_PART", "SuitePart", "chunks"]

#: How many images a part has.
IMAGES_OF_A_PART = 1000


@dataclass(frozen=True)
class SuitePart:
    """Some images of a suite.

    Attributes:
        name: the part's name, which no other part has.
        images: the images of the part, with the reader, and with the labels where there are any.
        first: number of the first image within its set.
        notes: what else the suite needs to know of the part.
    """

    name: str
    images: Labelled
    first: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """A hash of the labels and the names of the files, or the pixels of images in memory."""
        words = json.dumps([[_name(entry) for entry in self.images.entries], self.images.labels])
        return hashlib.sha256(words.encode()).hexdigest()[:16]


def _name(entry: Any) -> str:
    if isinstance(entry, tuple):
        return " ".join(_name(each) for each in entry)
    if isinstance(entry, np.ndarray | Image.Image):
        return str(zlib.crc32(entry.tobytes()))
    return "/".join(entry.parts[-3:]) if isinstance(entry, Path) else str(entry)


def chunks(name: str, images: Labelled, size: int = IMAGES_OF_A_PART) -> Iterator[SuitePart]:
    """Split `images` into parts of `size` images."""
    for first in range(0, len(images), size):
        cut = slice(first, first + size)
        yield SuitePart(
            f"{name}/{first}", Labelled(images.entries[cut], images.labels[cut], images.classes, images.read), first
        )
