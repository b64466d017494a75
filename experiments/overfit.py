"""`python -m experiments.overfit --data.root FOLDER`: a vision transformer with ODE attention learns images by heart.

Each gradient mode trains the same small ViT (two blocks of width 48 on 4 x 4 patches of 8 pixels, VARS-D) on the same
images from the same start, until it classifies all of them right. The solver of "implicit" is the equilibrium itself.
If the gradient of a mode were too inaccurate, its curve would stop falling.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

import models  # noqa: F401  # registers the models
import vars_dyn
from experiments import cli
from experiments.data.images import as_images, labelled
from experiments.report import tables
from experiments.report.outputs import marked, refuse_foreign
from experiments.settings import Data
from experiments.sweeps.runs import Processes, failed, run_members
from vars_dyn import _files
from vars_dyn.attention import attention_class
from vars_dyn.attention.solving import Equilibrium, Ode
from vars_dyn.sweeping.members import Work

__all__ = ["MODES", "Overfit", "main", "overfit"]

#: The modes of differentiation; the first three go through the integration.
MODES = ("backprop", "checkpoint", "adjoint", "implicit")
#: What is known of each epoch, and of a whole run.
_CURVE, _COST = ("loss", "accuracy"), ("seconds", "images_per_cpu_second")
#: Options that may change when a run is resumed.
_FREE = ("out", "modes", "resume", "processes", "scheduler")


@dataclass
class Overfit:
    """What to learn by heart and how.

    Attributes:
        data: where the images are, as for `experiments.train`.
        out: folder of the numbers (overfit.json) and the curve (overfit.png).
        modes: which gradient modes.
        images: how many images.
        epochs: most passes over the images; a mode stops when its training accuracy reaches 1.
        batch_size: images per step.
        lr: learning rate of AdamW, warmed up over the first epoch.
        horizon: time for which the attention's neurons are integrated, in membrane time constants.
        rtol: relative tolerance of the integration (dopri5; atol is a hundredth of it).
        seed: the seed of the weights and of the order of images.
        resume: keep the modes that `out` already has under the same options; each mode is written when it is done.
        processes: processes of this machine that train modes at the same time; 0: this one, mode by mode.
        scheduler: the address of a Dask scheduler, or a YAML file of dask-jobqueue, that trains them instead.
    """

    data: Data = field(default_factory=lambda: Data(root="data/cifar10", image_size=32, crop=1))
    out: str = "runs/overfit"
    modes: tuple[str, ...] = MODES
    images: int = 512
    epochs: int = 60
    batch_size: int = 32
    lr: float = 1e-3
    horizon: float = 0.5
    rtol: float = 0.1
    seed: int = 0
    resume: bool = False
    processes: int = 0
    scheduler: str | None = None


@dataclass(frozen=True)
class _Modes(Work):
    """What the members do: each learns the images by heart in one mode."""

    options: Overfit
    images: Tensor
    labels: Tensor

    name = "experiments.overfit"

    def check(self, names: Sequence[str]) -> None:
        """All names are this module's own."""

    def ragged(self, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A mode stops early if its training accuracy reaches 1."""
        return {"epoch": self.options.epochs}

    def like(self) -> xr.Dataset:
        """The curve, and the cost."""
        nothing = ("epoch", np.empty(0))
        return xr.Dataset({**dict.fromkeys(_CURVE, nothing), **dict.fromkeys(_COST, 0.0)})

    def run(self, parameters: Mapping[str, Any], folder: Path) -> xr.Dataset:
        """Learn."""
        found = _learn(self.options, parameters["mode"], self.images, self.labels)
        curve = {name: ("epoch", np.array([point[name] for point in found["curve"]])) for name in _CURVE}
        return xr.Dataset({**curve, **{name: found[name] for name in _COST}})


def overfit(
    options: Overfit,
    images: Tensor,
    labels: Tensor,
    done: Sequence[dict[str, Any]] = (),
    *,
    store: Path | None = None,
    after: Callable[[list[dict[str, Any]]], object] | None = None,
) -> list[dict[str, Any]]:
    """Train with every mode on images (n, 3, h, w) and labels (n,), and return a record with the curve for each.

    A mode that has a record in `done` is not trained again. `after` is called with the records so far when a mode has
    ended. Raises ArithmeticError if the loss of a mode is not finite; the other modes are trained before.
    """
    known = {record["mode"]: record for record in done if record["mode"] in options.modes}
    left = [mode for mode in dict.fromkeys(options.modes) if mode not in known]

    def records(found: xr.Dataset) -> list[dict[str, Any]]:
        ended = np.flatnonzero(found["status"] == 1).tolist()
        own = {left[member]: _record(found, left[member], member) for member in ended}
        return [{**known, **own}[mode] for mode in options.modes if mode in known or mode in own]

    if not left:
        return [known[mode] for mode in options.modes]
    with tempfile.TemporaryDirectory() as fresh:
        found = run_members(
            _Modes(options, images, labels),
            [{"mode": mode} for mode in left],
            store or Path(fresh) / "sweep.zarr",
            Processes(options.processes, options.scheduler),
            progress=None if after is None else lambda now: after(records(now)),
        )
    for error in failed(found).values():
        raise ArithmeticError(error.removeprefix("ArithmeticError: "))
    return records(found)


def _record(found: xr.Dataset, mode: str, member: int) -> dict[str, Any]:
    """What `overfit` returns of a mode, from the dataset of the sweep."""
    own = found.isel(member=member)
    epochs = int(own["epoch_length"])
    columns = {name: own[name].values[:epochs].tolist() for name in _CURVE}
    curve = [dict(zip(columns, point, strict=True)) for point in zip(*columns.values(), strict=True)]
    return {
        "mode": mode,
        "epochs": epochs,
        **curve[-1],
        **{name: float(own[name]) for name in _COST},
        "curve": curve,
    }


def _network(options: Overfit, mode: str, size: int, classes: int) -> nn.Module:
    solver: Ode | Equilibrium = Equilibrium()
    if mode != "implicit":
        solver = Ode(
            field="reduced", horizon=options.horizon, rtol=options.rtol, atol=options.rtol / 100, gradient=mode
        )
    torch.manual_seed(options.seed)
    model: nn.Module = timm.create_model(
        "vars_deit_micro",
        attention=attention_class("vars_d", solver=solver),
        img_size=size,
        patch_size=size // 4,
        num_classes=classes,
        embed_dim=48,
        depth=2,
    )
    return model


def _learn(options: Overfit, mode: str, images: Tensor, labels: Tensor) -> dict[str, Any]:
    model = _network(options, mode, images.shape[-1], int(labels.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=0.0)
    order, steps = torch.Generator().manual_seed(options.seed), -(-len(images) // options.batch_size)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, steps)
    curve: list[dict[str, float]] = []
    began, spent = time.perf_counter(), time.process_time()
    with tqdm(total=options.epochs, desc=mode, disable=None) as bar:
        for _ in range(options.epochs):
            total = correct = 0.0
            for batch in torch.randperm(len(images), generator=order).split(options.batch_size):
                scores = model(images[batch])
                loss = F.cross_entropy(scores, labels[batch])
                if not bool(torch.isfinite(loss)):
                    raise ArithmeticError(
                        f"{mode}: the loss is {float(loss)} in epoch {len(curve) + 1}; try a smaller lr"
                    )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                warm.step()
                total += float(loss.detach()) * len(batch)
                correct += float((scores.argmax(-1) == labels[batch]).sum())
            curve.append({"loss": total / len(images), "accuracy": correct / len(images)})
            bar.update()
            bar.set_postfix(curve[-1])
            if curve[-1]["accuracy"] == 1:
                break
    seen = len(curve) * len(images)
    cost = {"seconds": time.perf_counter() - began, "images_per_cpu_second": seen / (time.process_time() - spent)}
    return {"mode": mode, "epochs": len(curve), **curve[-1], **cost, "curve": curve}


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss and accuracy on the training images by epoch, with a line for each mode."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for record, dash in zip(records, ("-", "--", ":", "-."), strict=False):
        epochs = range(1, record["epochs"] + 1)
        for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
            axis.plot(epochs, [point[name] for point in record["curve"]], dash, lw=1.8, label=record["mode"])
    axes[0].set(xlabel="epoch", ylabel="training loss", yscale="log")
    axes[1].set(xlabel="epoch", ylabel="training accuracy")
    axes[1].legend(frameon=False)
    figure.savefig(path, dpi=110, metadata=marked(path))
    plt.close(figure)


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records as Markdown."""
    titles = ["gradient", "epochs", "training accuracy", "training loss", "images per CPU second"]
    rows = [
        [
            record["mode"],
            str(record["epochs"]),
            f"{100 * record['accuracy']:.1f} %",
            f"{record['loss']:.3f}",
            f"{record['images_per_cpu_second']:.0f}",
        ]
        for record in records
    ]
    return tables.markdown(titles, rows).rstrip("\n")


def _checked(options: Overfit) -> None:
    for mode in options.modes:
        if mode not in MODES:
            raise ValueError(f"modes holds {mode!r}; some of {', '.join(MODES)} are wanted")
    for name in ("images", "epochs", "batch_size", "lr", "horizon", "rtol"):
        if not getattr(options, name) > 0:
            raise ValueError(f"{name} is {getattr(options, name)}; a number above zero is wanted")


def _main(options: Overfit) -> None:
    _checked(options)
    chosen = labelled(options.data, train=True).subset(options.images, "images")
    side = options.data.image_size
    pixels = np.stack([np.asarray(chosen.image(i).resize((side, side))) for i in range(len(chosen))])
    images = (as_images(pixels) - 0.5) / 0.25
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    refuse_foreign([out / "overfit.png"], beside=out / "overfit.json")
    done = _done(options, out)
    others = [record for record in done if record["mode"] not in options.modes]
    records = overfit(
        options,
        images,
        torch.tensor(chosen.labels),
        done,
        store=out / "sweep.zarr",
        after=lambda now: _write(options, [*now, *others], out),
    )
    _write(options, [*records, *others], out)
    draw(records, out / "overfit.png")
    print(table(records))


def _kept(options: Overfit) -> dict[str, Any]:
    """The options that must not change between a run and its resumption, as JSON gives them back."""
    kept = {name: value for name, value in asdict(options).items() if name not in _FREE}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _done(options: Overfit, out: Path) -> list[dict[str, Any]]:
    """The records in `out`, which the run resumes. Raises ValueError without `resume`, or if the options differ."""
    path = out / "overfit.json"
    if not path.exists():
        return []
    if not options.resume:
        raise ValueError(f"{path} exists; resume, or another out is wanted")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["options"], dict) or not all("mode" in each for each in found["records"]):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} holds no numbers of this command; another out is wanted") from None
    other = sorted(name for name, value in _kept(options).items() if found["options"].get(name) != value)
    if other:
        raise ValueError(f"{path} was made with another {', '.join(other)}; the same options are wanted to resume it")
    records: list[dict[str, Any]] = found["records"]
    return records


def _write(options: Overfit, records: Sequence[dict[str, Any]], out: Path) -> None:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "vars_dyn": vars_dyn.__version__}
    about = {"options": asdict(options), "threads": torch.get_num_threads(), **versions}
    _files.write_text(out / "overfit.json", json.dumps({**about, "records": records}, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("overfit", "Learn images by heart through attention that is an ODE, by each gradient mode.")
    parser.add_class_arguments(Overfit, None, instantiate=True)

    def command(values: Any) -> None:
        values = parser.instantiate(values)
        _main(Overfit(**{name: getattr(values, name) for name in Overfit.__dataclass_fields__}))

    return cli.run(parser, command, arguments, ("--resume=true",))


if __name__ == "__main__":
    sys.exit(main())
