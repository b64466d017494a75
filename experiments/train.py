"""`python -m experiments.train --config FILE [--option value ...]`: train a model; continue with `--resume`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from experiments import commands
from experiments.loop import train
from experiments.settings import Settings

__all__ = ["main", "read_settings"]


def _parser() -> ArgumentParser:
    parser = commands.parser_for("train", "Train a model; all options may stand in the YAML file of --config.")
    parser.add_class_arguments(Settings, None, instantiate=True)
    return parser


def read_settings(arguments: Sequence[str]) -> Settings:
    """The settings that these arguments of the command mean."""
    parser = _parser()
    return _settings(parser, parser.parse_args(list(arguments)))


def _settings(parser: ArgumentParser, values: Namespace) -> Settings:
    values = parser.instantiate(values)
    return Settings(**{name: getattr(values, name) for name in Settings.__dataclass_fields__})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    return commands.run(parser, lambda values: _main(_settings(parser, values)), _flags(arguments))


def _main(settings: Settings) -> None:
    train(settings)


def _flags(arguments: Sequence[str] | None) -> list[str]:
    """`--resume` alone means yes."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    switches = ("--resume", "--tensorboard", "--progress", "--data.in_memory", "--data.download")
    flags = []
    for position, argument in enumerate(given):
        following = given[position + 1] if position + 1 < len(given) else "--"
        flags.append(f"{argument}=true" if argument in switches and following.startswith("-") else argument)
    return flags


if __name__ == "__main__":
    sys.exit(main())
