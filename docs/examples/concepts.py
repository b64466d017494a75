"""Draw what a code, an atom and a certificate are, on one patch of a photograph.

Run it from the root of a clone as `python docs/examples/concepts.py [FOLDER]`. It writes `code.png`, the patch as a sum
of atoms, and `certificate.png`, the neurons that find the code with the two bounds that meet, to the folder (default:
docs/_static/concepts).
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.cbook
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import vars_dyn as vd
from vars_dyn.dictionaries.gabor import GaborBank
from vars_dyn.images import read_image, resized

SIZE, LAM = 16, 0.1
#: The corner of the patch in the photograph, resized to a quarter: a part of the collar.
ROW, COLUMN = 100, 56


def patch() -> torch.Tensor:
    """The patch without its mean, of norm one, as a vector."""
    image = read_image(Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    small = resized(image, image.shape[-2] // 4, image.shape[-1] // 4)
    cut = torch.as_tensor(small[0, ROW : ROW + SIZE, COLUMN : COLUMN + SIZE].copy()).flatten()
    return torch.nn.functional.normalize(cut - cut.mean(), dim=0)


def simulate(end: float = 60.0, points: int = 241) -> tuple[vd.SparseRecurrent, vd.Trajectory]:
    """The neurons of a bank of Gabor functions that see the patch, from rest to `end` time constants."""
    dictionary = vd.DenseDictionary(GaborBank(SIZE, places=3, wavelength=6.0).weight())
    field = vd.SparseRecurrent(dictionary, patch(), lam=LAM)
    times = torch.linspace(0, end, points, dtype=torch.float64)
    return field, vd.integrate(field, field.initial_state(), times, gap=1e-9)


def bounds(field: vd.SparseRecurrent, run: vd.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """E of the code at every time, and the best lower bound on the least E found by then."""
    problem = field.problem()
    codes = [field.code(tuple(part[k] for part in run.states)) for k in range(len(run.times))]
    above = torch.stack([problem.objective(code) for code in codes])
    below = above - torch.stack([problem.gap(code) for code in codes])
    return above.numpy(), np.maximum.accumulate(below.numpy())


def picture(ax, values: torch.Tensor, title: str, limit: float) -> None:
    ax.imshow(values.reshape(SIZE, SIZE), cmap="gray", vmin=-limit, vmax=limit)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)


def draw_code(field: vd.SparseRecurrent) -> Figure:
    code = vd.equilibrium(field).code
    x, largest = field.x, code.abs().argsort(descending=True)[:5]
    figure = Figure(figsize=(11, 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 8)
    limit = float(x.abs().max())
    picture(axes[0], x, "signal x", limit)
    for k, (ax, i) in enumerate(zip(axes[1:6], largest, strict=True)):
        atom = field.dictionary.decode(torch.nn.functional.one_hot(i, code.numel()).to(code))
        picture(ax, atom, f"{'=' if k == 0 else '+'} {float(code[i]):.2f} x atom {int(i)}", float(atom.abs().max()))
    rest = code.clone()
    rest[largest] = 0
    count = int(rest.count_nonzero())
    picture(axes[6], field.dictionary.decode(rest), f"+ {count} smaller ones", limit)
    picture(axes[7], x - field.dictionary.decode(code), "+ residual", limit)
    return figure


def draw_certificate(field: vd.SparseRecurrent, run: vd.Trajectory) -> Figure:
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    u, times = run.states[1], run.times
    silent = u[-1].abs() <= LAM / 2
    left.plot(times, u[:, silent][:, ::4], color="0.8", linewidth=0.7)
    left.plot(times, u[:, ~silent], linewidth=1.2)
    for level in (-LAM / 2, LAM / 2):
        left.axhline(level, color="k", linestyle=":", linewidth=1)
    left.set(xlabel="time (membrane time constants)", ylabel="potentials u", xlim=(0, 30))
    left.set_title("Few neurons stay above the threshold (dotted)", fontsize=10)
    above, below = bounds(field, run)
    right.plot(times, above, color="#d1661a", label="E(a), what this code costs")
    right.plot(times, below, color="#1f5fa8", label="the least that any code can cost, at least")
    right.fill_between(times, below, above, color="0.9", label="the gap")
    right.set(xlabel="time (membrane time constants)", xlim=(0, 30), ylim=(0, above[0] * 1.05))
    right.set_title("The certificate: two bounds that meet", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    return figure


def main(folder: str = "docs/_static/concepts") -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    field, run = simulate()
    draw_code(field).savefig(Path(folder) / "code.png", dpi=110)
    draw_certificate(field, run).savefig(Path(folder) / "certificate.png", dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
