"""Draw orientation tuning of linear filters and of neurons that compete: `python docs/examples/tuning.py [FIGURE]`.

Gratings of 32 orientations are shown to a bank of Gabor functions. The tutorial "Measure tuning curves" explains it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import vars_dyn as vd
from vars_dyn.dictionaries.gabor import GaborBank

ANGLES = np.arange(0, 180, 5.625)


def respond(lam: float = 0.2) -> tuple[Tensor, Tensor]:
    """What filters and neurons answer to each orientation, (orientation, neuron)."""
    P = vd.DenseDictionary(GaborBank(12, orientations=12, scales=1, phases=2).weight())
    screen = vd.stimuli.Screen(12, 12, pixels_per_degree=1.0)
    aperture = screen.gaussian(3.0)
    gratings = (vd.stimuli.Grating(screen, orientation=float(a), spatial_frequency=0.25) for a in ANGLES)
    shown = torch.stack([vd.stimuli.Masked(grating, aperture)(0.0).flatten() for grating in gratings])
    x = torch.nn.functional.normalize(shown, dim=-1)
    return P.encode(x).clamp(min=0), vd.solve(vd.SparseProblem(P, x, lam=lam)).code.clamp(min=0)


def selectivity(curves: Tensor) -> np.ndarray:
    """One minus the circular variance of every neuron that answers to anything."""
    values = curves.numpy()
    values = values[:, values.max(0) > 0.05]
    return np.abs(np.exp(2j * np.deg2rad(ANGLES)) @ values) / values.sum(0)


def draw() -> Figure:
    linear, response = respond()
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    cell = int(response.amax(0).argmax())
    for curves, label, colour in ((linear, "linear filter", "0.6"), (response, "neuron that competes", "#1f5fa8")):
        left.plot(ANGLES, curves[:, cell] / curves[:, cell].max(), color=colour, label=label)
        right.hist(selectivity(curves), bins=np.linspace(0, 1, 21), color=colour, alpha=0.8, label=label)
    left.set(xlabel="orientation of the grating (degrees)", ylabel="response / largest response")
    left.legend(frameon=False, fontsize=9)
    right.set(xlabel="orientation selectivity index", ylabel="neurons", xlim=(0, 1))
    return figure


if __name__ == "__main__":
    draw().savefig(sys.argv[1] if len(sys.argv) > 1 else "tuning.png", dpi=110)
