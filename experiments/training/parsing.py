"""The settings of a training run from the words of a command line."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace

from experiments import cli
from experiments.settings import Settings

__all__ = ["read_settings", "settings_of", "settings_parser"]


def settings_parser() -> cli.Parser:
    """The parser of `experiments.train`."""
    parser = cli.parser_for("train", "Train a model; all options may stand in the YAML file of --config.")
    parser.add_class_arguments(Settings, None, instantiate=True)
    return parser


def read_settings(arguments: Sequence[str]) -> Settings:
    """The settings that these arguments of `experiments.train` mean."""
    parser = settings_parser()
    return settings_of(parser, parser.parse_args(list(arguments)))


def settings_of(parser: cli.Parser, values: Namespace) -> Settings:
    """The settings that parsed values mean."""
    values = parser.instantiate(values)
    return Settings(**{name: getattr(values, name) for name in Settings.__dataclass_fields__})
