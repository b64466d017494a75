"""`python -m experiments.train --config FILE [--option value ...]`: train a model. `--resume` continues a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import cli
from experiments.settings import Settings
from experiments.training.loop import train
from experiments.training.parsing import settings_of, settings_parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = settings_parser()
    given = _flags(arguments)
    return cli.run(parser, lambda values: _main(parser, settings_of(parser, values)), given, ("--resume=true",))


def _main(parser: cli.Parser, settings: Settings) -> None:
    _idle(parser.given, settings)
    train(settings)


def _idle(given: set[str], settings: Settings) -> None:
    """Raise ValueError for an option of the command line that has no effect together with the others."""
    data, augmentation = settings.data, settings.augmentation
    idle = {
        "data.download": data.source == "folder" and f"data.source is {data.source}",
        "data.train": data.source != "folder" and f"data.source is {data.source}",
        "data.val": data.source != "folder" and f"data.source is {data.source}",
        "augmentation.scale": augmentation.crop != "resized" and f"augmentation.crop is {augmentation.crop}",
        "model.attention.ode": settings.model.attention.solver != "ode" and "model.attention.solver is not ode",
    }
    for name, why in idle.items():
        if why and any(each == name or each.startswith(f"{name}.") for each in given):
            raise ValueError(f"--{name} does nothing, as {why}; leave it out")


def _flags(arguments: Sequence[str] | None) -> list[str]:
    """The arguments, where a switch such as `--resume` without a value has the value true."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    switches = ("--resume", "--tensorboard", "--progress", "--data.in_memory", "--data.download")
    flags = []
    for position, argument in enumerate(given):
        following = given[position + 1] if position + 1 < len(given) else "--"
        flags.append(f"{argument}=true" if argument in switches and following.startswith("-") else argument)
    return flags


if __name__ == "__main__":
    sys.exit(main())
