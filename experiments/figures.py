"""`python -m experiments.figures FIGURE --models LABEL=CHECKPOINT ... --images FILE ... --out FILE`: look at attention.

- corruption: maps of several models under corruption (the paper's Fig. 3 and 11).
- updates: the map after each update (Fig. 5 and 7); `--animation FILE.gif` animates it.
- atoms: atoms of the dynamic dictionary as masks (Fig. 8-10).
- fixations: maps beside the places where people looked (Fig. 4 and 12); the images are those in MIT1003/ALLSTIMULI.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse import Namespace
from PIL import Image

from experiments import cli
from experiments.data.images import read_image
from experiments.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from experiments.evaluation.suites.mapped import whole_image
from experiments.evaluation.suites.mit1003 import Gaze, fixations_of, gaze_files, subjects_of
from experiments.evaluation.trained import Trained, labelled_source, trained
from experiments.evaluation.varied import LayerSettings, layers_of, varied
from experiments.report import pictures
from experiments.report.outputs import refuse_foreign
from vars_dyn.attention import replace_attention
from vars_dyn.attention.base import TokenMixer

__all__ = ["FIGURES", "Options", "main"]


@dataclass
class Options:
    """What to draw.

    Attributes:
        models: checkpoints or timm:NAME=WEIGHTS, each as it is or as LABEL=MODEL.
        images: image files, which are resized to the model's square.
        out: the figure's file.
        layer: an attention layer, by its name in the network; None: the first.
        corruptions: which corruptions figure corruption shows, each as NAME-SEVERITY.
        num_steps: how many iterations figure updates shows; None: as many as in training.
        animation: the file of an animated GIF of figure updates; None: no GIF.
        count: how many atoms figure atoms shows.
        head: the head whose atoms figure atoms shows.
        threshold: figure atoms dims an image where the atom is below this share of its range.
        gaze: what counts as a fixation in figure fixations.
        overwrite: replace files that are no figure of this package.
    """

    models: list[str]
    images: list[str]
    out: str
    layer: str | None = None
    corruptions: list[str] = field(default_factory=lambda: [f"{name}-{s}" for name, s in pictures.CORRUPTIONS])
    num_steps: int | None = None
    animation: str | None = None
    count: int = 8
    head: int = 0
    threshold: float = 0.5
    gaze: Gaze = field(default_factory=Gaze)
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("models", "images"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; at least one is wanted")
        self.gaze.check()


def models_of(options: Options) -> dict[str, Trained]:
    """The models by their labels. timm's own attention becomes this package's softmax, which computes the same."""
    found = {}
    for each in options.models:
        label, source = labelled_source(each)
        model = trained(source, with_images=False)
        if not any(isinstance(layer, TokenMixer) for layer in model.model.modules()):
            replace_attention(model.model.network, "softmax")
        model.model.eval()
        found[label] = model
    return found


def _read(options: Options, size: int) -> np.ndarray:
    """All images as a model of `size` takes them."""
    return np.stack([np.asarray(whole_image(read_image(Path(file)), size)) for file in options.images])


def _size(models: dict[str, Trained]) -> int:
    """The one image size of all models."""
    sizes = {found.settings.data.image_size for found in models.values()}
    if len(sizes) > 1:
        raise ValueError(f"the models take images of {sorted(sizes)} pixels; one size is wanted in a figure")
    return sizes.pop()


def _single(models: dict[str, Trained]) -> Trained:
    if len(models) > 1:
        raise ValueError(f"{len(models)} models came; this figure is of one")
    return next(iter(models.values()))


def _corruption(models: dict[str, Trained], options: Options) -> None:
    kinds = []
    for each in options.corruptions:
        name, _, severity = each.rpartition("-")
        if name not in CORRUPTIONS or severity not in map(str, SEVERITIES):
            raise ValueError(f"corruptions has {each!r}; NAME-SEVERITY such as fog-5 is wanted")
        kinds.append((name, int(severity)))
    shown = {label: found.model for label, found in models.items()}
    images = _read(options, _size(models))
    pictures.under_corruption(shown, images, Path(options.out), kinds, options.layer)


def _updates(models: dict[str, Trained], options: Options) -> None:
    model = _single(models).model
    images = _read(options, _size(models))
    with ExitStack() as stack:
        if options.num_steps is not None:
            layer = layers_of(model)[0]
            solver = layer.solver if isinstance(layer.solver, str) else "ista"
            own = LayerSettings(layer.variant.threshold, solver, options.num_steps, float(layer.lam))
            stack.enter_context(varied(model, own))
        pictures.updates(model, images, Path(options.out), options.layer)
        if options.animation is not None:
            pictures.animation(model, images, Path(options.animation), options.layer)


def _atoms(models: dict[str, Trained], options: Options) -> None:
    images = _read(options, _size(models))
    model, out = _single(models).model, Path(options.out)
    pictures.atoms(model, images, out, options.count, options.head, options.threshold, options.layer)


def _fixations(models: dict[str, Trained], options: Options) -> None:
    images, points = [], []
    for file in map(Path, options.images):
        image: Image.Image = read_image(file)
        gaze = gaze_files(file, subjects_of(file.absolute().parents[1]))
        found = fixations_of(gaze, (image.height, image.width), options.gaze)
        if not len(found):
            raise ValueError(
                f"{file} has no fixations in ../DATA/<subject>/{file.stem}.mat; an image of MIT1003 is wanted"
            )
        images.append(np.asarray(image))
        points.append(found)
    shown = {label: found.model for label, found in models.items()}
    seen = [_read(options, found.settings.data.image_size) for found in models.values()]
    sigma = options.gaze.pixels_per_degree
    pictures.beside_fixations(shown, images, seen, points, Path(options.out), sigma, options.layer)


#: The name of a figure to the function that draws it.
FIGURES: dict[str, Callable[[dict[str, Trained], Options], None]] = {
    "corruption": _corruption,
    "updates": _updates,
    "atoms": _atoms,
    "fixations": _fixations,
}


#: Options that only some figures take, with these figures.
_OWN = {
    "corruptions": ("corruption",),
    "num_steps": ("updates",),
    "animation": ("updates",),
    "count": ("atoms",),
    "head": ("atoms",),
    "threshold": ("atoms",),
    "gaze": ("fixations",),
}


def _idle(given: set[str], figure: str) -> None:
    """Raise ValueError for an option of the command line that this figure does not take."""
    for name in given:
        takers = _OWN.get(name.partition(".")[0], (figure,))
        if figure not in takers:
            raise ValueError(f"--{name} does nothing in figure {figure}; it is for {', '.join(takers)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("figures", "Draw attention maps and atoms of trained models at images.")
    parser.add_argument("figure", type=Literal[tuple(FIGURES)], help=", ".join(FIGURES))
    parser.add_class_arguments(Options, None)

    def command(values: Namespace) -> None:
        values = parser.instantiate(values)
        options = Options(**{name: getattr(values, name) for name in Options.__dataclass_fields__})
        _idle(parser.given, values.figure)
        refuse_foreign((Path(p) for p in (options.out, options.animation) if p is not None), options.overwrite)
        FIGURES[values.figure](models_of(options), options)
        print(options.out)

    return cli.run(parser, command, arguments, None)


if __name__ == "__main__":
    sys.exit(main())
