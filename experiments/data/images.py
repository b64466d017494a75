"""Images for training and evaluation.

The augmentation of an image is seeded by (seed, epoch, position in the epoch), and the epoch's order by (seed, epoch):
neither depends on the number of processes or loader workers, nor on where a run was interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from experiments.settings import Augmentation, Data
from vars_dyn.images import IMAGE_SUFFIXES, read_rgb

__all__ = ["EpochBatches", "Images", "Labelled", "evaluation_images", "folder_images", "labelled", "training_loader"]

_READERS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion_mnist": datasets.FashionMNIST}


class Labelled:
    """Images (PIL, RGB) with labels and the names of the classes. `read` opens the image of an entry."""

    def __init__(
        self, entries: Sequence[Any], labels: Sequence[int], classes: Sequence[str], read: Callable[[Any], Image.Image]
    ) -> None:
        self.entries, self.labels, self.classes, self.read = list(entries), list(labels), list(classes), read

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The image at `index`."""
        return self.read(self.entries[index])

    def decoded(self, data: Data) -> Labelled:
        """The same images, cropped for evaluation and held in memory, where `data.in_memory` asks for it."""
        if not data.in_memory:
            return self
        pixels = [cropped(self.image(i), data) for i in range(len(self))]
        return Labelled(pixels, self.labels, self.classes, _Ready())

    def subset(self, count: int | None, name: str) -> Labelled:
        """A fixed subset of `count` images, spread as evenly over the classes as possible. None: all images."""
        if count is None:
            return self
        if not 1 <= count <= len(self):
            raise ValueError(f"data.{name} is {count}; between 1 and the {len(self)} images that there are is wanted")
        order = np.random.default_rng(0).permutation(len(self))
        rank = np.zeros(len(self), dtype=int)  # how many images of its class come before each image
        seen: dict[int, int] = {}
        for i in order:
            rank[i] = seen[self.labels[i]] = seen.get(self.labels[i], -1) + 1
        chosen = sorted(sorted(order, key=lambda i: (rank[i], self.labels[i]))[:count])
        return Labelled([self.entries[i] for i in chosen], [self.labels[i] for i in chosen], self.classes, self.read)


def labelled(data: Data, train: bool) -> Labelled:
    """The training or the validation images. Raises a ValueError that names what is missing or empty."""
    found = _folders(data, train) if data.source == "folder" else _torchvision(data, train)
    count = data.train_images if train else data.val_images
    return found.subset(count, "train_images" if train else "val_images")


class _Ready:
    """Reads entries that are images and are cropped already."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image


def _folders(data: Data, train: bool) -> Labelled:
    entries: list[Path] = []
    labels: list[int] = []
    classes: list[str] | None = None
    for name in data.train if train else data.val:
        folder = Path(data.root) / name
        found = folder_classes(folder)
        if classes is not None and found != classes:
            raise ValueError(f"{folder} has the classes {', '.join(found)}; the same as before, {', '.join(classes)}")
        classes = found
        for label, each in enumerate(found):
            files = image_files(folder / each)
            entries += files
            labels += [label] * len(files)
    if classes is None:
        raise ValueError(f"data.{'train' if train else 'val'} is empty; at least one folder below data.root is wanted")
    return Labelled(entries, labels, classes, read_image)


def folder_classes(folder: Path) -> list[str]:
    """The names of the classes in a folder that has one folder of images for each. Raises ValueError if it has none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; one with a folder of images per class is wanted")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise ValueError(f"{folder} has no folders in it; one folder of images per class is wanted")
    return classes


def folder_images(folder: Path, classes: Sequence[str]) -> Labelled:
    """The images below `folder`, one folder per class. Raises ValueError if these are not exactly `classes`."""
    found = folder_classes(folder)
    missing = [name for name in classes if name not in set(found)]
    if missing or len(found) != len(classes):
        what = f"no class {missing[0]!r}" if missing else f"{len(found)} classes"
        raise ValueError(f"{folder} has {what}; the {len(classes)} classes of the model are wanted")
    number = {name: label for label, name in enumerate(classes)}
    files = [(path, number[name]) for name in found for path in image_files(folder / name)]
    return Labelled([path for path, _ in files], [label for _, label in files], classes, read_image)


def image_files(folder: Path) -> list[Path]:
    """The image files of a class. Raises ValueError if there are none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"class {folder.name!r} has no images in {folder}; at least one is wanted")
    return files


def read_image(path: Path) -> Image.Image:
    """An image file as 8-bit RGB, upright, with transparent pixels white. Raises a ValueError that names a bad file."""
    return read_rgb(path)


def _torchvision(data: Data, train: bool) -> Labelled:
    try:
        found = _READERS[data.source](data.root, train=train, download=data.download)
    except RuntimeError as error:
        raise ValueError(f"data.root is {data.root!r}, which has no {data.source}: {error}") from None
    images, labels = np.asarray(found.data), [int(label) for label in found.targets]
    return Labelled(list(images), labels, found.classes, lambda pixels: Image.fromarray(pixels).convert("RGB"))


class Images(Dataset[tuple[Tensor, int]]):
    """Transformed images. The index of an item is (seed, index), and the transform runs with that seed."""

    def __init__(self, images: Labelled, transform: Callable[[Image.Image], Tensor], in_memory: bool = False) -> None:
        self.images, self.transform = images, transform
        self.decoded: dict[int, Image.Image] | None = {} if in_memory else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        seed, index = key
        image = self._decoded(index)
        state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # the generator that timm's transforms draw from
        torch.default_generator.manual_seed(seed)
        try:
            return self.transform(image), self.images.labels[index]
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])  # noqa: NPY002
            torch.set_rng_state(state[2])

    def _decoded(self, index: int) -> Image.Image:
        if self.decoded is None:
            return self.images.image(index)
        if index not in self.decoded:
            self.decoded[index] = self.images.image(index)
        return self.decoded[index]


class EpochBatches:
    """The batches of one process. Each epoch has a new order, and the processes share every global batch evenly.

    Args:
        images: how many images there are.
        batch_size: how many images a global batch has; an incomplete last batch is dropped.
        repeats: how often a drawn image is used.
        rank, processes: this process's number, and how many processes share a global batch.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, repeats: int = 1, rank: int = 0, processes: int = 1
    ) -> None:
        if batch_size % processes:
            raise ValueError(
                f"optimization.batch_size is {batch_size}; a multiple of the {processes} processes is wanted"
            )
        if not 1 <= batch_size <= images:
            raise ValueError(
                f"optimization.batch_size is {batch_size}; between 1 and the {images} training images is wanted"
            )
        if repeats < 1:
            raise ValueError(f"augmentation.repeats is {repeats}; an integer of at least 1 is wanted")
        self.images, self.batch_size, self.seed, self.repeats = images, batch_size, seed, repeats
        self.rank, self.processes, self.epoch = rank, processes, 0

    def __len__(self) -> int:
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = np.repeat(generator.permutation(self.images), self.repeats)[: self.images]
        seeds = generator.integers(2**62, size=self.images)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            own = range(start + self.rank, start + self.batch_size, self.processes)
            yield [(int(seeds[i]), int(order[i])) for i in own]


def training_loader(dataset: Images, batches: EpochBatches, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Normalised, augmented images (B, 3, H, W) and labels (B,)."""
    pinned = torch.cuda.is_available()
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=pinned)  # type: ignore[arg-type]


def training_transform(data: Data, augmentation: Augmentation) -> Callable[[Image.Image], Tensor]:
    """timm's augmentation with the crop of the settings. It gives normalised tensors (3, H, W)."""
    try:
        chain = _timm_chain(data, augmentation)
    except (AssertionError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(
            f"augmentation.auto_augment is {augmentation.auto_augment!r}, of which timm makes no policy: "
            f"{' '.join(str(error).split()) or type(error).__name__}"
        ) from None
    if augmentation.crop != "resized":
        size = data.image_size
        first = [_Square(size)]
        if augmentation.crop == "padded":
            first.append(transforms.RandomCrop(size, padding=size // 8))
        chain.transforms[:1] = first
    return cast("Callable[[Image.Image], Tensor]", chain)


def _timm_chain(data: Data, augmentation: Augmentation) -> Any:
    return create_transform(
        data.image_size,
        is_training=True,
        scale=(augmentation.scale, 1.0),
        hflip=augmentation.flip,
        color_jitter=augmentation.color_jitter or None,  # type: ignore[arg-type]  # None: none
        auto_augment=augmentation.auto_augment,
        re_prob=augmentation.erasing,
        re_mode="pixel",
        interpolation="bicubic",
        mean=tuple(data.mean),
        std=tuple(data.std),
    )


class _Square:
    """Resizes to a square of `size`. An image that has this size stays as it is."""

    def __init__(self, size: int) -> None:
        self.size = (size, size)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image if image.size == self.size else image.resize(self.size, Image.Resampling.BICUBIC)


def evaluation_images(
    images: Labelled, data: Data, start: int = 0, stop: int | None = None, workers: int = 0
) -> tuple[UInt8[np.ndarray, "n h w 3"], Float[Tensor, " n"] | Tensor]:
    """The images from `start` to `stop`, resized and cropped, as bytes, with their labels.

    These are what evaluation corrupts and classifies. `workers` threads read them; 0: the caller's thread does.
    """
    chosen = range(start, min(len(images), len(images) if stop is None else stop))
    ready = isinstance(images.read, _Ready)

    def pixels_of(i: int) -> UInt8[np.ndarray, "h w 3"]:
        return np.asarray(images.image(i) if ready else cropped(images.image(i), data))

    if workers:
        with ThreadPoolExecutor(workers) as pool:
            pixels = np.stack(list(pool.map(pixels_of, chosen)))
    else:
        pixels = np.stack([pixels_of(i) for i in chosen])
    return pixels, torch.tensor([images.labels[i] for i in chosen])


def cropped(image: Image.Image, data: Data) -> Image.Image:
    """The central part of an image at the size that the model sees."""
    size = data.image_size
    if not 0 < data.crop <= 1:
        raise ValueError(f"data.crop is {data.crop}; a number above 0, up to 1, is wanted")
    if image.size == (size, size) and data.crop == 1:
        return image
    scale = size / data.crop / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def as_images(pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Bytes as images in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
