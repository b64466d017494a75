"""`python -m experiments.quickstart`: draw images, train a small VARS-D transformer, measure it, show its attention.

It needs only the package, and takes about a minute of processor time. If it is stopped, the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import cli
from experiments.data.drawn import SHAPES, draw, write_images
from experiments.evaluation.run import Evaluation, measure
from experiments.evaluation.trained import trained
from experiments.report import pictures, plots
from experiments.report.outputs import refuse_foreign
from experiments.report.summaries import VALIDATION_COLUMNS, over_seeds
from experiments.settings import Attention, Augmentation, Data, Model, Optimization, Settings
from experiments.training.loop import train
from vars_dyn import _files

__all__ = ["main", "quickstart"]


def quickstart(out: Path, epochs: int = 8, train_images: int = 80, val_images: int = 20) -> None:
    """Draw images, train on them, evaluate, and write a table and three figures, all in `out`.

    `train_images` and `val_images` count the images of each shape.
    """
    pictures_ = ("training.png", "severity.png", "attention.png", "table.md")
    refuse_foreign((out / name for name in pictures_), beside=out / "log.jsonl")
    if (out / "images").exists() and not (out / "log.jsonl").exists() and any((out / "images").iterdir()):
        raise ValueError(f"{out / 'images'} exists, and is no folder that this command drew; give another --out")
    write_images(out / "images", train_images, val_images)
    settings = Settings(
        out=str(out),
        model=Model("vars_rvt_micro", Attention("vars_d"), {"base_dims": [16], "heads": [3], "depth": [2]}),
        data=Data(root=str(out / "images"), image_size=32, crop=1, in_memory=True),
        augmentation=Augmentation(crop="padded"),
        optimization=Optimization(lr=3e-3, batch_size=32, warmup_epochs=1, ema=0.9),
        epochs=epochs,
        resume=True,
        accelerator="cpu",
    )
    train(settings)
    found = trained(str(out))
    measured = measure(found, Evaluation(device="cpu"), out, label="vars_d")
    _files.write_bytes(out / "table.md", over_seeds(measured, VALIDATION_COLUMNS).encode())
    plots.training_curves({"vars_d": [out]}, out / "training.png")
    plots.severity(measured, out / "severity.png")
    shapes = np.stack([draw(shape, 10**6) for shape in SHAPES[:3]])
    pictures.under_corruption({"vars_d": found.model}, shapes, out / "attention.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("quickstart", "Train and measure a small VARS-D transformer on images drawn here.")
    parser.add_option("out", str, default="runs/quickstart", help="folder of everything that it makes")
    parser.add_option("epochs", int, default=8, help="passes over the images")

    def command(values: object) -> None:
        out = Path(getattr(values, "out", ""))
        quickstart(out, getattr(values, "epochs", 0))
        print((out / "table.md").read_text())
        print(f"accuracy in per cent; figures and numbers are in {out}")

    return cli.run(parser, command, arguments)


if __name__ == "__main__":
    sys.exit(main())
