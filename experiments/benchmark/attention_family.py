"""Attention of many shapes beside fused softmax: `python -m experiments.benchmark.attention_family [--out FOLDER]`.

The cells are every kind of attention in the paper's form at 49 to 3136 tokens, and others whose grids, widths and heads
are drawn from a seed. Each is a layer's forward and backward pass, with its projections, in float32 on one thread.
Ratios and their intervals are those of `families`. `--out` writes attention-family.md and attention-family.json.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import experiments.benchmark.threads  # isort: skip  # noqa: F401  # before anything that starts threads
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.benchmark import report
from experiments.benchmark.families import Figure, asked, figures, measure_all, timed
from experiments.report import tables
from vars_dyn.attention import SoftmaxAttention, VarsAttention

__all__ = ["GRID", "KINDS", "Cell", "drawn", "main", "measure"]

#: The kinds by the names of the tables, with their dictionaries.
KINDS = {"VARS-D": "dynamic", "VARS-S": "static", "VARS-SD": "static+dynamic"}
#: The goals of the grid's cells by kind and number of tokens: ours over softmax.
_GOALS = {
    ("VARS-D", 196): 0.85, ("VARS-D", 784): 0.33, ("VARS-S", 196): 1.5,
    ("VARS-S", 784): 0.7, ("VARS-SD", 196): 1.5, ("VARS-SD", 784): 0.6,
}  # fmt: skip
#: About how many tokens all images of a cell have together.
_TOKENS = 1568


class Cell(NamedTuple):
    """A layer of a kind of `KINDS` with `heads` heads and `dim` channels, on images of height x width tokens."""

    kind: str
    images: int
    height: int
    width: int
    dim: int = 192
    heads: int = 6

    @property
    def tokens(self) -> int:
        """Those of an image."""
        return self.height * self.width


#: Every kind at 49, 196, 784 and 3136 tokens.
GRID = tuple(Cell(kind, max(1, _TOKENS // side**2), side, side) for side in (7, 14, 28, 56) for kind in KINDS)


def drawn(count: int, seed: int) -> list[Cell]:
    """Cells drawn at random, the kinds in turn."""
    generator, kinds, cells = np.random.default_rng(seed), list(KINDS), list[Cell]()
    while len(cells) < count:
        height, width = (int(2 ** generator.uniform(2.3, 5.3)) for _ in range(2))
        heads, channels = int(generator.choice([2, 3, 6, 8])), int(generator.choice([16, 32, 48, 64]))
        images = max(1, _TOKENS // (height * width))
        cells.append(Cell(kinds[len(cells) % len(kinds)], images, height, width, heads * channels, heads))
    return cells


class Measured(NamedTuple):
    """A cell's processor seconds, (2, rounds), ours first, and the distance of our results from float64's."""

    cell: Cell
    seconds: NDArray[np.float64]
    error: float

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Ours over softmax's in every round."""
        return self.seconds[0] / self.seconds[1]

    @property
    def figure(self) -> Figure:
        """The median of the ratios, with its interval and the cell's goal."""
        ours = self.cell in GRID
        goal = _GOALS.get((self.cell.kind, self.cell.tokens), math.nan) if ours else math.nan
        return figures([self.ratios], goals={"worst": goal})[1]


def _layers(cell: Cell) -> list[nn.Module]:
    sizes: dict[str, Any] = {"qkv_bias": True}
    grid = (cell.height, cell.width)
    ours = VarsAttention(
        cell.dim, cell.heads, dictionary=KINDS[cell.kind], grid_size=grid, num_prefix_tokens=0, **sizes
    )
    return [ours, SoftmaxAttention(cell.dim, cell.heads, **sizes)]


def _work(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    x = x.clone().requires_grad_()

    def work() -> tuple[Tensor, Tensor]:
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        y.backward(grad)
        return y.detach(), torch.zeros_like(x) if x.grad is None else x.grad

    return work


def measure(cell: Cell, rounds: int, seed: int) -> Measured:
    """Do a cell's work by our layer and by softmax in turn; the first run of each is not timed."""
    generator = torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(cell.images, cell.tokens, cell.dim, generator=generator) for _ in range(2))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        layers = _layers(cell)
    works = [_work(layer, x, grad) for layer in layers]
    found, _ = (work() for work in works)
    seconds = timed(works, rounds)
    exact = _work(layers[0].double(), x.double(), grad.double())()
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    return Measured(cell, seconds, error)


def page(record: dict[str, Any], done: Sequence[Measured]) -> str:
    """The tables in Markdown."""
    kinds = [(kind, [one.ratios for one in done if one.cell.kind == kind]) for kind in KINDS]
    rows = [
        [kind, f.name, f"{f.value:.2f}", f"{f.low:.2f} to {f.high:.2f}"]
        for kind, own in kinds
        if own
        for f in figures(own, goals={})
    ]
    cells = [
        [
            one.cell.kind, *(str(part) for part in one.cell[1:]),
            *(f"{1e3 * float(np.median(s)):.3g}" for s in one.seconds),
            f"{f.value:.2f}", f"{f.low:.2f} to {f.high:.2f}", "" if math.isnan(f.goal) else f"{f.goal:g}",
            "" if math.isnan(f.goal) else "met" if f.met else "not met", f"{one.error:.1g}",
        ]
        for one in done
        for f in [one.figure]
    ]  # fmt: skip
    titles = ["", "images", "height", "width", "channels", "heads", "ours, ms", "softmax, ms", "ratio"]
    return "\n".join(
        [
            report.heading(record),
            f"{len(done)} cells, of which {sum(one.cell not in GRID for one in done)} were drawn from seed "
            f"{record['seed']}.\n",
            tables.markdown(["", "ours over softmax", "ratio", "90 % interval"], rows, spaced=True),
            tables.markdown(
                [*titles, "90 % interval", "goal, at most", "", "distance from float64"], cells, spaced=True
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program, file = "python -m experiments.benchmark.attention_family", "attention-family"
    try:
        options = asked(given, program, "Attention of many shapes beside fused softmax.", file)
    except SystemExit as stop:
        return int(stop.code or 0)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    cells = [*(() if options.no_grid else GRID), *drawn(options.drawn, options.seed)]
    one = partial(measure, rounds=options.rounds, seed=options.seed)
    measure_all(cells, one, _row, page, options, file, {"seed": options.seed, "drawn": options.drawn})
    return 0


def _row(one: Measured) -> dict[str, Any]:
    return {**one.cell._asdict(), "seconds": one.seconds.tolist(), "error": one.error}


if __name__ == "__main__":
    sys.exit(main())
