"""`python -m experiments.publish RUN --out FOLDER`: a trained model as a folder of the Hugging Face hub, for timm.

The folder has `model.safetensors`, `config.json` and a model card, `README.md`, made of the records of the run's
evaluation. timm reads it from the disk (`local-dir:FOLDER`) or, after an upload, from the hub.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from timm.models import save_for_hf
from torch import nn

from experiments import cli
from experiments.evaluation.trained import load, run_of
from experiments.options.plain_data import as_plain
from experiments.report import cards, records
from experiments.settings import Settings
from vars_dyn import _files

__all__ = ["main", "publish"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("publish", "Write a trained model as a folder that timm and the Hugging Face hub take.")
    parser.add_argument("checkpoint", help="folder of a run (its best checkpoint is taken) or of a checkpoint")
    parser.add_option("out", str, required=True, help="the new folder")
    parser.add_option("title", str | None, default=None, help="title of the model card; default: the run's name")
    parser.add_option("license", str, default="mit", help="licence of the weights, by the hub's name")
    parser.add_flag("overwrite", "replace an earlier published folder")

    def command(values: Namespace) -> None:
        folder = publish(
            values.checkpoint, Path(values.out), values.title, license=values.license, overwrite=values.overwrite
        )
        print(f'wrote {folder}; after `import models`, timm.create_model("local-dir:{folder}", pretrained=True)')

    return cli.run(parser, command, arguments, None)


def publish(
    checkpoint: str | Path,
    out: Path,
    title: str | None = None,
    *,
    license: str = "mit",  # noqa: A002  # the hub's name
    overwrite: bool = False,
) -> Path:
    """Write the model of a checkpoint (or of a run's best one) as the folder `out`, which appears whole or not at all.

    Raises ValueError for a model that its configuration alone cannot build again (a model of timm's whose attention was
    replaced), or a folder that is there already.
    """
    model, settings, state = load(checkpoint)
    if settings.model.attention.kind is not None and not settings.model.name.startswith("vars_"):
        raise ValueError(
            f"{checkpoint} is {settings.model.name} with its attention replaced, which timm cannot build from a "
            "configuration; a vars_* model is wanted"
        )
    if out.exists() and not (overwrite and (out / "config.json").is_file()):
        more = "" if overwrite else ", or --overwrite for an earlier published folder"
        raise ValueError(f"{out} is there already; a new folder is wanted{more}")
    run = run_of(Path(state["path"]))
    file = run / "evaluation" / "records.jsonl"
    found = records.latest(records.read([file])) if file.is_file() else []
    with _files.replacing_folder(out) as partial:
        _save(model.network, settings, list(state["classes"]), partial)
        text = cards.card(title or run.name, settings, state, found, license)
        (partial / "README.md").write_text(text, encoding="utf-8")
        for picture in ("severity.png", "attention.png"):
            if (run / "evaluation" / picture).is_file():
                shutil.copyfile(run / "evaluation" / picture, partial / picture)
    return out


def _save(network: Any, settings: Settings, classes: list[str], folder: Path) -> None:
    """Write weights and configuration by timm's own helper."""
    data, model = settings.data, settings.model
    arguments: dict[str, Any] = {**model.sizes, "num_classes": len(classes)}
    if model.name.startswith("vars_"):
        arguments["img_size"] = data.image_size
    attention = {name: value for name, value in as_plain(model.attention).items() if value is not None}
    if attention:
        arguments["attention"] = attention if len(attention) > 1 else attention["kind"]
    network.pretrained_cfg = {
        **network.pretrained_cfg,
        "num_classes": len(classes),
        "input_size": (3, data.image_size, data.image_size),
        "mean": tuple(data.mean),
        "std": tuple(data.std),
        "crop_pct": data.crop,
        "pool_size": None,
    }
    plain: nn.Module = network
    save_for_hf(
        plain, str(folder), model_config={"label_names": classes}, model_args=arguments, safe_serialization=True
    )


if __name__ == "__main__":
    sys.exit(main())
