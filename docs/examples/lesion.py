"""Remove the most active neuron of a running field, and draw who takes over: `python docs/examples/lesion.py [FIGURE]`.

The neurons have Gabor receptive fields and see stripes. The tutorial "Lesion and cue" explains it.
"""

from __future__ import annotations

import sys

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import vars_dyn as vd
from vars_dyn.dictionaries.gabor import GaborBank

SIZE, START, END = 12, 40.0, 100.0


def simulate() -> tuple[vd.SparseRecurrent, vd.Trajectory, int]:
    """The field, its run with the lesion at START, and the number of the neuron that was removed."""
    P = vd.DenseDictionary(GaborBank(SIZE, orientations=8, scales=1, phases=2, places=2).weight())
    row, column = torch.meshgrid(*2 * (torch.arange(SIZE, dtype=torch.float64),), indexing="ij")
    window = torch.exp(-((row - (SIZE - 1) / 2) ** 2 + (column - (SIZE - 1) / 2) ** 2) / 18)
    stripes = (window * torch.cos(2 * torch.pi * row / 4.5)).flatten()
    field = vd.SparseRecurrent(P, torch.nn.functional.normalize(stripes - stripes.mean(), dim=0), lam=0.1)
    strongest = int(vd.equilibrium(field).code.abs().argmax())
    times = torch.linspace(0, END, 401, dtype=torch.float64)
    lesion = vd.Lesion(atoms=[strongest], start=START)
    return field, vd.integrate(field, field.initial_state(), times, interventions=[lesion]), strongest


def draw() -> Figure:
    field, run, removed = simulate()
    codes = torch.stack([field.code(tuple(part[k] for part in run.states)) for k in range(len(run.times))])
    codes[run.times >= START, removed] = 0
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    largest = codes.abs().amax(0).argsort(descending=True)[:10].tolist()
    for i in largest:
        if i == removed:
            left.plot(run.times, codes[:, i], color="#d1661a", linewidth=2, label="the neuron that is removed")
        else:
            left.plot(run.times, codes[:, i], linewidth=1)
    left.axvline(START, color="k", linestyle=":", linewidth=1)
    left.set(xlabel="time (membrane time constants)", ylabel="output a", xlim=(0, END))
    left.legend(frameon=False, fontsize=9)
    before, after = codes[run.times < START][-1], codes[-1]
    change = after - before
    gained = [i for i in (after.abs() - before.abs()).argsort(descending=True).tolist() if i != removed][:3]
    weight = field.dictionary.decode(torch.eye(codes.shape[1], dtype=torch.float64))
    tiles = torch.cat([weight[i].reshape(SIZE, SIZE) for i in [removed, *gained]], dim=1)
    right.imshow(tiles, cmap="gray")
    right.set(xticks=[SIZE * (k + 0.5) for k in range(4)], yticks=[])
    right.set_xticklabels(["removed", *(f"{float(change[i]):+.2f}" for i in gained)], fontsize=9)
    right.set_title("Removed, and those that gain most", fontsize=10)
    return figure


if __name__ == "__main__":
    draw().savefig(sys.argv[1] if len(sys.argv) > 1 else "lesion.png", dpi=110)
