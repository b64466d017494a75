"""Learn convolutional atoms of speech-like sounds, and draw them: `python docs/examples/learned_sounds.py FIGURE`.

The sounds are made here: voiced syllables (pulses through three resonances), hisses (filtered noise) and clicks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

import vars_dyn as vd
from vars_dyn.learning import Online, Solve, random_dictionary
from vars_dyn.plotting.style import BLUE, tidy_axes

#: Samples a second, samples of a signal, and of an atom.
RATE, LENGTH, WIDTH = 8000, 256, 64
ATOMS, STEPS, BATCH, LAM, SEED = 16, 120, 12, 1.0, 0

Array = NDArray[np.float64]


def voiced(random: np.random.Generator) -> Array:
    """Pulses at 90 to 220 Hz through three formants of 80 to 250 Hz bandwidth."""
    pulses = np.zeros(LENGTH)
    pulses[random.integers(80) :: int(RATE / random.uniform(90, 220))] = 1.0
    sound = pulses
    for low, high in ((250, 850), (850, 2200), (2200, 3200)):
        radius, angle = np.exp(-np.pi * random.uniform(80, 250) / RATE), 2 * np.pi * random.uniform(low, high) / RATE
        sound = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], sound)
    return sound


def hiss(random: np.random.Generator) -> Array:
    """Noise in a band that begins at 1500 to 3000 Hz."""
    band = butter(2, random.uniform(1500, 3000), "high", fs=RATE, output="sos")
    return np.asarray(sosfilt(band, random.standard_normal(LENGTH)))


def click(random: np.random.Generator) -> Array:
    """A burst that rings for a few milliseconds."""
    time_after = np.arange(LENGTH) - random.integers(LENGTH)
    ring = np.cos(2 * np.pi * random.uniform(500, 3500) * time_after / RATE + random.uniform(0, 2 * np.pi))
    return np.where(time_after >= 0, np.exp(-time_after / random.uniform(8, 40)) * ring, 0.0)


def sounds(seed: int) -> Iterator[Array]:
    """Sounds (1, LENGTH) without end, each of a standard deviation of 1."""
    random = np.random.default_rng(seed)
    while True:
        sound = (voiced, voiced, hiss, click)[random.integers(4)](random)
        yield (sound - sound.mean())[None] / (sound.std() + 1e-9)


def draw(atoms: Array, figure: str) -> Array:
    """The atoms by their centre frequency, each with its spectrum; returns centres and bandwidths in Hz."""
    spectra = np.abs(np.fft.rfft(atoms, 512)) ** 2
    frequency = np.fft.rfftfreq(512, 1 / RATE)
    centre = (spectra * frequency).sum(1) / spectra.sum(1)
    spread = np.sqrt((spectra * (frequency - centre[:, None]) ** 2).sum(1) / spectra.sum(1))
    page = Figure((10, 5), layout="constrained")
    FigureCanvasAgg(page)
    panels = page.subplots(4, 8)
    for place, number in enumerate(np.argsort(centre)):
        wave, power = panels[place // 4, 2 * (place % 4)], panels[place // 4, 2 * (place % 4) + 1]
        wave.plot(1000 * np.arange(WIDTH) / RATE, atoms[number], color=BLUE, linewidth=0.8)
        wave.set_yticks([])
        power.plot(frequency / 1000, spectra[number] / spectra[number].max(), color="0.4", linewidth=0.8)
        power.set_yticks([])
        for axes in (wave, power):
            tidy_axes(axes)
            axes.tick_params(labelsize=6, labelbottom=place >= 12)
        if place >= 12:
            wave.set_xlabel("ms", fontsize=7)
            power.set_xlabel("kHz", fontsize=7)
    page.savefig(figure, dpi=150)
    return np.stack([centre, spread])


def main(figure: str) -> None:
    """Learn, draw and say what was learned."""
    torch.set_num_threads(1)
    blank = vd.ConvDictionary(torch.ones(ATOMS, 1, WIDTH, dtype=torch.float64), (1, LENGTH), padding=WIDTH // 2)
    began = time.process_time()
    learned = vd.learn(
        random_dictionary(blank, SEED),
        lambda: sounds(SEED),
        LAM,
        method=Online(forgetting=5.0),
        codes=Solve(tol=1e-3),
        steps=STEPS,
        batch_size=BATCH,
    )
    (weight,) = learned.dictionary.tensors()
    centre, spread = draw(weight[:, 0].numpy(), figure)
    held_out = torch.from_numpy(np.stack([s for s, _ in zip(sounds(SEED + 1), range(64), strict=False)]))
    for name, dictionary in (("random", random_dictionary(blank, SEED)), ("learned", learned.dictionary)):
        problem = vd.SparseProblem(dictionary, held_out, LAM)
        found = vd.solve(problem, tol=1e-3, polish=False)
        noise = (held_out - dictionary.decode(found.code)).square().sum()
        active = float((found.code != 0).double().sum((1, 2)).mean())
        print(
            f"{name} atoms: objective {float(problem.objective(found.code).mean()):.1f}, "
            f"signal to noise {float(10 * (held_out.square().sum() / noise).log10()):.1f} dB, {active:.0f} active"
        )
    print(f"centre frequencies {np.percentile(centre, [0, 25, 50, 75, 100]).round()} Hz")
    print(f"bandwidths (standard deviation) {np.percentile(spread, [0, 25, 50, 75, 100]).round()} Hz")
    print(f"{time.process_time() - began:.0f} s of processor time; torch {torch.__version__}, one thread, seed {SEED}")


if __name__ == "__main__":
    main(sys.argv[1])
