"""Metrics of saliency against hand computations and other implementations; fixations of a drawn gaze path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torchmetrics.regression import PearsonCorrCoef

from experiments.evaluation.measures.saliency import (
    auc_judd,
    auc_shuffled,
    cc,
    density,
    gaze_fixations,
    information_gain,
    kl,
    nss,
    sim,
)


def test_by_hand() -> None:
    """The map 0 1 / 2 3 has mean 1.5 and variance 1.25. The fixations (1, 1), (1, 1), (0, 1) lie at 3, 3 and 1."""
    values = np.array([[0.0, 1.0], [2.0, 3.0]])
    fixations = np.array([[1, 1], [1, 1], [0, 1]])
    assert nss(values, fixations) == pytest.approx((1.5 + 1.5 - 0.5) / 3 / 1.25**0.5)
    # The fixated values are 3 and 1, the others 0 and 2. In three of the four pairs the fixated value is larger.
    assert auc_judd(values, fixations) == 3 / 4
    # With almost no blur the density is 0 1 / 0 2. The covariance is 5/8, and the variances are 1.25 and 11/16.
    fixated = density(fixations, (2, 2), 1e-3)
    assert cc(values, fixated) == pytest.approx(5 / 8 / (1.25 * 11 / 16) ** 0.5)
    # The sum of the map is 6, and of the density 3: they are 0 1 / 2 3 sixths and 0 2 / 0 4 sixths.
    assert sim(values, fixated) == pytest.approx((1 + 3) / 6)
    assert kl(values, fixated) == pytest.approx((2 * np.log(2) + 4 * np.log(4 / 3)) / 6)
    # Against a map of 0 3 / 2 1, the fixated pixels have 1 and 3 sixths instead of 3 and 1, two of three the former.
    assert information_gain(values, fixations, np.array([[0.0, 3.0], [2.0, 1.0]])) == pytest.approx(np.log2(3) / 3)
    # Fixations of other images are at 3, 0 and 0. Of 3 and 1, the first wins twice and ties, the second wins twice.
    assert auc_shuffled(values, fixations, np.array([[1, 1], [0, 0], [0, 0]])) == pytest.approx(4.5 / 6)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_other_implementations_agree(seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(7, 9))
    values = np.round(values) if ties else values
    values[0, :2] = -9, 9  # so that the map is never constant
    fixations = np.stack([generator.integers(0, 7, 12), generator.integers(0, 9, 12)], axis=1)
    at = np.zeros((7, 9))
    np.add.at(at, tuple(fixations.T), 1)
    scaled = StandardScaler().fit_transform(values.reshape(-1, 1)).reshape(7, 9)
    assert nss(values, fixations) == pytest.approx((scaled * at).sum() / 12, abs=1e-10)
    assert auc_judd(values, fixations) == pytest.approx(roc_auc_score(at.ravel() > 0, values.ravel()), abs=1e-10)
    fixated = gaussian_filter(at, 1.5, mode="constant")
    pearson = PearsonCorrCoef()(*(torch.tensor(each.ravel()) for each in (values, fixated)))
    assert cc(values, density(fixations, (7, 9), 1.5)) == pytest.approx(float(pearson), abs=1e-6)
    others = np.stack([generator.integers(0, 7, 30), generator.integers(0, 9, 30)], axis=1)
    own = np.unique(fixations, axis=0)
    labels = np.repeat([1, 0], [len(own), 30])
    at_both = values[tuple(np.concatenate([own, others]).T)]
    assert auc_shuffled(values, fixations, others) == pytest.approx(roc_auc_score(labels, at_both), abs=1e-10)
    p, q = ((each - each.min()) / (each - each.min()).sum() for each in (values, fixated))
    assert sim(values, fixated) == pytest.approx(1 - np.abs(p - q).sum() / 2, abs=1e-10)  # 1 less the total variation
    shares, q = np.exp(values) / np.exp(values).sum(), fixated / fixated.sum()
    assert kl(np.exp(values), fixated) == pytest.approx(entropy(q.ravel(), shares.ravel()), abs=1e-6)
    smallest = np.unravel_index(fixated.argmin(), q.shape)
    positive = np.exp(values)  # its minimum is 0, where nobody looks
    positive[smallest] = 0
    p = positive / positive.sum()
    baseline = np.exp(generator.normal(size=(7, 9)))
    baseline[smallest] = 0
    seen = [(i, j) for i, j in fixations if (i, j) != smallest]
    bits = [np.log2(p[i, j] / (baseline / baseline.sum())[i, j]) for i, j in seen]
    assert information_gain(positive, np.array(seen), baseline) == pytest.approx(np.mean(bits), abs=1e-6)


def test_perfect_maps_and_the_centre_bias() -> None:
    generator = np.random.default_rng(0)
    fixations = np.stack([generator.integers(0, 30, 20), generator.integers(0, 40, 20)], axis=1)
    fixated = density(fixations, (30, 40), 3.0)
    assert sim(fixated, fixated) == pytest.approx(1)
    assert kl(fixated, fixated) == pytest.approx(0, abs=1e-9)
    assert cc(fixated, fixated) == pytest.approx(1)
    assert information_gain(fixated, fixations, fixated) == 0
    assert information_gain(fixated, fixations, np.ones((30, 40))) > 0
    # Where everybody always looks at the centre, a map of the centre is good by AUC-Judd, and no better than chance by
    # the shuffled AUC.
    near = np.clip(generator.normal((15, 20), 3, size=(500, 2)), 0, 29).astype(int)
    centre = density(near, (30, 40), 3.0)
    assert auc_judd(centre, near[:20]) > 0.9
    assert auc_shuffled(centre, near[:250], near[250:]) < 0.6
    with pytest.raises(ValueError, match="others is empty"):
        auc_shuffled(centre, near, near[:0])


def test_a_constant_map_says_nothing() -> None:
    fixations = np.array([[0, 0], [2, 1]])
    for constant in (np.zeros((4, 5)), np.full((4, 5), 0.1) + np.eye(4, 5) * 1e-17):
        fixated = density(fixations, (4, 5), 1)
        assert (nss(constant, fixations), auc_judd(constant, fixations), cc(constant, fixated)) == (0, 0.5, 0)
        assert auc_shuffled(constant, fixations, fixations) == 0.5
        assert information_gain(constant, fixations, constant) == 0
    with pytest.raises(ValueError, match="all pixels are fixated"):
        auc_judd(np.zeros((1, 2)), np.array([[0, 0], [0, 1]]))


def _path(*stays: tuple[float, float, int], noise: float = 0.0) -> np.ndarray:
    gaze = np.concatenate([np.tile([x, y], (samples, 1)) for x, y, samples in stays])
    return gaze + noise * np.random.default_rng(0).normal(size=gaze.shape)


def test_fixations_of_a_path() -> None:
    """The path has two long stays, a blink in one of them, and a stay of 8 samples (33 ms), which is too short."""
    gaze = _path((100, 50, 60), (200, 80, 40), (-1, -1, 10), (200, 80, 40), (300, 300, 8), (30, 40, 30))
    found = gaze_fixations(gaze)
    assert found.tolist() == [[100, 50], [200, 80], [200, 80], [30, 40]]
    missing = gaze.copy()
    missing[gaze < 0] = np.nan
    assert gaze_fixations(missing).tolist() == found.tolist()
    assert gaze_fixations(gaze, shortest=0.01).tolist() == [*found[:3].tolist(), [300, 300], [30, 40]]
    noisy = gaze_fixations(_path((100, 50, 60), (200, 80, 40), noise=0.5))
    assert np.abs(noisy - [[100, 50], [200, 80]]).max() < 0.5
    assert gaze_fixations(np.full((50, 2), -1.0)).shape == (0, 2)


def test_steady_pursuit_is_no_fixation() -> None:
    """A degree is 34 pixels, so 4 pixels per sample are 28 degrees per second, and 5 are 35."""
    for step, fixations in ((4.0, 1), (5.0, 0)):
        gaze = np.stack([step * np.arange(60), np.full(60, 20.0)], axis=1)
        assert len(gaze_fixations(gaze)) == fixations
