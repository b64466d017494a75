"""The corruptions are CIFAR-10-C's: against its own functions' statistics, and against independent computations."""

from __future__ import annotations

import colorsys
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from PIL import Image
from sklearn.datasets import load_sample_images

from experiments.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupt_all
from experiments.evaluation.corruptions._ice import ice
from experiments.evaluation.corruptions._images import motion_blurred, plasma

DATA = Path(__file__).parents[1] / "data"
CIFAR10 = Path(__file__).parents[2] / "data" / "cifar10" / "val"

#: The original of these draws random numbers, so that two of its runs differ.
RANDOM = ("glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """48 tiles of the two photographs that come with scikit-learn, at a third of their size."""
    tiles = []
    for image in load_sample_images().images:
        height, width = (side // 96 * 96 for side in image.shape[:2])
        small = image[:height, :width].reshape(height // 3, 3, width // 3, 3, 3).mean((1, 3)).round().astype(np.uint8)
        tiles.append(small.reshape(height // 96, 32, width // 96, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
    return np.concatenate(tiles)


@pytest.fixture(scope="module")
def cifar10() -> np.ndarray:
    """Files 100 to 119 of each class of CIFAR-10's test images."""
    if not CIFAR10.is_dir():
        pytest.skip("CIFAR-10 is not in data/cifar10")
    folders = sorted(path for path in CIFAR10.iterdir() if path.is_dir())
    return np.stack([np.asarray(Image.open(file)) for each in folders for file in sorted(each.iterdir())[100:120]])


def statistics(clean: np.ndarray, corrupted: np.ndarray) -> dict[str, float]:
    """The statistics of the reference files, in levels of 255. hf is the share of the change above .25 cycles/pixel."""
    change = corrupted.astype(float) - clean
    power = (np.abs(np.fft.fft2(change.mean(-1), axes=(1, 2))) ** 2).sum(0)
    power[0, 0] = 0
    frequency = np.fft.fftfreq(clean.shape[1])
    radius = np.hypot(frequency[:, None], frequency)
    rough = [np.abs(np.diff(corrupted.astype(float), axis=axis)).mean() for axis in (1, 2)]
    return {
        "mad": np.abs(change).mean(),
        "rms": (change**2).mean() ** 0.5,
        "mean": change.mean(),
        "std": corrupted.astype(float).std((1, 2, 3)).mean(),
        "tv": sum(rough),
        "hf": power[radius > 0.25].sum() / power.sum(),
    }


def differences(clean: np.ndarray, name: str, expected: dict[str, Any], draws: int) -> list[str]:
    """The statistics that are off. Means may be zero, so their errors are relative to the mean absolute change."""
    wrong = []
    for severity in SEVERITIES:
        own = [statistics(clean, corrupt_all(clean, name, severity, seed)) for seed in range(draws)]
        wanted = expected[f"{name}/{severity}"]
        for key, value in wanted.items():
            mine = sum(each[key] for each in own) / draws
            scale = wanted["mad"] if key == "mean" else abs(value)
            # Two draws of the original itself differ by up to 5 % in hf.
            tolerance = (0.08 if key == "hf" else 0.05) if name in RANDOM else 0.03
            if abs(mine - value) > tolerance * scale:
                wrong.append(f"{name}/{severity} {key}: {mine:.4g}, {value:.4g} is wanted")
    return wrong


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_statistics_of_the_original_on_photographs(name: str, samples: np.ndarray) -> None:
    """corruptions_samples.json: the original functions on these tiles, and the mean of 8 to 40 draws of random ones.

    They ran with scikit-image 0.26, OpenCV 5.0, SciPy 1.17 and ImageMagick 6.9.11.
    """
    expected = json.loads((DATA / "corruptions_samples.json").read_text())
    noise = name.endswith("noise")
    assert differences(samples, name, expected, draws=8 if name in RANDOM or noise else 1) == []


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_statistics_of_the_original_on_cifar10(name: str, cifar10: np.ndarray) -> None:
    """corruptions_cifar10.json: the original functions on these images, and the mean of 2 draws of some random ones."""
    expected = json.loads((DATA / "corruptions_cifar10.json").read_text())
    assert differences(cifar10, name, expected, draws=2 if name in RANDOM else 1) == []


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_is_added_to_the_value_of_hsv(severity: int, samples: np.ndarray) -> None:
    image = samples[7, 8:20, 8:20]
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    expected = np.empty_like(image)
    for at in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(int(part) / 255 for part in image[at]))
        expected[at] = [int(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))]
    # Where the exact value is a whole number, rounding decides between two bytes.
    differ = corrupt(image, "brightness", severity).astype(int) - expected
    assert np.abs(differ).max() <= 1
    assert (differ != 0).mean() < 0.2


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_a_mean_of_scipys_zooms(severity: int, samples: np.ndarray) -> None:
    image = samples[3].astype(np.float32) / np.float32(255)
    total = image.copy()
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    for factor in factors:
        kept = math.ceil(32 / factor)
        first = (32 - kept) // 2
        crop = image[first : first + kept, first : first + kept]
        large = scipy.ndimage.zoom(crop, (factor, factor, 1), order=1)
        trim = (len(large) - 32) // 2
        total += large[trim : trim + 32, trim : trim + 32]
    expected = (total / (len(factors) + 1) * 255).astype(np.uint8).astype(int)
    differ = corrupt(samples[3], "zoom_blur", severity) - expected
    assert np.abs(differ).max() <= 1
    assert (differ != 0).mean() < 1e-3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_a_convolution_with_a_blurred_disk(severity: int, samples: np.ndarray) -> None:
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    y, x = np.mgrid[-8:9, -8:9]
    disk = (x**2 + y**2 <= radius**2) / (x**2 + y**2 <= radius**2).sum()
    line = np.exp(-np.array([1, 0, 1]) / (2 * alias**2))
    kernel = scipy.signal.convolve2d(disk, np.outer(line, line) / line.sum() ** 2, "same")
    around = np.pad(samples[11] / 255, ((8, 8), (8, 8), (0, 0)), "reflect")
    blurred = np.stack([scipy.signal.convolve2d(around[..., c], kernel, "valid") for c in range(3)], -1) * 255
    lost = blurred - corrupt(samples[11], "defocus_blur", severity)
    assert lost.min() > -1e-4  # truncation never raises a value
    assert lost.max() < 1 + 1e-4
    assert 0.3 < lost.mean() < 0.6


def test_motion_blur_is_imagemagicks() -> None:
    """The picture of a point at radius 6, sigma 2 and 20 degrees equals that of ImageMagick 6.9.11."""
    point = np.zeros((32, 32))
    point[16, 16] = 1
    found = {(int(i), int(j)): round(255 * motion_blurred(point, 6, 2, 20)[i, j]) for i, j in np.argwhere(point == 0)}
    found[16, 16] = round(255 * motion_blurred(point, 6, 2, 20)[16, 16])
    assert {at: value for at, value in found.items() if value} == {
        (16, 16): 84,
        (16, 15): 74,
        (15, 14): 51,
        (15, 13): 27,
        (15, 12): 11,
        (14, 11): 3,
    }
    assert (motion_blurred(np.full((32, 32), 200 / 255), 6, 2, 20) * 255).round().tolist() == [[200] * 32] * 32


def test_glass_blur_copies_from_above_and_left() -> None:
    """The original means to swap pixels, but assigns views, which copies some values and loses others. Severity 1 shows
    this, because it does not blur."""
    image = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    image = np.stack([image // 256, image % 256, image % 7], -1).astype(np.uint8)
    glass = corrupt(image, "glass_blur", 1)
    value = glass[..., 0].astype(int) * 256 + glass[..., 1]
    rows, columns = np.mgrid[:32, :32]
    up, left = rows - value // 32, columns - value % 32
    assert not up[:2].any()
    assert not left[:, :2].any()
    inner = np.stack([up[2:, 2:], left[2:, 2:]], -1).reshape(-1, 2)
    kinds, counts = np.unique(inner, axis=0, return_counts=True)
    assert kinds.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (np.abs(counts / 900 - 0.25) < 0.06).all()
    assert len(np.unique(value)) < 900


def test_offsets_of_a_plasma_fall_with_the_square_of_the_decay() -> None:
    """An offset is uniform in (-w, w), times w. From one scale to the next w falls by `decay`."""
    ratios = []
    for seed in range(200):
        field = plasma(32, 1.7, np.random.default_rng(seed))
        spreads = []
        for step in (4, 2):
            corners = field[::step, ::step]
            means = sum(np.roll(corners, (-y, -x), (0, 1)) for y in (0, 1) for x in (0, 1)) / 4
            spreads.append((field[step // 2 :: step, step // 2 :: step] - means).std())
        ratios.append(spreads[0] / spreads[1])
    assert np.mean(ratios) == pytest.approx(1.7**2, rel=0.03)


def test_elastic_transform_at_severity_1_is_affine(samples: np.ndarray) -> None:
    """A plane stays a plane except near borders, where the image is mirrored."""
    rows, columns = np.mgrid[:32, :32]
    ramp = np.stack([rows * 4 + columns * 3] * 3, -1).astype(np.uint8)
    second = np.diff(corrupt(ramp, "elastic_transform", 1, seed=2)[10:22, 10:22, 0].astype(int), 2, axis=0)
    assert np.abs(second).max() <= 1
    assert np.abs(corrupt(samples[40], "elastic_transform", 1).astype(int) - samples[40]).mean() > 5


def test_ice_has_the_levels_of_the_photographs() -> None:
    """A crop has one of four brightnesses, more blue than red, and the fine contrast of needles."""
    crops = np.stack([ice(np.zeros((32, 32, 3)), np.random.default_rng(seed)) for seed in range(300)]) * 255
    levels = crops.mean((1, 2, 3))
    assert abs(levels.mean() - 162) < 8
    assert abs(levels.std() - 39) < 4
    assert (crops[..., 2].mean((1, 2)) > crops[..., 0].mean((1, 2))).all()
    assert abs(crops.mean(-1).std((1, 2)).mean() - 22) < 2
