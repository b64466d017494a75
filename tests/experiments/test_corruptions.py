from __future__ import annotations

import itertools

import numpy as np
import pytest

from experiments.data.drawn import SHAPES, draw
from experiments.evaluation.corruptions import ALEXNET_ERRORS, CORRUPTIONS, SEVERITIES, corrupt, corrupt_all

GREY = np.full((32, 32, 3), 128, dtype=np.uint8)
#: The distance of these from the clean image does not always rise with the severity, because of the published
#: parameters. Frost, for example, brightens an image at low severities and darkens it at high ones.
NOT_MONOTONE = ("elastic_transform", "glass_blur", "frost")


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    return np.stack([draw(shape, seed) for shape in SHAPES for seed in range(4)])


def test_there_are_the_fifteen() -> None:
    assert len(CORRUPTIONS) == 15
    assert list(CORRUPTIONS) == list(ALEXNET_ERRORS)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_MONOTONE])
def test_distance_from_the_clean_image_rises_with_severity(name: str, drawn: np.ndarray) -> None:
    distances = [np.abs(corrupt_all(drawn, name, s).astype(float) - drawn).mean() for s in SEVERITIES]
    assert all(low <= high for low, high in itertools.pairwise(distances)), distances
    assert distances[0] > 0.05
    assert distances[4] > 1.2 * distances[0]


@pytest.mark.parametrize("name", ["elastic_transform", "glass_blur"])
def test_the_other_two_change_the_image_but_not_its_brightness(name: str, drawn: np.ndarray) -> None:
    for severity in SEVERITIES:
        corrupted = corrupt_all(drawn, name, severity).astype(float)
        assert np.abs(corrupted - drawn).mean() > 2
        assert abs(corrupted.mean() - drawn.mean()) < 3


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_seed_gives_the_same_bytes(name: str) -> None:
    image = draw("ring", 3)
    before = image.copy()
    first, second, other = (corrupt(image, name, 3, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert np.array_equal(image, before)
    random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert np.array_equal(first, other) != random


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(24, 40), (70, 64)])
def test_any_image_size(name: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    corrupted = corrupt(image, name, 5)
    assert corrupted.shape == image.shape
    assert corrupted.dtype == np.uint8


def test_every_image_of_a_set_has_noise_of_its_own_wherever_batches_begin() -> None:
    images = np.stack([GREY] * 3)
    whole = corrupt_all(images, "gaussian_noise", 1)
    assert not np.array_equal(whole[0], whole[1])
    assert np.array_equal(whole[2:], corrupt_all(images[2:], "gaussian_noise", 1, numbers=[2]))


@pytest.mark.parametrize(("severity", "sigma"), zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True))
def test_gaussian_noise_has_its_sigma(severity: int, sigma: float) -> None:
    noise = corrupt(GREY, "gaussian_noise", severity).astype(float) / 255 - 128 / 255
    assert abs(noise.std() - sigma) < 0.05 * sigma
    assert abs(noise.mean() + 0.5 / 255) < 4 * sigma / noise.size**0.5  # bytes are truncated, not rounded


def test_shot_noise_has_the_variance_of_its_photons() -> None:
    noise = corrupt(GREY, "shot_noise", 3).astype(float) / 255
    assert abs(noise.var() / (128 / 255 / 100) - 1) < 0.1


def test_impulse_noise_hits_its_share_with_black_and_white() -> None:
    corrupted = corrupt(np.full((128, 128, 3), 128, dtype=np.uint8), "impulse_noise", 5)
    hit = corrupted != 128
    assert abs(hit.mean() - 0.07) < 0.01
    assert set(np.unique(corrupted[hit])) == {0, 255}


def test_contrast_and_brightness_as_written_down() -> None:
    image = draw("cross", 0)
    mean = image.astype(float).mean((0, 1))
    lost = (image - mean) * 0.15 + mean - corrupt(image, "contrast", 5)
    assert lost.min() > -1e-9  # CIFAR-10-C truncates to bytes
    assert lost.max() < 1
    dark = np.full((32, 32, 3), (20, 40, 80), dtype=np.uint8)
    brighter = corrupt(dark, "brightness", 2).astype(float)
    value = 80 + 0.1 * 255
    assert np.array_equal(brighter[0, 0], np.floor(np.array([0.25, 0.5, 1]) * value))


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "zoom_blur", "glass_blur", "pixelate"])
def test_blurs_keep_a_constant_image(name: str) -> None:
    for severity in SEVERITIES:
        assert np.abs(corrupt(GREY, name, severity).astype(int) - 128).max() <= 1


def test_blur_lengths_grow_with_the_image() -> None:
    """A point in an image of four times the side gives the same picture, up to the pixels that the disk is made of."""
    small = np.zeros((32, 32, 3), dtype=np.uint8)
    small[15:17, 15:17] = 255
    large = small.repeat(4, 0).repeat(4, 1)
    blurred = corrupt(large, "defocus_blur", 5).astype(float).reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(blurred - corrupt(small, "defocus_blur", 5)).max() < 45
    assert blurred[13:19, 13:19].sum() > 0.95 * small.sum()
    assert blurred[15:17, 15:17].sum() < 0.8 * small.sum()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((GREY, "rain", 1), "corruption is 'rain'"),
        ((GREY, "fog", 6), "severity is 6"),
        ((GREY[..., 0], "fog", 1), "shape"),
        ((GREY / 255, "fog", 1), "uint8"),
    ],
)
def test_bad_input(arguments: tuple[np.ndarray, str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        corrupt(*arguments)
