"""Figures of training and evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.evaluation.corruptions import CORRUPTIONS
from experiments.report.outputs import marked
from experiments.report.summaries import mean_and_deviation
from experiments.training.logs import read_log

__all__ = ["ablation", "certified", "grid", "save", "severity", "thresholds", "training_curves"]


def training_curves(runs: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Draw loss and validation accuracy by epoch. The runs (seeds) of a label share a colour."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for i, (label, folders) in enumerate(runs.items()):
        for j, folder in enumerate(folders):
            epochs = [line for line in read_log(folder) if line["event"] == "epoch"]
            for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
                at = [line["epoch"] for line in epochs]
                axis.plot(at, [line[name] for line in epochs], f"C{i % 10}.-", label=None if j else label, lw=1)
    axes[0].set(xlabel="epoch", ylabel="training loss")
    axes[1].set(xlabel="epoch", ylabel="validation accuracy")
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].legend(fontsize="small")
    save(figure, path)


def certified(layers: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw for each layer the share of codes whose radius is at least so large, and how far changed pixels move it."""
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for i, (name, layer) in enumerate(layers.items()):
        radii = np.sort(np.asarray(layer["radii"]))
        share = 1 - np.arange(len(radii)) / len(radii)
        axis.step(np.maximum(radii, 1e-12), share, f"C{i % 10}", where="pre", label=name)
        for how, style in (("noise", ":"), ("fgsm", "--")):
            axis.axvline(float(np.median(layer[how])), color=f"C{i % 10}", ls=style, lw=1)
    axis.plot([], [], "k:", lw=1, label="moved by noise")
    axis.plot([], [], "k--", lw=1, label="moved by FGSM")
    axis.set(xscale="log", ylim=(0, 1), xlabel="change of a layer's tokens over their norm")
    axis.set(ylabel="share of codes whose support is certified")
    axis.legend(fontsize="small")
    save(figure, path)


def severity(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw accuracy against severity: a panel per corruption, a line per label, and the deviation over seeds."""
    chosen = [record for record in found if record["on"] == "corruptions" and record["metric"] == "accuracy"]
    clean = [record for record in found if record["on"] == "clean" and record["metric"] == "accuracy"]
    names = [name for name in CORRUPTIONS if any(record["corruption"] == name for record in chosen)]
    columns = min(5, max(len(names), 1))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.4 * columns, 2.1 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes.flat, names, strict=False):
        axis.set_title(name.replace("_", " "), fontsize="small")
        own = [{**record, "severity": 0} for record in clean]
        own += [dict(record) for record in chosen if record["corruption"] == name]
        _lines(axis, own, "severity")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    axes[0, 0].legend(fontsize="x-small")
    figure.supxlabel("severity (0: clean)")
    figure.supylabel("accuracy")
    save(figure, path)


def ablation(found: Sequence[Mapping[str, Any]], name: str, meaning: str, path: Path) -> None:
    """Draw accuracy on clean, corrupted and attacked images against the setting `name` of the records."""
    kinds = list(dict.fromkeys(record["on"] for record in found if record["metric"] == "accuracy"))
    figure, axes = plt.subplots(1, len(kinds), figsize=(3 * len(kinds), 2.8), squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds, strict=True):
        own = [record for record in found if record["on"] == kind and record["metric"] == "accuracy"]
        _lines(axis, [{**record, "label": "vars_d"} for record in own], name)
        axis.set(title=kind, xlabel=meaning)
        low, high = axis.get_ylim()
        # An axis of less than ten points would make noise look large.
        axis.set_ylim(min(low, (low + high) / 2 - 0.05), max(high, (low + high) / 2 + 0.05))
    axes[0, 0].set_ylabel("accuracy")
    save(figure, path)


def _lines(axis: Any, found: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw a line per label against `name`: means within each seed, averaged over seeds, with their deviation."""
    for i, label in enumerate(dict.fromkeys(record["label"] for record in found)):
        own = [record for record in found if record["label"] == label]
        at = sorted({record[name] for record in own})
        figures = []
        for value in at:
            here = [record for record in own if record[name] == value]
            seeds = {record["seed"] for record in here}
            figures.append(
                mean_and_deviation([float(np.mean([r["value"] for r in here if r["seed"] == s])) for s in seeds])
            )
        means, deviations = np.array(figures).T
        axis.errorbar(at, means, np.nan_to_num(deviations), fmt=".-", color=f"C{i % 10}", label=label, lw=1, capsize=2)


def thresholds(found: Sequence[Mapping[str, Any]], metrics: Sequence[str], path: Path) -> None:
    """Draw metrics of a segmentation against the threshold."""
    figure, axis = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    for metric in metrics:
        own = [record for record in found if record["metric"] == f"curve_{metric}"]
        at, values = [record["threshold"] for record in own], [record["value"] for record in own]
        axis.plot(at, values, ".-", lw=1, label=metric.replace("_", " ").replace("iou", "IoU"))
    for threshold in {record["threshold"] for record in found if record["metric"] in metrics}:
        axis.axvline(threshold, color="0.7", lw=1, zorder=0)
    axis.set(xlabel="threshold", ylabel="share", ylim=(0, None))
    axis.legend(fontsize="small")
    save(figure, path)


def grid(dataset: xr.Dataset, base: Mapping[str, float], path: Path) -> None:
    """Draw each measure of an ablation against the iterations and against lambda: a line per solver and threshold.

    `base` has the model's own settings. A setting that is not on the axis has the measured value nearest to its own.
    """
    values = dataset.value
    names = {"num_steps": "iterations k", "lam": "lambda"}
    axes = [name for name in names if values.sizes[name] > 1] or ["num_steps"]
    rows = values.sizes["measure"]
    size = (3.6 * len(axes), 2.5 * rows)
    figure, panels = plt.subplots(rows, len(axes), figsize=size, squeeze=False, sharey="row", layout="constrained")
    for row, measure in zip(panels, values.measure.values, strict=True):
        for axis, name in zip(row, axes, strict=True):
            rest = {other: base[other] for other in names if other != name}
            shown = values.sel(measure=measure).sel(rest, method="nearest")
            lines = itertools.product(values.solver.values, values.threshold.values)
            for style, (solver, threshold) in zip(
                itertools.cycle(["o-", "s-", "^--", "v--", "x:"]), lines, strict=False
            ):
                own = shown.sel(solver=solver, threshold=threshold)
                axis.plot(own[name], own, style, ms=4, lw=1, label=f"{solver}, {threshold}")
            at = ", ".join(f"{names[other]} = {float(shown[other]):g}" for other in rest)
            axis.set_title(at, fontsize="small")
            axis.set_xlabel(names[name])
        row[0].set_ylabel(measure)
    panels[0, 0].legend(fontsize="x-small")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata=marked(path))
    plt.close(figure)
