"""Learn atoms in space and time from a photograph that moves: `python docs/examples/learned_movies.py FIGURE`."""

from __future__ import annotations

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
from vars_dyn.learning import Hebbian, OlshausenField, Solve, random_dictionary
from vars_dyn.learning.photographs import photographs
from vars_dyn.plotting.style import bare_axes

#: Frames and pixels of a movie, and of an atom.
MOVIE, ATOM = (8, 16, 16), (6, 9, 9)
ATOMS, STEPS, BATCH, LAM, SEED = 16, 100, 8, 0.6, 0

Array = NDArray[np.float64]


def movies(seed: int) -> Iterator[Array]:
    """Movies (1, *MOVIE) without end: crops of a whitened photograph that move at up to 1.5 pixels a frame."""
    image = OlshausenField().apply(read_image(photographs()[0])).values[0]
    random = np.random.default_rng(seed)
    while True:
        row, column = (int(random.integers(side - 48)) for side in image.shape)
        crop = torch.from_numpy(image[row : row + 48, column : column + 48].copy())
        speed, angle = 1.5 * np.sqrt(random.uniform()), random.uniform(0, 2 * np.pi)
        # With a pixel a degree and a time constant of a second, velocities are in pixels a frame.
        velocity = (speed * np.cos(angle), speed * np.sin(angle))
        seen = vd.stimuli.Translation(crop, velocity=velocity, window=MOVIE[1:], pixels_per_degree=1.0, tau_ms=1000.0)
        movie = torch.stack([seen(torch.tensor(float(t), dtype=torch.float64)) for t in range(MOVIE[0])])
        yield movie.numpy()[None] / (image.std() + 1e-9)


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
    blank = vd.ConvDictionary(torch.ones(ATOMS, 1, *ATOM, dtype=torch.float64), (1, *MOVIE))
    learned = vd.learn(
        random_dictionary(blank, SEED),
        lambda: movies(SEED),
        LAM,
        method=Hebbian(rate=0.3, decay=50.0),
        codes=Solve(tol=1e-3),
        steps=STEPS,
        batch_size=BATCH,
    )
    (weight,) = learned.dictionary.tensors()
    atoms = weight[:, 0].numpy()
    found = np.array([direction(atom) for atom in atoms])
    order = np.argsort(-found)
    page = Figure((8, 5), layout="constrained")
    FigureCanvasAgg(page)
    columns = page.subfigures(1, 2)
    for half, block in enumerate(columns):
        panels = block.subplots(ATOMS // 2, ATOM[0])
        for row in range(ATOMS // 2):
            number = order[half * ATOMS // 2 + row]
            most = np.abs(atoms[number]).max()
            for frame in range(ATOM[0]):
                axes = panels[row, frame]
                axes.imshow(atoms[number, frame], cmap="gray", vmin=-most, vmax=most)
                bare_axes(axes)
            panels[row, 0].set_ylabel(f"{found[number]:.2f}", fontsize=7)
    page.suptitle("Atoms over their frames; at the left the direction index", fontsize=9)
    page.savefig(figure, dpi=150)
    course = learned.history
    print(f"objective: {float(course.objective[:10].mean()):.1f} at first, {float(course.objective[-10:].mean()):.1f}")
    (before,) = random_dictionary(blank, SEED).tensors()
    first = np.array([direction(atom) for atom in before[:, 0].numpy()])
    print(f"direction index of the random atoms: median {np.median(first):.2f}, largest {first.max():.2f}")
    print(f"direction index above 0.5: {int((found > 0.5).sum())} of {ATOMS} atoms, median {np.median(found):.2f}")
    print(f"{time.process_time() - began:.0f} s of processor time; torch {torch.__version__}, one thread, seed {SEED}")


if __name__ == "__main__":
    main(sys.argv[1])
