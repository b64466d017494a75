"""Trained models, from a checkpoint or from timm with the weights of a local file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm

from experiments.data.images import Labelled, labelled
from experiments.evaluation.suites.imagenet import synsets
from experiments.evaluation.suites.suite import Subject
from experiments.options import plain_data
from experiments.settings import Attention, Data, Model, Settings
from experiments.training import checkpoints
from experiments.training.finetuning import stored_network
from experiments.training.networks import Normalized, build_model
from vars_dyn.attention import replace_attention

__all__ = ["Trained", "changed", "labelled_source", "load", "trained"]


@dataclass
class Trained:
    """A model to evaluate.

    Attributes:
        model: the network, which takes images in [0, 1].
        settings: the settings that it was trained with, as far as they are known.
        classes: the names of its logits.
        path: where its weights lie.
        epoch: the epoch after which it was stored; None: unknown.
        images: validation images; None: not asked for.
        name: a name for tables.
        out: a folder for its results.
        other: another model, whose adversarial images are tried on this one.
    """

    model: Normalized
    settings: Settings
    classes: Sequence[str]
    path: str
    epoch: int | None
    images: Labelled | None
    name: str
    out: Path
    other: Trained | None = None

    def subject(self, root: Path | None = None, out: Path | None = None) -> Subject:
        """The model as suites take it. `root` is the folder of their data sets, and `out` that of their runs."""
        other = None if self.other is None else self.other.subject()
        return Subject(self.model, self.settings.data, self.classes, self.images, self.settings, root, out, other)

    def about(self, label: str | None = None, **more: Any) -> dict[str, Any]:
        """What every record of the model says of it. It ends with `more` and the configuration."""
        return {
            "label": label or self.name,
            "seed": self.settings.seed,
            "checkpoint": self.path,
            "epoch": self.epoch,
            **more,
            "config": plain_data.as_plain(self.settings),
        }


def labelled_source(text: str) -> tuple[str, str]:
    """(label, source) of LABEL=SOURCE. The label of a SOURCE alone is timm's name or that of the run's folder."""
    if text.startswith("timm:"):
        return text.removeprefix("timm:").partition("=")[0], text
    label, equals, source = text.partition("=")
    if equals:
        return label, source
    return run_of(Path(text)).name, text


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint (or a run) belongs to."""
    path = checkpoint.absolute()
    path = Path(os.path.normpath(path))
    return path.parents[1] if path.parent.name == "checkpoints" else path


def trained(
    source: str,
    weights: str | None = None,
    *,
    validation: dict[str, Any] | None = None,
    with_images: bool = True,
    attention: Attention | None = None,
    root: Path | None = None,
) -> Trained:
    """The model that `source` means: a run's folder, a checkpoint's, timm:NAME (with `weights`) or timm:NAME=WEIGHTS.

    Args:
        source: a text of one of these forms.
        weights: file of safetensors of a timm model.
        validation: options of the validation images that differ from those of training.
        with_images: whether validation images are wanted.
        attention: the attention that replaces the model's, without training, if its kind is given.
        root: folder of data sets; its folder imagenet has the validation images of timm's models by default.

    Raises:
        ValueError: there is no such model, or it does not fit its weights.
    """
    if attention is not None and attention.kind is None and attention.options():
        raise ValueError(f"attention has {', '.join(attention.options())} but no kind; --attention.kind is wanted too")
    if weights is not None and not source.startswith("timm:"):
        raise ValueError(f"weights is given, but {source} has its own; it is wanted with timm:NAME alone")
    if source.startswith("timm:"):
        name, _, file = source.removeprefix("timm:").partition("=")
        own = {} if root is None else {"root": str(root / "imagenet")}
        found = _timm_model(name, file or weights, {**own, **(validation or {})}, with_images)
    else:
        model, settings, state = load(source, validation)
        images = labelled(settings.data, train=False) if with_images else None
        # The folder where the checkpoint lies counts, not the one where it was made: it may come from elsewhere.
        run = run_of(Path(state["path"]))
        found = Trained(
            model, settings, state["classes"], state["path"], state["epoch"], images, run.name, run / "evaluation"
        )
    if attention is not None and attention.kind is not None:
        replace_attention(found.model.network, attention.kind, **attention.options())
        found.settings.model.attention = attention
    return found


def load(checkpoint: str | Path, data: dict[str, Any] | None = None) -> tuple[Normalized, Settings, dict[str, Any]]:
    """The model of a checkpoint for images in [0, 1], its settings and its state.

    The weights are the moving average where there is one.
    """
    network, settings, state = stored_network(checkpoint)
    trained_on = settings.data.image_size
    settings.data = changed(settings.data, data or {})
    if settings.data.image_size != trained_on:
        rebuilt = build_model(settings.model, len(state["classes"]), settings.data.image_size)
        checkpoints.load_weights(rebuilt, network.state_dict(), state["path"])
        network = rebuilt
    return Normalized(network, settings.data.mean, settings.data.std), settings, state


def changed(data: Data, changes: dict[str, Any]) -> Data:
    """`data` with some options changed. Raises ValueError for an unknown option, or a value of another type."""
    plain_data.check(Data, changes, "validation")
    return replace(data, **changes)


def _timm_model(name: str, weights: str | None, data: dict[str, Any], with_images: bool) -> Trained:
    """A model of timm with its own image size and normalisation. Its classes are those of the validation images."""
    if weights is None:
        raise ValueError("weights is missing; the safetensors file of a timm model's weights is wanted")
    if not timm.is_model(name):
        raise ValueError(f"timm:{name} is no model that timm has")
    if not weights.endswith(".safetensors") or not Path(weights).is_file():
        raise ValueError(f"weights is {weights!r}; a file of safetensors is wanted (pickles are never loaded)")
    cfg: Any = timm.get_pretrained_cfg(name)
    own = {"mean": list(cfg.mean), "std": list(cfg.std), "image_size": cfg.input_size[-1], "crop": cfg.crop_pct}
    settings = Settings(model=Model(name), data=changed(Data(), {**own, **data}))
    images = labelled(settings.data, train=False) if with_images else None
    classes = synsets() if images is None else images.classes
    network = build_model(settings.model, len(classes), settings.data.image_size)
    checkpoints.load_weights(network, checkpoints.read_tensors(Path(weights)), weights)
    model = Normalized(network, settings.data.mean, settings.data.std)
    return Trained(
        model, settings, list(classes), weights, None, images, name, Path("runs") / f"timm-{name}/evaluation"
    )
