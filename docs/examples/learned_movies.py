"""Learn atoms in space and time from a photograph that moves: `python docs/examples/learned_movies.py FIGURE`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import vars_dyn as vd
from vars_dyn.images import read_image
from vars_dyn.learning import OlshausenField, Solve, random_dictionary
from vars_dyn.learning.photographs import photographs
from vars_dyn.plotting.style import bare_axes

#: Frames and pixels of a movie, which are those of an atom.
MOVIE = (6, 8, 8)
ATOMS, STEPS, BATCH, LAM, SEED, SHOWN = 192, 400, 128, 1.0, 0, 20

Array = NDArray[np.float64]


def movies(seed: int) -> Iterator[Array]:
    """Movies (prod(MOVIE),) without end: crops of a whitened photograph that move at up to 1.5 pixels a frame."""
    image = OlshausenField().apply(read_image(photographs()[0])).values[0]
    random = np.random.default_rng(seed)
    while True:
        row, column = (int(random.integers(side - 32)) for side in image.shape)
        crop = torch.from_numpy(image[row : row + 32, column : column + 32].copy())
        speed, angle = 1.5 * np.sqrt(random.uniform()), random.uniform(0, 2 * np.pi)
        # With a pixel a degree and a time constant of a second, velocities are in pixels a frame.
        velocity = (speed * np.cos(angle), speed * np.sin(angle))
        seen = vd.stimuli.Translation(crop, velocity=velocity, window=MOVIE[1:], pixels_per_degree=1.0, tau_ms=1000.0)
        movie = torch.stack([seen(torch.tensor(float(t), dtype=torch.float64)) for t in range(MOVIE[0])])
        yield movie.numpy().ravel() / image.std()


def direction(atom: Array) -> float:
    """How much of an atom's power moves one way: |A - B| / (A + B) at its best orientation, 0 still or flickering."""
    power = np.abs(np.fft.fftn(atom, (16, 16, 16))) ** 2
    power[0] = 0.0  # what does not change in time moves in no direction
    half = power[1:8].sum(0)  # positive temporal frequencies, at every spatial one
    row, column = np.unravel_index(half.argmax(), half.shape)
    there, back = half[row, column], half[-row % 16, -column % 16]
    return float(abs(there - back) / (there + back))


def main(figure: str) -> None:
    """Learn, draw each atom's frames in a row, and say how many move."""
    torch.set_num_threads(1)
    began = time.process_time()
    blank = vd.DenseDictionary(torch.ones(math.prod(MOVIE), ATOMS, dtype=torch.float64))
    start = random_dictionary(blank, SEED)
    learned = vd.learn(
        start, lambda: movies(SEED), LAM, codes=Solve(tol=1e-3), steps=STEPS, batch_size=BATCH, seed=SEED
    )
    first, atoms = (d.matrix().numpy().T.reshape(-1, *MOVIE) for d in (start, learned.dictionary))
    before, found = (np.array([direction(atom) for atom in some]) for some in (first, atoms))
    page = Figure((8, 7), layout="constrained")
    FigureCanvasAgg(page)
    # Every so many of all atoms, from those that move most to those that do not.
    chosen = np.argsort(-found)[:: ATOMS // SHOWN][:SHOWN]
    for half, block in enumerate(page.subfigures(1, 2)):
        panels = block.subplots(SHOWN // 2, MOVIE[0])
        for row, number in enumerate(chosen[half::2]):
            most = np.abs(atoms[number]).max()
            for frame in range(MOVIE[0]):
                axes = panels[row, frame]
                axes.imshow(atoms[number, frame], cmap="gray", vmin=-most, vmax=most)
                bare_axes(axes)
            panels[row, 0].set_ylabel(f"{found[number]:.2f}", fontsize=7)
    page.suptitle("Atoms over their frames; at the left the direction index", fontsize=9)
    page.savefig(figure, dpi=150)
    course = learned.history
    print(f"objective: {float(course.objective[:10].mean()):.1f} at first, {float(course.objective[-10:].mean()):.1f}")
    print(f"direction index of the random atoms: median {np.median(before):.2f}")
    print(f"direction index above 0.5: {int((found > 0.5).sum())} of {ATOMS} atoms, median {np.median(found):.2f}")
    print(f"{time.process_time() - began:.0f} s of processor time; torch {torch.__version__}, one thread, seed {SEED}")


if __name__ == "__main__":
    main(sys.argv[1])
