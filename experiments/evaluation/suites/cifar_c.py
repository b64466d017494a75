"""CIFAR-10-C and CIFAR-100-C as they are published: one array of images for each corruption, and one of labels.

`<corruption>.npy` has the corrupted test images as bytes, (5 n, 32, 32, 3), where the first n have severity 1, the next
n severity 2, and so on. `labels.npy` has the numbers of their classes, (5 n,). The published files have n = 10000.
Reference: Hendrycks & Dietterich, ICLR 2019.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from experiments.data.images import Labelled
from experiments.evaluation.corruptions import SEVERITIES
from experiments.evaluation.suites.corrupted import Corrupted

__all__ = ["CIFAR10", "CIFAR100", "Cifar10C", "Cifar100C"]

#: The names of CIFAR-10's classes, in the order of its labels.
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
#: The names of CIFAR-100's classes, in the order of its fine labels.
CIFAR100 = tuple(_FINE.split())


class Cifar10C(Corrupted):
    """CIFAR-10-C. The means are over the chosen corruptions, by default the 15 that ImageNet-C has too.

    Attributes:
        names: the classes of the data set, in the order of its labels.
    """

    name = "cifar-10-c"
    needs: ClassVar[str] = "CIFAR-10-C"
    normalised = False
    names: ClassVar[tuple[str, ...]] = CIFAR10

    @property
    def folder(self) -> Path:
        return self.subject.folder(self.needs)

    def _cell(self, name: str, severity: int) -> Labelled:
        if tuple(self.subject.classes) != self.names:
            raise ValueError(
                f"{self.name} wants a model of {self.names[0]}, {self.names[1]}, ... {self.names[-1]}, in this order; "
                f"this one has {len(self.subject.classes)} classes, the first of which is {self.subject.classes[0]!r}"
            )
        images, labels = _array(self.folder / f"{name}.npy"), _array(self.folder / "labels.npy")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
            raise ValueError(
                f"{self.folder / name}.npy has shape {images.shape} and dtype {images.dtype}; images (5 n, 32, 32, 3) "
                "of uint8 are wanted"
            )
        if labels.shape != images.shape[:1] or len(labels) % len(SEVERITIES) or not len(labels):
            raise ValueError(
                f"{self.folder} has {len(images)} images of {name} and labels of shape {labels.shape}; as many labels "
                "as images are wanted, and a multiple of 5"
            )
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(self.names):
            raise ValueError(
                f"{self.folder / 'labels.npy'} has other numbers than those of {len(self.names)} classes; integers "
                f"from 0 to {len(self.names) - 1} are wanted"
            )
        count = len(labels) // len(SEVERITIES)
        cut = slice((severity - 1) * count, severity * count)
        return Labelled(list(images[cut]), labels[cut].tolist(), self.names, Image.fromarray)


class Cifar100C(Cifar10C):
    """CIFAR-100-C."""

    name = "cifar-100-c"
    needs = "CIFAR-100-C"
    names = CIFAR100


def _array(file: Path) -> np.ndarray[Any, Any]:
    """The array in a file, mapped into memory. Raises a ValueError that names a file that is missing or damaged."""
    try:
        if not file.is_file():
            raise ValueError("it is no regular file")
        found = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it holds several arrays")
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read as an array ({' '.join(str(error).split())})") from None
    return found
