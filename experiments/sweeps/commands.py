"""The commands that a sweep can run, and what each member of them gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from experiments.training.logs import read_log
from vars_dyn.simulate.member import simulation
from vars_dyn.sweeping.commands import Command, CommandError, as_work
from vars_dyn.sweeping.members import Work

__all__ = ["COMMANDS", "work_of"]

#: The commands by name. The options of each are the parameters that a design may have.
COMMANDS = ("simulate", "learn", "physiology", "train", "learn_dictionary")


def work_of(name: str, keep: Sequence[str] = ()) -> Work:
    """The work of a sweep that runs the command `name`; `keep` is that of `vars_dyn.simulate.member.simulation`."""
    if keep and name != "simulate":
        raise ValueError(f"keep is given with command {name}; it is for simulate alone")
    if name == "simulate":
        return simulation(keep)
    if name == "learn":
        return as_work(name)
    if name == "physiology":
        return Command(
            "physiology",
            "experiments.physiology.__main__",
            extra=("--out={folder}/response.zarr", "--json=true"),
            keep=True,
            positional="experiment",
        )
    if name == "train":
        return Command(
            "train",
            "experiments.train",
            extra=("--out={folder}/run", "--resume=true", "--progress=false"),
            read=_training,
            keep=True,
        )
    if name == "learn_dictionary":
        return Command("learn_dictionary", "experiments.learn_dictionary", extra=("--json=true",))
    raise ValueError(f"command is {name!r}; one of {', '.join(COMMANDS)} is wanted")


def _training(folder: Path) -> xr.Dataset:
    """What the log of a training run says of every epoch. Its checkpoints stay in the member's folder."""
    epochs = [line for line in read_log(folder / "run") if line.get("event") == "epoch"]
    if not epochs:
        raise CommandError("the training run finished no epoch")
    names = [name for name, value in epochs[0].items() if isinstance(value, float) and name != "epoch"]
    found = xr.Dataset({name: ("epoch", [float(line[name]) for line in epochs]) for name in names})
    return found.assign_coords(epoch=[int(line["epoch"]) for line in epochs])
