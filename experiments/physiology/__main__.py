"""`python -m experiments.physiology EXPERIMENT --out FILE.zarr --figure FILE.png`: a cell's response properties.

- gabors: Gabor functions fitted to all atoms.
- gratings: tuning of all cells to orientation and spatial frequency, with selectivity index and circular variance.
- size: discs of the cell's own grating over their diameter: surround suppression.
- length: bars over their length: end-stopping.
- cross: the cell's grating with an orthogonal mask: cross-orientation suppression.
- contrast: contrast response, and orientation tuning at each contrast: contrast invariance.
- latency: response over time to a grating that is switched on.
- completion: a grating with a grey disc over the receptive field.
- direction: drifting gratings over direction and both frequencies, for atoms that are movies: direction selectivity.
- temporal: drifting gratings of the cell's best direction over temporal frequency, for atoms that are movies.

A run that was killed goes on with `--resume` and the same options, and ends with the same bits.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from jsonargparse import Namespace

from experiments import cli
from experiments.physiology import figures, latency, motion, surround, tuning
from experiments.physiology.kept import Kept
from experiments.physiology.population import Bank, MotionPopulation, Population, motion_population, population
from experiments.report.outputs import refuse_foreign
from vars_dyn._files import replacing_folder
from vars_dyn.recording import provenance
from vars_dyn.recording.provenance import command_line, now, versions

__all__ = ["EXPERIMENTS", "Options", "main"]

#: The attribute that marks a dataset as made here.
_MARK = "vars_dyn_physiology"


@dataclass
class Options:
    """What is measured, on which cells.

    Attributes:
        out: the zarr store of what is found.
        figure: the file of the figure; None: no figure.
        bank: the dictionary whose atoms are the cells' receptive fields.
        lam: weight of the l1 penalty. Stimuli of contrast one have amplitude one, and atoms norm one.
        cells: how many cells are taken, those nearest to the middle of the patch. gabors, gratings and direction take
            all, size, length and completion only those with small receptive fields, and temporal those that respond
            most.
        r_squared: the least R^2 of a cell's Gabor fit.
        contrasts: contrasts of the gratings in contrast and latency, and of the mask in cross.
        tau: membrane time constant in milliseconds, for latency.
        frame_rate: frames a second of the atoms that are movies, for direction and temporal.
        overwrite: replace files that no command of this package made.
        json: print one JSON object as the last line.
    """

    out: str
    figure: str | None = None
    bank: Bank = field(default_factory=Bank)
    lam: float = 0.3
    cells: int = 40
    r_squared: float = 0.7
    contrasts: list[float] = field(default_factory=lambda: [0.125, 0.25, 0.5, 1.0])
    tau: float = 10.0
    frame_rate: float = 30.0
    overwrite: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise ValueError(f"cells is {self.cells}; at least 1 is wanted")
        levels = self.contrasts
        if not levels or min(levels) <= 0 or any(b <= a for a, b in itertools.pairwise(levels)):
            raise ValueError(f"contrasts is {levels}; increasing numbers above zero are wanted")
        for name in ("tau", "frame_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a number above zero is wanted")


def _sizes(cells: Population) -> list[float]:
    """Every second pixel up to the diagonal of the patch."""
    return [float(s) for s in range(2, 2 * cells.side, 2) if s <= 1.5 * cells.side]


def _chosen(cells: Population, options: Options, *, small: bool = False) -> list[int]:
    return cells.cells(options.cells, options.r_squared, small=small)


#: The name of an experiment on patches to the function that measures it.
_STILL: dict[str, Callable[[Population, Options], xr.Dataset]] = {
    "gabors": lambda cells, options: cells.fits,
    "gratings": lambda cells, options: tuning.grating_tuning(cells),
    "size": lambda cells, options: surround.size_tuning(cells, _chosen(cells, options, small=True), _sizes(cells)),
    "length": lambda cells, options: surround.length_tuning(cells, _chosen(cells, options, small=True), _sizes(cells)),
    "cross": lambda cells, options: surround.cross_orientation(cells, _chosen(cells, options), options.contrasts),
    "contrast": lambda cells, options: tuning.contrast_tuning(cells, _chosen(cells, options), options.contrasts),
    "latency": lambda cells, options: latency.latency(
        cells, _chosen(cells, options), options.contrasts, tau=options.tau
    ),
    "completion": lambda cells, options: surround.completion(
        cells, _chosen(cells, options, small=True), _sizes(cells)[:4]
    ),
}

#: The same for atoms that are movies.
_MOVING: dict[str, Callable[[MotionPopulation, Options], xr.Dataset]] = {
    "direction": lambda cells, options: motion.direction_tuning(cells, options.frame_rate),
    "temporal": lambda cells, options: motion.temporal_tuning(cells, options.cells, options.frame_rate),
}

#: The names of all experiments.
EXPERIMENTS = (*_STILL, *_MOVING)

#: The number by which an experiment is summarised, with what it means.
_SUMMARY = {
    "gabors": ("r_squared", "R^2 of the Gabor fits"),
    "gratings": ("osi", "orientation selectivity index"),
    "size": ("suppression_index", "suppression index"),
    "length": ("suppression_index", "end-stopping index"),
    "cross": ("suppression", "cross-orientation suppression"),
    "contrast": ("width_slope", "change of the half width in degrees per decade of contrast"),
    "latency": ("latency", "latency in ms"),
    "completion": ("ratio", "response behind the occluder over that without"),
    "direction": ("dsi", "direction selectivity index"),
    "temporal": ("preferred", "best temporal frequency in Hz"),
}


def _write(found: xr.Dataset, path: Path) -> None:
    with replacing_folder(path) as folder:
        found.to_zarr(folder, mode="w", zarr_format=3, consolidated=False)


def _check_place(path: Path) -> None:
    """ValueError unless the place is free, or holds a store that this command made."""
    if not path.exists() and not path.is_symlink():
        return
    try:
        own = _MARK in json.loads((path / "zarr.json").read_text())["attributes"] and not path.is_symlink()
    except (OSError, ValueError, LookupError, TypeError):
        own = False
    if not own:
        raise ValueError(f"{path} exists, and this command did not make it; another --out is wanted")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("physiology", "Measure the response properties of sparse-coding neurons.")
    parser.add_argument("experiment", type=Literal[EXPERIMENTS], help=", ".join(EXPERIMENTS))
    parser.add_class_arguments(Options, None)
    parser.add_flag("resume", "go on with the run in --out that was interrupted")

    def command(values: Namespace) -> None:
        values = parser.instantiate(values)
        options = Options(**{name: getattr(values, name) for name in Options.__dataclass_fields__})
        name, out = str(values.experiment), Path(options.out)
        _check_place(out)
        if options.figure is not None:
            refuse_foreign([Path(options.figure)], options.overwrite)
        cells = (population if name in _STILL else motion_population)(options.bank, options.lam)
        about = {"command": command_line(), "date": now()}
        kept = Kept.beside(out, _settings(name, cells, options), about, resume=bool(values.resume))
        finished = False
        try:
            cells.kept = kept
            found = _STILL[name](cells, options) if isinstance(cells, Population) else _MOVING[name](cells, options)
            _write(found.assign_attrs(_attributes(kept.facts)), out)
            finished = True
        except (ValueError, ArithmeticError):
            finished = True  # the same options would fail again
            raise
        finally:
            kept.close(finished=finished)
        if options.figure is not None:
            figures.draw(name, found, cells, Path(options.figure))
        summary = _summary(name, found)
        print(
            f"{_SUMMARY[name][1]}: median {summary['median']:.3g}, quartiles {summary['lower']:.3g} and "
            f"{summary['upper']:.3g}, of {summary['values']} values; {out}"
        )
        if options.json:
            print(json.dumps(summary))

    return cli.run(parser, command, arguments, ["--resume"])


def _settings(name: str, cells: Population | MotionPopulation, options: Options) -> dict[str, Any]:
    """All that the numbers depend on."""
    own = ("cells", "r_squared", "contrasts", "tau", "frame_rate")
    return {
        _MARK: name,
        **{f"bank_{key}": value for key, value in asdict(options.bank).items()},
        "dictionary_sha256": provenance.digest(cells.dictionary.tensors()),
        "lam": options.lam,
        "relative_gap_tolerance": cells.tol,
        **{key: getattr(options, key) for key in own},
        **versions(),
    }


def _attributes(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts as attributes of a dataset, which hold no None."""
    return {name: "none" if value is None else value for name, value in facts.items()}


def _summary(name: str, found: xr.Dataset) -> dict[str, Any]:
    variable = _SUMMARY[name][0]
    values = found[variable].values.ravel()
    values = values[np.isfinite(values)]
    lower, median, upper = (float(np.quantile(values, q)) if len(values) else float("nan") for q in (0.25, 0.5, 0.75))
    facts = {"experiment": name, "variable": variable, "values": len(values)}
    return facts | {"lower": lower, "median": median, "upper": upper}


if __name__ == "__main__":
    sys.exit(main())
