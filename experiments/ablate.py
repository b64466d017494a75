"""`python -m experiments.ablate CHECKPOINT --num_steps [1,3,5] --lam [0,0.3]`: vary the solver of a VARS model.

The command varies the iterations k and lambda (the paper's Fig. 6), the solver and the threshold of all layers on a
grid, and the suites of `--on` measure every cell. The weights stay as they were trained, unless `--retrain` trains a
model for each cell as the checkpoint was trained. The results are one xarray dataset, ablation.zarr, and one figure,
ablation.png. If the command is stopped, the same command goes on.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jsonargparse import Namespace
from torch import nn

from experiments import cli
from experiments.evaluation.opening import opened
from experiments.evaluation.run import Evaluation, evaluate_on
from experiments.evaluation.trained import Trained, trained
from experiments.evaluation.varied import SOLVERS, LayerSettings, layers_of, varied
from experiments.report import plots, records
from experiments.report.outputs import refuse_foreign
from experiments.report.summaries import ALL_COLUMNS
from experiments.settings import Ode
from experiments.sweeps.runs import Processes, failed, measures, run_members, values_of
from experiments.training.loop import train
from vars_dyn import _files
from vars_dyn.attention import VarsAttention, unrolled
from vars_dyn.sweeping.members import Work

__all__ = ["Grid", "ablate", "main"]


@dataclass
class Grid:
    """What is varied. An empty list stands for the value that the model has.

    Attributes:
        num_steps: iterations k of the unrolled solvers.
        lam: weights of the sparsity penalty.
        solver: solvers, each ista, fista, ode or equilibrium.
        threshold: thresholds, each soft or gelu.
        ode: how solver ode integrates.
    """

    num_steps: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 7])
    lam: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.3, 0.5, 1.0])
    solver: list[str] = field(default_factory=list)
    threshold: list[str] = field(default_factory=list)
    ode: Ode = field(default_factory=Ode)

    def __post_init__(self) -> None:
        for name, known in (("solver", SOLVERS), ("threshold", tuple(unrolled.GATES))):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"{name} has {value!r}; one of {', '.join(known)} is wanted")
        for name, least in (("num_steps", 1), ("lam", 0)):
            for value in getattr(self, name):
                if not value >= least:
                    raise ValueError(f"{name} has {value}; numbers of at least {least} are wanted")

    def around(self, layer: VarsAttention) -> dict[str, list[Any]]:
        """The values of each axis, by the names in `LayerSettings`."""
        solver = layer.solver if isinstance(layer.solver, str) else type(layer.solver).__name__.lower()
        own = {"threshold": layer.variant.threshold, "solver": solver, "num_steps": layer.num_steps, "lam": layer.lam}
        return {name: sorted(set(getattr(self, name)) or {value}) for name, value in own.items()}


@dataclass
class _Cells(Work):
    """What the members of an ablation do: each measures one cell of the grid.

    Attributes:
        found: the model; None in a worker process, which opens it again.
        reopen: opens the model.
        ode, how, out, root, retrain: as for `ablate`.
    """

    found: Trained | None
    reopen: Callable[[], Trained]
    ode: Ode
    how: Evaluation
    out: Path
    root: Path | None
    retrain: bool

    name = "experiments.ablate"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "found": None}

    def check(self, names: Sequence[str]) -> None:
        """All names are this module's own."""

    def like(self) -> xr.Dataset:
        """The columns of the evaluation's table."""
        return measures(list(ALL_COLUMNS))

    def run(self, parameters: Mapping[str, Any], folder: Path) -> xr.Dataset:
        """Measure the cell. What the ledgers of an interrupted run have is not measured again."""
        self.found = self.found or self.reopen()
        cell = LayerSettings(**parameters)
        return measures(
            list(ALL_COLUMNS),
            _measured(self.found, cell, self.ode, self.how, self.out, self.root, self.retrain),
        )


def ablate(
    found: Trained,
    grid: Grid,
    how: Evaluation,
    out: Path,
    root: Path | None = None,
    retrain: bool = False,
    *,
    processes: Processes | None = None,
    reopen: Callable[[], Trained] | None = None,
) -> xr.Dataset:
    """Measure every cell of the grid. `value` has the dimensions measure, threshold, solver, num_steps and lam.

    It is NaN where there is no measurement. Measures are the columns of the evaluation's table. Values that do not
    depend on the number of steps are repeated. Worker processes call `reopen` to get the model; by default they open
    its checkpoint. Raises ValueError if a cell cannot be measured; the others are kept.
    """
    axes = grid.around(layers_of(found.model)[0])
    if retrain and (len(axes["threshold"]) > 1 or axes["threshold"] != ["soft"]):
        raise ValueError("threshold cannot be varied with --retrain: a training run has no setting for it")
    cells = [LayerSettings(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    members = list(dict.fromkeys(cell.measured for cell in cells if cell.possible))
    work = _Cells(found, reopen or partial(trained, found.path), grid.ode, how, out, root, retrain)
    out.mkdir(parents=True, exist_ok=True)
    told = run_members(
        work,
        [cell._asdict() for cell in members],
        out / "sweep.zarr",
        processes or Processes(),
        progress=None if how.progress else False,
    )
    for member, error in failed(told).items():
        raise ValueError(f"the cell {members[member]._asdict()} cannot be measured: {error}")
    measured = {cell: values_of(told, member) for member, cell in enumerate(members)}
    names = [name for name in ALL_COLUMNS if any(name in values for values in measured.values())]
    values = [[measured.get(cell.measured, {}).get(name, math.nan) for cell in cells] for name in names]
    shape = [len(axis) for axis in axes.values()]
    data = xr.DataArray(
        np.array(values).reshape(len(names), *shape),
        dims=("measure", *axes),
        coords={"measure": names, **axes},
        attrs={"long_name": "value of the measure", "units": "1"},
    )
    about = {**records.provenance(), "checkpoint": found.path, "retrained": int(retrain), "seed": how.seed}
    return xr.Dataset({"value": data}, attrs=about)


def _measured(
    found: Trained, cell: LayerSettings, ode: Ode, how: Evaluation, out: Path, root: Path | None, retrain: bool
) -> dict[str, float]:
    """The measures of a cell, by the columns of the evaluation's table."""
    if retrain:
        found = replace(found, model=_retrained(found, cell, ode, how, out).model)
    with varied(found.model, cell._replace(num_steps=max(cell.num_steps, 1)), ode):
        own = list(evaluate_on(found.subject(root, out), how, out / "parts"))
    means = {name: column.mean(own) for name, column in ALL_COLUMNS.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def _retrained(found: Trained, cell: LayerSettings, ode: Ode, how: Evaluation, out: Path) -> Trained:
    """A model trained as the checkpoint was, but with the settings of the cell."""
    steps = {"num_steps": cell.num_steps} if cell.num_steps else {}
    own: dict[str, Any] = {
        "solver": cell.solver,
        "lam": cell.lam,
        "ode": ode if cell.solver == "ode" else None,
        **steps,
    }
    attention = replace(found.settings.model.attention, **own)
    name = "-".join(f"{part:g}" if isinstance(part, float) else str(part) for part in cell[1:])
    settings = replace(
        found.settings,
        model=replace(found.settings.model, attention=attention),
        out=str(out / "runs" / name),
        resume=True,
        progress=how.progress,
    )
    train(settings)
    return trained(settings.out, with_images=False)


def write(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset to a zarr store that appears whole or not at all."""
    text = {name: each.astype(object) for name, each in dataset.coords.items() if each.dtype.kind == "U"}
    dataset = dataset.assign_coords(text)  # zarr does not specify texts of fixed length
    with warnings.catch_warnings(), _files.replacing_folder(path) as partial:
        # Without consolidated metadata, zarr would warn each time the store is opened. With it, zarr warns now, because
        # the specification of format 3 does not have it yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        dataset.to_zarr(partial, mode="a", zarr_format=3, consolidated=True)


def _refuse_another(path: Path) -> None:
    """Raise ValueError if `path` exists and is no ablation."""
    if not os.path.lexists(path):
        return
    try:
        about = json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        about = {}
    if path.is_symlink() or not {"checkpoint", "retrained"} <= set(about):
        raise ValueError(f"{path} exists, and is no ablation; another --out is wanted")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("ablate", "Vary iterations, lambda, solver and threshold of a VARS model's layers.")
    cli.add_model(parser)
    parser.add_option("on", str, default="clean,corruptions", help="suites, separated by commas")
    parser.add_option("out", str | None, default=None, help="folder for results (default: beside the checkpoint)")
    parser.add_option("retrain", bool, default=False, help="train every cell as the checkpoint was")
    parser.add_option("processes", int, default=0, help="processes that measure cells at the same time; 0: this one")
    parser.add_option("scheduler", str | None, default=None, help="address of a Dask scheduler, or a YAML file of "
                      "dask-jobqueue, that measures them instead")  # fmt: skip
    parser.add_class_arguments(Grid, None)
    parser.add_class_arguments(Evaluation, None, skip={"on"})

    def command(values: Namespace) -> None:
        values = parser.instantiate(values)
        grid = Grid(**{name: getattr(values, name) for name in Grid.__dataclass_fields__})
        how, root, found = opened(values)
        out = Path(values.out) if values.out else found.out.with_name("ablation")
        _refuse_another(out / "ablation.zarr")
        refuse_foreign([out / "ablation.png"], beside=out / "ablation.zarr" / "zarr.json")
        processes = Processes(values.processes, values.scheduler)
        reopen = partial(_reopened, values)
        dataset = ablate(found, grid, how, out, root, values.retrain, processes=processes, reopen=reopen)
        write(dataset, out / "ablation.zarr")
        plots.grid(dataset, _base(found.model), out / "ablation.png")
        print(f"{out / 'ablation.zarr'}\n{out / 'ablation.png'}")

    return cli.run(parser, command, arguments)


def _reopened(values: Namespace) -> Trained:
    return opened(values)[2]


def _base(model: nn.Module) -> Mapping[str, float]:
    """The settings that the model has."""
    layer = layers_of(model)[0]
    return {"num_steps": layer.num_steps, "lam": float(layer.lam)}


if __name__ == "__main__":
    sys.exit(main())
