"""Show why the plain continuous adjoint fails at an attractor: integrating backwards in time does not find the state.

Run it from the root of a clone as `python docs/examples/naive_adjoint.py [FIGURE]`. The left panel shows the error of
the state after integrating to T and back again, as the adjoint method does. The right panel shows the error of the
gradient.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

import torch
import torchdiffeq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import vars_dyn as vd
from experiments.benchmark.gradients import PLAIN, Setting, error_of, flow_gradient, run_once

SETTING = Setting(signals=4, neurons=8, atoms=12, rtol=1e-6)
END = 6.0
HORIZONS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
MODES = {
    PLAIN: ("torchdiffeq.odeint_adjoint as it comes", "#c1272d", "o"),
    "adjoint": ('gradient="adjoint"', "#1f77b4", "s"),
    "backprop": ('gradient="backprop"', "#2e7d32", "^"),
}


class Return(NamedTuple):
    """The distance at `times` between the states found backwards and those found forwards, and rho, in 1/time."""

    times: Tensor
    distance: Tensor
    stiffness: float


def there_and_back(setting: Setting = SETTING, end: float = END) -> Return:
    """Integrate to `end` and back again."""
    weight, x, _ = setting.tensors()
    field = setting.field(weight, x)
    times = torch.linspace(0, end, 121, dtype=torch.float64)
    tolerances = {"rtol": setting.rtol, "atol": setting.rtol / 100}
    forward = vd.integrate(field, field.initial_state(), times, **tolerances).states
    last = tuple(part[-1] for part in forward)
    back = torchdiffeq.odeint(field, last, times.flip(0), method="dopri5", **tolerances)
    pairs = zip(forward, back, strict=True)
    distance = torch.stack([(there - back.flip(0)).flatten(1).norm(dim=1) for there, back in pairs]).norm(dim=0)
    return Return(times, distance, float(field.stiffness()))


def errors(setting: Setting = SETTING, horizons: tuple[float, ...] = HORIZONS) -> dict[str, list[float]]:
    """The relative error of the gradient at each horizon, by mode."""
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    for horizon in horizons:
        exact = flow_gradient(setting, horizon)
        for mode, values in found.items():
            run = run_once(setting, mode, horizon)
            gradients = {} if run.weight is None or run.x is None else {"weight": run.weight, "x": run.x}
            values.append(error_of(gradients, exact))
    return found


def draw(path: str) -> None:
    """Write the figure."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    back = there_and_back()
    left.semilogy(back.times, back.distance.clamp(min=1e-12), color="#c1272d")
    slope = back.distance[-40] * torch.exp(back.stiffness * (back.times[-40] - back.times))
    shown = slope < back.distance.max()
    left.semilogy(back.times[shown], slope[shown], color="0.6", linestyle=":", label=r"$\propto e^{\rho (T - t)}$")
    left.annotate("", (1.2, 1e-9), (4.2, 1e-9), arrowprops={"arrowstyle": "->", "color": "0.4"})
    left.text(2.7, 2e-9, "the backward pass", ha="center", va="bottom", color="0.3", fontsize=9)
    left.set(xlabel="time (membrane time constants)", ylabel="|state found backwards - state|")
    left.set_title("The state, integrated to T and back", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    for mode, values in errors().items():
        label, colour, marker = MODES[mode]
        finite = [(t, v) for t, v in zip(HORIZONS, values, strict=True) if math.isfinite(v)]
        right.semilogy(*zip(*finite, strict=True), color=colour, marker=marker, label=label)
    right.axhline(1.0, color="0.7", linewidth=0.8)
    right.text(0.5, 1.4, "as large as the gradient", color="0.5", fontsize=8)
    right.set(xlabel="horizon T (membrane time constants)", ylabel="relative error of the gradient")
    right.set_title("The gradient of the code at T", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else "naive-adjoint.png")
