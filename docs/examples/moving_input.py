"""Show how well the neurons follow a drifting grating: the tracking gap against the speed of the drift.

Run it from the root of a clone as `python docs/examples/moving_input.py [FIGURE]`. The left panel shows the relative
gap to the problem of each moment over time, for some speeds. The right panel shows its median over the second half of
the run against the speed, beside the gap of the run in which the grating stands still.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import vars_dyn as vd

SCREEN = vd.stimuli.Screen(8, 8, pixels_per_degree=4.0)
SPATIAL_FREQUENCY = 1.0
#: The frequencies of the drift in hertz; with one cycle per degree they are speeds in degrees per second, too.
FREQUENCIES = (0.004, 0.016, 0.063, 0.25, 1.0, 4.0, 16.0)
END, POINTS = 160.0, 161


class Tracking(NamedTuple):
    """The times in milliseconds, and the relative gap to the problem of each time."""

    milliseconds: NDArray[np.float64]
    gap: NDArray[np.float64]

    @property
    def late(self) -> float:
        """The median over the second half of the run."""
        return float(np.median(self.gap[len(self.gap) // 2 :]))


def field_of(temporal_frequency: float) -> vd.SparseRecurrent:
    """Neurons that see a grating which drifts at so many cycles per second."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 96, dtype=torch.float64, generator=generator)
    grating = vd.stimuli.Grating(
        SCREEN, orientation=60.0, spatial_frequency=SPATIAL_FREQUENCY, temporal_frequency=temporal_frequency
    )
    return vd.SparseRecurrent(vd.DenseDictionary(torch.nn.functional.normalize(weight, dim=0)), grating, lam=0.5)


def track(temporal_frequency: float, end: float = END, points: int = POINTS) -> Tracking:
    """Integrate over `end` time constants and certify the code at `points` times."""
    field = field_of(temporal_frequency)
    times = torch.linspace(0, end, points, dtype=torch.float64)
    # Capped, as the still run to a gap is: otherwise errors of the size of rtol stay at the attractor.
    run = vd.integrate(field, field.initial_state(), times, rtol=1e-7, cap_steps=True)
    dataset = vd.to_dataset(field, run, variables=["relative_gap"])
    return Tracking(10.0 * times.numpy(), dataset["relative_gap"].to_numpy().ravel())


def draw(path: str) -> None:
    """Write the figure, and print its numbers."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    found = {frequency: track(frequency) for frequency in (0.0, *FREQUENCIES)}
    for frequency, run in found.items():
        print(f"{frequency / SPATIAL_FREQUENCY:8g} deg/s   {run.late:.2e}")
    shades = {0.0: "0.3", 0.016: "#8fb4dc", 1.0: "#1f5fa8", 16.0: "#d1661a"}
    for frequency, shade in shades.items():
        label = f"{frequency / SPATIAL_FREQUENCY:g} deg/s" if frequency else "still"
        left.semilogy(found[frequency].milliseconds, found[frequency].gap.clip(1e-17), color=shade, label=label)
    left.set(xlabel="time (ms)", ylabel="relative gap to the LASSO of the moment")
    left.set_title("The tracking gap over time", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    speeds = np.array(FREQUENCIES) / SPATIAL_FREQUENCY
    gaps = np.array([found[frequency].late for frequency in FREQUENCIES])
    right.loglog(speeds, gaps, "o-", color="#1f5fa8", label="drifting grating")
    right.loglog(speeds, gaps[0] * speeds / speeds[0], ":", color="0.6", label="proportional to the speed")
    right.axhline(max(found[0.0].late, 1e-17), color="0.3", linestyle="--", linewidth=1, label="still grating")
    right.set(xlabel="speed (degrees per second)", ylabel="median of the second half")
    right.set_title("The tracking gap against the speed", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else "tracking-gap.png")
