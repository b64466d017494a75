"""`python -m experiments.evaluate CHECKPOINT --on clean,corruptions,fgsm,pgd`: measure a trained model."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import timm
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from experiments import checkpoints, commands, plots, records
from experiments.data import Labelled, evaluation_images, labelled
from experiments.evaluation import KINDS, Attacks, Corruptions, Evaluation, evaluate
from experiments.networks import Normalized, build_model
from experiments.settings import Attention, Augmentation, Data, Model, Ode, Optimization, Settings
from vars_dyn.attention.base import TokenMixer

__all__ = ["load", "main", "measure"]


def _parser() -> ArgumentParser:
    parser = commands.parser_for("evaluate", "Measure a trained model: a JSON record per number, a table, figures.")
    parser.add_argument("checkpoint", help="a run's folder (its best checkpoint), a checkpoint's, or timm:NAME")
    parser.add_argument("--on", type=str, default=",".join(KINDS), help="of clean, corruptions, fgsm, pgd, by commas")
    parser.add_argument("--weights", type=str | None, default=None, help="safetensors of a timm:NAME model")
    parser.add_argument("--out", type=str | None, default=None, help="folder of the results; default: the run's")
    parser.add_argument("--data", type=dict[str, Any], default={}, help="options of the data that differ from training")
    parser.add_argument("--label", type=str | None, default=None, help="name of the run in tables; default: its folder")
    parser.add_class_arguments(Corruptions, "corruptions", instantiate=True)
    parser.add_class_arguments(Attacks, "attacks", instantiate=True)
    parser.add_class_arguments(Evaluation, None, skip={"on", "corruptions", "attacks"})
    return parser


def load(checkpoint: str | Path, data: dict[str, Any] | None = None) -> tuple[Normalized, Settings, dict[str, Any]]:
    """The model of a checkpoint (its moving average where there is one), for images in [0, 1]; settings and state."""
    path = checkpoints.find(checkpoint)
    stored = checkpoints.read(path, weights_only=True)
    settings = _settings(stored.state["config"])
    settings.data = _changed(settings.data, data or {})
    network = build_model(settings.model, len(stored.state["classes"]), settings.data.image_size)
    checkpoints.load_weights(network, stored.weights, str(path))
    return Normalized(network, settings.data.mean, settings.data.std), settings, {**stored.state, "path": str(path)}


def _settings(config: dict[str, Any]) -> Settings:
    """Settings from what a checkpoint holds of them."""
    groups = {"data": Data, "augmentation": Augmentation, "optimization": Optimization}
    config = copy.deepcopy(config)
    attention = Attention(**config["model"].pop("attention"))
    if isinstance(attention.ode, dict):
        attention.ode = Ode(**attention.ode)
    made = {name: kind(**config[name]) for name, kind in groups.items()}
    return Settings(**{**config, **made, "model": Model(**config["model"], attention=attention)})


def _changed(data: Data, changes: dict[str, Any]) -> Data:
    names = [field.name for field in fields(Data)]
    for name in changes:
        if name not in names:
            raise ValueError(f"data has no option {name!r}; of {', '.join(names)} is wanted")
    return Data(**{**{name: getattr(data, name) for name in names}, **changes})


def _timm_model(name: str, weights: str | None, data: dict[str, Any]) -> tuple[Normalized, Settings, dict[str, Any]]:
    """A model of timm with weights from a local file, and its own image size and normalisation."""
    if weights is None:
        raise ValueError("weights is missing; the safetensors file of a timm model's weights is wanted")
    if not timm.is_model(name):
        raise ValueError(f"timm:{name} is no model that timm has")
    if not weights.endswith(".safetensors") or not Path(weights).is_file():
        raise ValueError(f"weights is {weights!r}; a file of safetensors is wanted (pickles are never loaded)")
    from safetensors.torch import load_file

    cfg: Any = timm.get_pretrained_cfg(name)
    own = {"mean": list(cfg.mean), "std": list(cfg.std), "image_size": cfg.input_size[-1], "crop": cfg.crop_pct}
    settings = Settings(model=Model(name), data=_changed(Data(), {**own, **data}))
    images = labelled(settings.data, train=False)
    network = build_model(settings.model, len(images.classes), settings.data.image_size)
    checkpoints.load_weights(network, load_file(weights), weights)
    model = Normalized(network, settings.data.mean, settings.data.std)
    return model, settings, {"classes": images.classes, "path": weights, "epoch": None}


def measure(
    model: nn.Module, images: Labelled, settings: Settings, how: Evaluation, about: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Evaluate, append every record with `about` (label, seed, config ...) to `out`/records.jsonl, and return them."""
    origin = records.provenance()
    found = []
    for figure in evaluate(model, images, settings.data, how):
        record = {**figure, **about, "evaluation_seed": how.seed, **origin}
        records.append(out / "records.jsonl", [record])
        found.append(record)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    return commands.run(parser, lambda values: _main(parser, values), arguments)


def _main(parser: ArgumentParser, values: Namespace) -> None:
    values = parser.instantiate(values)
    how = Evaluation(
        on=tuple(values.on.split(",")),
        corruptions=values.corruptions,
        attacks=values.attacks,
        **{name: getattr(values, name) for name in ("seed", "batch_size", "device", "progress")},
    )
    if values.checkpoint.startswith("timm:"):
        model, settings, state = _timm_model(values.checkpoint.removeprefix("timm:"), values.weights, values.data)
        default_out = Path("runs") / values.checkpoint.replace(":", "-")
    else:
        model, settings, state = load(values.checkpoint, values.data)
        default_out = Path(settings.out)
    images = labelled(settings.data, train=False)
    if images.classes != state["classes"]:
        raise ValueError(
            f"{settings.data.root} has {len(images.classes)} classes that are not the {len(state['classes'])} of the "
            "checkpoint; the same are wanted"
        )
    out = Path(values.out) if values.out else default_out / "evaluation"
    (out / "records.jsonl").unlink(missing_ok=True)
    about = {
        "label": values.label or default_out.name,
        "seed": settings.seed,
        "checkpoint": state["path"],
        "epoch": state["epoch"],
        "config": commands.as_plain(settings),
    }
    found = measure(model, images, settings, how, about, out)
    table = records.table(found, records.COLUMNS)
    (out / "table.md").write_text(table)
    if "corruptions" in how.on:
        plots.severity(found, out / "severity.png")
        if any(isinstance(layer, TokenMixer) for layer in model.modules()):
            pixels, _ = evaluation_images(images, settings.data, 0, 3)
            plots.attention_maps(model, pixels, out / "attention.png")
    print(table)


if __name__ == "__main__":
    sys.exit(main())
