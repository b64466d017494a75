"""ImageNet's validation images, and those of its shifted variants: ImageNet-V2, -R, -A, -Sketch and Stylized-ImageNet.

Images are resized and cropped as the model's own validation images are (most to 224 / 0.875 = 256 pixels, bicubic).
References: Russakovsky et al., IJCV 2015; R: Hendrycks et al., ICCV 2021; A: Hendrycks et al., CVPR 2021; Sketch: Wang
et al., NeurIPS 2019; V2: Recht et al., ICML 2019; Stylized: Geirhos et al., ICLR 2019. The 1000 classes and the lists
of 200 are those that timm ships.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.data.images import Labelled, folder_images
from experiments.evaluation.suites.classification import Classification
from experiments.evaluation.suites.suite import SuitePart, chunks

__all__ = ["ImageNet", "ImageNetA", "ImageNetR", "ImageNetSketch", "ImageNetV2", "StylizedImageNet", "synsets"]


@functools.cache
def synsets(subset: str = "imagenet") -> tuple[str, ...]:
    """WordNet's names of ImageNet's 1000 classes, in the order of the logits, or those of a subset.

    `subset` is "imagenet", "imagenet_r" or "imagenet_a".
    """
    return tuple((resources.files("timm.data") / "_info" / f"{subset}_synsets.txt").read_text().split())


class ImageNet(Classification):
    """Images whose classes are some or all of ImageNet's 1000; the model's answer is one of those classes.

    Attributes:
        subset: timm's name of the list of classes.
    """

    name = "imagenet"
    needs: ClassVar[str] = "imagenet/val"
    subset: ClassVar[str] = "imagenet"

    def parts(self) -> Iterator[SuitePart]:
        folder = self.subject.folder(self.needs)
        if tuple(self.subject.classes) != synsets():
            raise ValueError(
                f"{self.name} wants a model of ImageNet's 1000 classes by their WordNet names; "
                f"this one has {len(self.subject.classes)} classes, the first of which is {self.subject.classes[0]!r}"
            )
        yield from chunks(self.name, self._labelled(folder))

    def _labelled(self, folder: Path) -> Labelled:
        return folder_images(folder, synsets(self.subset))

    def logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """The logits of the classes of the data set alone."""
        return self.subject.model(images)[:, self._columns(images.device)]

    def _columns(self, device: torch.device) -> Int[Tensor, " classes"]:
        place = {name: index for index, name in enumerate(synsets())}
        return torch.tensor([place[name] for name in synsets(self.subset)], device=device)


class ImageNetR(ImageNet):
    """Renditions: paintings, toys, graffiti ... of 200 classes."""

    name = needs = "imagenet-r"
    subset = "imagenet_r"


class ImageNetA(ImageNet):
    """Natural images of 200 classes that a ResNet-50 got wrong."""

    name = needs = "imagenet-a"
    subset = "imagenet_a"


class ImageNetSketch(ImageNet):
    """Drawings of all 1000 classes."""

    name = needs = "imagenet-sketch"


class ImageNetV2(ImageNet):
    """New photographs of all 1000 classes, collected as ImageNet's were. A folder is named by its class's number."""

    name = needs = "imagenet-v2"

    def _labelled(self, folder: Path) -> Labelled:
        found = folder_images(folder, [str(number) for number in range(len(synsets()))])
        return Labelled(found.entries, found.labels, synsets(), found.read)


class StylizedImageNet(ImageNet):
    """The validation images with the textures of paintings; shapes alone tell the class."""

    name = "imagenet-stylized"
    needs = "imagenet-stylized/val"
