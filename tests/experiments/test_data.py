from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.data.drawn import SHAPES, draw
from experiments.data.images import EpochBatches, Images, cropped, evaluation_images, labelled, training_transform
from experiments.settings import Augmentation, Data


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
def test_processes_share_every_global_batch(images: int, share: int, processes: int, repeats: int, epoch: int) -> None:
    size = share * processes
    if size > images:
        with pytest.raises(ValueError, match="batch_size"):
            EpochBatches(images, size, 0)
        return
    alone = EpochBatches(images, size, 7, repeats)
    parts = [EpochBatches(images, size, 7, repeats, rank, processes) for rank in range(processes)]
    for batches in (alone, *parts):
        batches.epoch = epoch
    whole = list(alone)
    assert len(whole) == len(alone) == images // size
    for batch, *shares in zip(whole, *parts, strict=True):
        assert Counter(batch) == sum((Counter(part) for part in shares), Counter())
        assert {len(part) for part in shares} == {share}
    used = Counter(index for batch in whole for _, index in batch)
    assert max(used.values()) <= repeats


def test_epochs_have_orders_and_seeds_of_their_own() -> None:
    batches = EpochBatches(20, 20, 0)
    first = next(iter(batches))
    assert first == next(iter(batches))
    batches.epoch = 1
    assert first != next(iter(batches))
    assert sorted(index for _, index in first) == list(range(20))


def test_augmentation_depends_on_its_seed_and_disturbs_no_other_generator(images: Path) -> None:
    data = Data(root=str(images), image_size=16)
    dataset = Images(labelled(data, train=True), training_transform(data, Augmentation(color_jitter=0.4, erasing=0.9)))
    state = torch.get_rng_state()
    first, again, other = (dataset[seed, 0][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == (3, 16, 16)


def test_without_augmentation_training_sees_what_evaluation_sees(images: Path) -> None:
    data = Data(root=str(images), image_size=16, crop=1)
    found = labelled(data, train=True)
    dataset = Images(found, training_transform(data, Augmentation(crop="none", flip=0.0)), in_memory=True)
    pixels, labels = evaluation_images(found, data)
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (data.mean, data.std))
    for i in (0, 10):
        seen, label = dataset[3, i]
        assert label == labels[i]
        assert torch.allclose(seen * std + mean, torch.from_numpy(pixels[i]).permute(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("count", [6, 7, 23])
def test_subsets_are_fixed_and_even_over_classes(images: Path, count: int) -> None:
    first, second = (labelled(Data(root=str(images), train_images=count), train=True) for _ in range(2))
    assert first.entries == second.entries
    per_class = Counter(first.labels)
    assert len(first) == count
    assert len(per_class) == 6
    assert max(per_class.values()) - min(per_class.values()) <= 1


def test_folders_are_joined(images: Path) -> None:
    both = labelled(Data(root=str(images), train=["train", "val"]), train=True)
    assert len(both) == 6 * (4 + 3)
    assert both.classes == list(SHAPES)


def test_cropping_is_central() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[10:30, 20:40] = 255
    image = cropped(Image.fromarray(pixels), Data(image_size=20, crop=0.5))
    assert image.size == (20, 20)
    assert np.asarray(image)[1:-1, 1:-1].min() > 200
    decoded = draw("disc", 0)
    assert np.array_equal(np.asarray(cropped(Image.fromarray(decoded), Data(image_size=32, crop=1))), decoded)


def test_torchvisions_readers_and_grey_images(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        header = np.array([0x803, 10, 28, 28], dtype=">i4").tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = np.arange(10, dtype=np.uint8)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, 10], dtype=">i4").tobytes() + labels.tobytes()
        )
    data = Data(source="fashion_mnist", root=str(tmp_path), image_size=28, crop=1, val_images=10)
    found = labelled(data, train=False)
    assert found.labels == list(range(10))
    assert len(found.classes) == 10
    seen, _ = evaluation_images(found, data)
    assert np.array_equal(seen, pixels[..., None].repeat(3, -1))
    with pytest.raises(ValueError, match="has no cifar10"):
        labelled(Data(source="cifar10", root=str(tmp_path)), train=True)


def test_images_of_every_depth_reach_the_network_alike(tmp_path: Path) -> None:
    """A picture stored with 8 or 16 bits, as floats, with alpha, or turned gives the network the same image."""
    level = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
    folder = tmp_path / "val" / "shade"
    folder.mkdir(parents=True)
    Image.fromarray(level).save(folder / "a.png")
    Image.fromarray(level.astype(np.uint16) * 257).save(folder / "b.png")
    Image.fromarray(level.astype(np.float32) / 255).save(folder / "c.tif")
    Image.fromarray(np.stack([level * 0, 255 - level], -1), "LA").save(folder / "d.png")  # black, with alpha
    exif = Image.Exif()
    exif[274] = 6  # viewers turn the stored picture clockwise
    Image.fromarray(np.rot90(level)).save(folder / "e.png", exif=exif)
    data = Data(source="folder", root=str(tmp_path), train=["val"], val=["val"], image_size=8, crop=1.0)
    pixels, _ = evaluation_images(labelled(data, train=False), data)
    assert pixels.shape == (5, 8, 8, 3)
    for image in pixels:
        np.testing.assert_array_equal(image, np.repeat(level[..., None], 3, axis=-1))
    Image.fromarray(np.float32([[-1.0, 300.0]])).save(folder / "f.tif")
    with pytest.raises(ValueError, match=r"f.tif holds numbers from -1 to 300"):
        evaluation_images(labelled(data, train=False), data)
