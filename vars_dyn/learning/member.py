"""Training runs of dictionaries as members of an ensemble: options are a design's parameters, histories the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import xarray as xr

from vars_dyn._files import StoreError
from vars_dyn._learn_options import LearnOptions
from vars_dyn.learning.checkpoints import read_facts
from vars_dyn.learning.command import main as learn
from vars_dyn.sweeping.commands import Command, CommandError

__all__ = ["MEMBER", "main"]

_STEPS = {each.name: each.default for each in fields(LearnOptions)}["steps"]


def main(arguments: Sequence[str]) -> int:
    """The command. It goes on with the run in --out if there is one, left by a process that was killed."""
    out = next(word.removeprefix("--out=") for word in arguments if word.startswith("--out="))
    begun = False
    with suppress(StoreError):
        begun = bool(read_facts(Path(out)))
    return learn([*arguments, *(["--resume"] if begun else [])])


def _results(folder: Path) -> xr.Dataset:
    """The course of the training. The dictionary stays in the member's folder."""
    path = folder / "run" / "history.zarr"
    if not path.exists():
        raise CommandError("the training run left no history")
    found = xr.open_zarr(path, chunks=None, consolidated=False)
    return found[[name for name, each in found.data_vars.items() if each.dims == ("step",)]].drop_attrs(deep=False)


def _sizes(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The dimension `step`, if some members take more steps than others."""
    steps = {each.get("steps", _STEPS) for each in members}
    whole = {number for number in steps if isinstance(number, int) and number > 0}
    return {"step": max(whole)} if len(whole) > 1 else {}


MEMBER = Command(
    name="learn",
    module=__name__,
    extra=("--out={folder}/run", "--figure=none"),
    read=_results,
    options=frozenset({each.name for each in fields(LearnOptions)} - {"out", "figure"} | {"images"}),
    sizes=_sizes,
    keep=True,
    positional="images",
)
