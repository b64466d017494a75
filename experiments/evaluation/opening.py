"""Options of the commands that evaluate a model: how to measure, and which model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from experiments.evaluation.run import ON_VALIDATION_IMAGES, Evaluation
from experiments.evaluation.trained import Trained, trained

__all__ = ["evaluation_of", "opened"]


def evaluation_of(values: Namespace, on: Sequence[str] | None = None) -> Evaluation:
    """The options of an evaluation among the values of a command. `on` replaces the suites of the command."""
    options = {name: getattr(values, name) for name in Evaluation.__dataclass_fields__ if name != "on"}
    return Evaluation(on=tuple(values.on.split(",")) if on is None else on, **options)


def opened(values: Namespace) -> tuple[Evaluation, Path | None, Trained]:
    """How to measure, the root of the data sets, and the model, from the values of a command that takes one model."""
    how = evaluation_of(values)
    root = None if values.data is None else Path(values.data)
    found = trained(
        values.checkpoint,
        values.weights,
        validation=values.validation,
        with_images=any(name in ON_VALIDATION_IMAGES for name in how.on),
        attention=values.attention,
        root=root,
    )
    return how, root, found
