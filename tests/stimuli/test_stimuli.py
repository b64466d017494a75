"""Each stimulus against what defines it: closed forms, symmetries, spectra, and the contract that all share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import vars_dyn as vd
from tests.strategies import normal

S = vd.stimuli
SCREEN = S.Screen(12, 16, pixels_per_degree=4.0)


def grating(**options: float) -> vd.stimuli.Grating:
    return S.Grating(SCREEN, **{"spatial_frequency": 1.0, "temporal_frequency": 5.0, **options})


MADE: dict[str, Callable[[], vd.stimuli.Stimulus]] = {
    "constant": lambda: S.Constant(normal(1, 12, 16)),
    "grating": grating,
    "plaid": lambda: S.Plaid(SCREEN, temporal_frequency=3.0),
    "bars": lambda: S.Bars(SCREEN, speed=7.0, position=-1.0),
    "many bars": lambda: S.Bars(SCREEN, speed=7.0, spacing=1.5, width=0.4, contrast=-1.0, mean=0.5),
    "centre-surround": lambda: S.CentreSurround(SCREEN, grating(), grating(orientation=0.0), radius=0.5, gap=0.2),
    "noise": lambda: S.Noise(SCREEN, frames=5, rate=50.0),
    "joined noise": lambda: S.Noise(SCREEN, frames=5, rate=50.0, between="linear", pink_in_time=True),
    "translation": lambda: S.Translation(normal(2, 12, 16), velocity=(3.0, -2.0)),
    "flash": lambda: S.Flash(grating(), onset_ms=15.0, duration_ms=40.0, background=0.2),
    "sweep": lambda: S.ContrastSweep(grating(), (0.0, 1.0, 0.0), (10.0, 30.0, 60.0), background=0.1),
    "ramp": lambda: S.ContrastSweep(grating(), (0.0, 1.0, 0.0), (10.0, 30.0, 60.0), between="linear"),
    "sequence": lambda: S.Sequence((grating(), S.Noise(SCREEN, frames=3), S.Constant(normal(3, 12, 16))), (0, 2, 7)),
    "patches": lambda: S.Patches(grating(), 4, 3, subtract_mean=True),
    "sampled": lambda: S.Sampled(normal(4, 4, 12, 16), [0.0, 1.0, 2.5, 6.0]),
    "lines": lambda: S.Sampled(normal(4, 4, 12, 16), [0.0, 1.0, 2.5, 6.0], "linear"),
    "function": lambda: S.Function(
        lambda t, a: a * math.sin(t) if t < 3 else a, like=torch.ones(12, 16).double(), tensors=[normal(5, 12, 16)],
        jumps=[3.0], rests_from=3.0, size=5.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_pieces_agree_with_the_whole_and_never_see_the_other_side_of_a_jump(name: str) -> None:
    stimulus = MADE[name]()
    assert stimulus(1.0).shape == stimulus.shape
    cuts = [0.0, *(t for t in stimulus.jumps if 0 < t < 9), 9.0]
    for start, end in itertools.pairwise(cuts):
        piece = stimulus.during(start, end)
        for share in (0.0, 0.3, 0.999):
            t = start + share * (end - start)
            torch.testing.assert_close(piece(t), stimulus(t), rtol=0, atol=1e-12)
        before = stimulus(np.nextafter(end, -np.inf))
        torch.testing.assert_close(piece(end), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MADE)
def test_size_bounds_rest_is_rest_and_other_tensors_give_the_same(name: str) -> None:
    stimulus = MADE[name]()
    size = stimulus.size()
    assert size.shape == stimulus.shape
    times = np.linspace(-1.0, 12.0, 40)
    for t in times:
        excess = 0.5 if name == "translation" else 1e-9  # a Fourier series overshoots
        assert bool((stimulus(t).abs() <= size + excess).all())
        if t >= stimulus.rests_from:
            assert torch.equal(stimulus(t), stimulus(1e3))
    moved = any(not torch.equal(stimulus(t), stimulus(0.0)) for t in times)
    assert moved == stimulus.moves
    narrow = stimulus.to(dtype=torch.float32)
    assert narrow(2.2).dtype == torch.float32
    torch.testing.assert_close(narrow(2.2).double(), stimulus(2.2), rtol=0, atol=1e-4)
    assert isinstance(stimulus.parameters()["stimulus"], str)


def test_a_grating_drifts_at_its_speed_and_has_its_period() -> None:
    # 5 Hz over 1 cycle per degree is 5 degrees per second: a quarter degree, one pixel, in 50 ms, 5 time constants.
    moved, first = grating()(5.0), grating()(0.0)
    torch.testing.assert_close(moved[:, 1:], first[:, :-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(grating()(20.0), first, rtol=0, atol=1e-12)
    assert grating().speed == 5.0
    down = grating(orientation=0.0)
    torch.testing.assert_close(down(5.0)[1:], down(0.0)[:-1], rtol=0, atol=1e-12)
    slower = grating(tau_ms=5.0)
    torch.testing.assert_close(slower(10.0), moved, rtol=0, atol=1e-12)


def test_a_bar_is_where_its_speed_has_brought_it() -> None:
    bar = S.Bars(SCREEN, speed=10.0, position=-1.0, width=0.5)
    right, _ = SCREEN.grid()
    for t in (0.0, 7.5, 20.0):
        x = bar(t)
        centre = float((x * right).sum() / x.sum())
        assert centre == pytest.approx(-1.0 + 10.0 * t * 0.01, abs=0.02)
        assert float(x.sum(1).mean()) / 4 == pytest.approx(0.5, abs=0.01)


def test_a_picture_moves_by_whole_pixels_exactly_and_comes_back() -> None:
    picture = normal(2, 12, 16)
    moving = S.Translation(picture, velocity=(2.0, 1.0), pixels_per_degree=5.0, window=(8, 10))
    # 2 and 1 degrees per second are 10 and 5 pixels per second; 20 time constants of 10 ms are 0.2 s.
    wanted = torch.roll(picture, (-1, 2), (0, 1))[2:10, 3:13]
    torch.testing.assert_close(moving(20.0), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(moving(0.0), picture[2:10, 3:13], rtol=0, atol=0)


def test_noise_has_its_spectrum_and_depends_on_nothing_but_seed_and_number() -> None:
    screen = S.Screen(64, 64)
    pink = S.Noise(screen, frames=50, spatial_exponent=1.0, contrast=0.7, seed=3)
    frames = torch.stack([pink.frame(k) for k in range(50)])
    assert float(frames.std()) == pytest.approx(0.7, rel=0.05)
    power = torch.fft.rfft2(frames).abs().square().mean(0)
    slope = math.log(float(power[0, 16] / power[0, 2])) / math.log(16 / 2)
    assert slope == pytest.approx(-2.0, abs=0.25)
    assert torch.equal(S.Noise(screen, frames=50, spatial_exponent=1.0, contrast=0.7, seed=3).frame(31), frames[31])
    assert not torch.equal(S.Noise(screen, seed=4).frame(0), S.Noise(screen, seed=3).frame(0))
    slow = S.Noise(S.Screen(16, 16), frames=40, pink_in_time=True)
    rows = torch.stack([slow.frame(k).flatten() for k in range(40)])
    assert float(rows.std()) == pytest.approx(1.0, rel=0.1)
    near, far = (float((rows[d:] * rows[:-d]).mean()) for d in (1, 16))
    assert near > far + 0.1


def test_frames_are_not_kept() -> None:
    long = S.Noise(S.Screen(4, 4), frames=100_000, rate=1000.0)
    field = vd.FeedForward(long)
    assert len(field.boundaries) == 99_999
    assert sum(t.numel() for t in field.tensors()) < 100


def test_batches_stack_and_every_signal_sees_its_own() -> None:
    both = S.Stack(grating(), S.Constant(normal(1, 12, 16)))
    assert torch.equal(both(3.0)[0], grating()(3.0))
    assert torch.equal(both(3.0)[1], normal(1, 12, 16))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: S.Sampled(normal(1, 3, 4), [0.0, 1.0]), "one time for every signal"),
        (lambda: S.Sampled(normal(1, 2, 4), [1.0, 1.0]), "strictly increasing"),
        (lambda: S.Sampled(normal(1, 2, 4), [0.0, 1.0], "cubic"), "hold"),
        (lambda: S.Sum(grating(), grating(tau_ms=20.0)), "time constants 10 and 20 ms"),
        (lambda: S.Stack(grating(), S.Constant(normal(1, 3))), "one shape is wanted"),
        (lambda: S.Bars(SCREEN, width=1.0, spacing=0.5), "above the width"),
        (lambda: S.Function(lambda t: torch.zeros(3), like=torch.zeros(4)), "like's shape"),
        (lambda: S.Function(lambda t: torch.full((4,), math.nan if t else 0.0), like=torch.zeros(4))(0.5), "holds NaN"),
        (lambda: S.Function(lambda t: np.zeros((40, 30)), torch.zeros(4)), r"f\(0\) is a ndarray of shape \(40, 30\)"),
        (lambda: S.Sequence((grating(),), (0.0, 1.0)), "one each is wanted"),
        (lambda: vd.SparseRecurrent(vd.DenseDictionary(normal(1, 7, 9)), grating()), "the stimulus has shape"),
        (lambda: S.Sampled(normal(1, 2, 4), [0.0, 1.0]).seconds(1.0), "no tau_ms"),
    ],
)
def test_bad_arguments_get_one_sentence(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
