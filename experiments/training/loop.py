"""Training. Lightning Fabric handles the device, the precision and the processes. Every epoch ends in a checkpoint."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
import torch.nn.functional as F
from lightning_fabric import Fabric
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from experiments.data.images import (
    EpochBatches,
    Images,
    Labelled,
    as_images,
    evaluation_images,
    labelled,
    training_loader,
    training_transform,
)
from experiments.options.plain_data import as_plain
from experiments.settings import Settings
from experiments.training import checkpoints, logs, losses
from experiments.training import probe as trajectories
from experiments.training.checkpoints import Checkpoint
from experiments.training.distilling import Teacher, teacher_of
from experiments.training.finetuning import held_back, start_from
from experiments.training.guards import alone, there_is, told
from experiments.training.networks import Normalized, build_model
from experiments.training.preparing import fabric_of, stepping
from experiments.training.resuming import begin, restore
from vars_dyn.attention import VarsAttention

__all__ = ["train"]

#: After so many updates the stored L of released VARS-S layers is computed anew, as in the released code.
_BOUND_EVERY = 100


@dataclass
class _Run:
    """The state of a training run."""

    settings: Settings
    folder: Path
    fabric: Fabric
    images: tuple[Labelled, Labelled]
    network: nn.Module
    model: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    ema: ModelEmaV3 | None
    teacher: Teacher | None = None
    epoch: int = 0
    updates: int = 0
    best: dict[str, Any] | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated: the moving average where there is one."""
        return self.network if self.ema is None else self.ema.module


def train(settings: Settings, images: tuple[Labelled, Labelled] | None = None) -> Path:
    """Train as `settings` say, and return the last checkpoint.

    `images` (for training and for validation) replace those of `settings.data`. The run's folder gets checkpoints/,
    log.jsonl and trajectories/. With devices > 1 this starts the other processes.

    Raises:
        ValueError: bad input, another process that trains into the same folder, or a full disk.
        FloatingPointError: the loss is not a finite number; the message names the last good checkpoint.
    """
    settings.check()
    folder = Path(settings.out)
    start = begin(settings, folder)
    there_is(settings.accelerator)
    with alone(folder):
        return _run_of(settings, folder, start, images)


def _run_of(
    settings: Settings, folder: Path, start: Checkpoint | None, images: tuple[Labelled, Labelled] | None
) -> Path:
    if images is None:
        images = labelled(settings.data, train=True), labelled(settings.data, train=False)
    if images[0].classes != images[1].classes:
        raise ValueError(
            f"data.train and data.val have the classes {images[0].classes} and {images[1].classes}; the same are wanted"
        )
    images = images[0], images[1].decoded(settings.data)
    fabric = fabric_of(settings)
    run = _prepare(settings, folder, fabric, images)
    if start is not None:
        restore(run, start)
    elif settings.finetune is not None:
        _finetune(run)
    return _train(run, start)


def _prepare(settings: Settings, folder: Path, fabric: Fabric, images: tuple[Labelled, Labelled]) -> _Run:
    options = settings.optimization
    fabric.seed_everything(settings.seed, verbose=False)  # the same weights in every process
    network = build_model(settings.model, len(images[0].classes), settings.data.image_size, options.drop_path)
    network = fabric.to_device(network)
    ema = ModelEmaV3(network, decay=options.ema) if options.ema else None
    optimizer, scheduler = stepping(settings, network, len(images[0]) // options.batch_size)
    teacher = teacher_of(settings, list(images[0].classes))
    if teacher is not None:
        fabric.to_device(teacher.network)
    if options.attention_epochs:
        held_back(network)
    model, optimizer = fabric.setup(network, optimizer)
    fabric.seed_everything(settings.seed + 1 + fabric.global_rank, verbose=False)  # each draws its own dropout
    return _Run(settings, folder, fabric, images, network, model, optimizer, scheduler, ema, teacher)


def _finetune(run: _Run) -> None:
    fresh = start_from(run.network, run.settings)
    if run.ema is not None:
        run.ema.set(run.network)
    if run.fabric.is_global_zero and fresh:
        print(f"fine-tuning from {run.settings.finetune}; new weights: {', '.join(fresh)}")


def _train(run: _Run, start: Checkpoint | None) -> Path:
    settings, fabric = run.settings, run.fabric
    dataset = Images(run.images[0], training_transform(settings.data, settings.augmentation), settings.data.in_memory)
    batches = EpochBatches(
        len(dataset),
        settings.optimization.batch_size,
        settings.seed,
        settings.augmentation.repeats,
        fabric.global_rank,
        fabric.world_size,
    )
    loader = training_loader(dataset, batches, settings.data.workers)
    probe = trajectories.probe_images(run.images[1], settings)
    log = logs.Log(run.folder, run.epoch, settings.tensorboard) if fabric.is_global_zero else None
    path = start.path if start is not None and start.path is not None else run.folder
    last_epoch = min(settings.epochs, settings.stop_after or settings.epochs)
    while run.epoch < last_epoch:
        batches.epoch = run.epoch
        figures = _epoch(run, loader, path)
        run.epoch += 1
        figures |= _validate(run)
        if not math.isfinite(figures["val_loss"]):
            raise _not_finite(f"the validation loss is {figures['val_loss']} after epoch {run.epoch}", path, run)
        if run.best is None or figures["accuracy"] > run.best["accuracy"]:
            run.best = {"epoch": run.epoch, "accuracy": figures["accuracy"]}
        if log is not None:
            with told(path, run.folder):
                if probe is not None:
                    trajectories.write(run.folder, run.epoch, run.evaluated, fabric.to_device(probe), settings)
                log.epoch(run.epoch, {**figures, "best": run.best["accuracy"]})
        with told(path, run.folder):
            path = _checkpoint(run)
    if log is not None:
        log.close()
    return path


def _epoch(run: _Run, loader: Any, checkpoint: Path) -> dict[str, float]:
    """One pass over the training images: mean loss, learning rate, speed."""
    settings, fabric = run.settings, run.fabric
    loss_of, mixing = losses.loss_of(settings, len(run.images[0].classes))
    run.model.train()
    held = held_back(run.network) if run.epoch < settings.optimization.attention_epochs else []
    total, began, cpu = 0.0, time.perf_counter(), time.process_time()
    shown = settings.progress and fabric.is_global_zero
    size = settings.optimization.batch_size
    hidden = None if shown else True  # None: hidden where there is no terminal
    bar = tqdm(
        total=len(loader) * size,
        unit=" images",
        desc=f"epoch {run.epoch + 1}",
        disable=hidden,
        leave=False,
    )
    for images, labels in loader:
        images, labels = fabric.to_device((images, labels))
        if mixing is not None:
            images, labels = mixing(images, labels)
        run.optimizer.zero_grad()
        value = _backward(run, images, labels, loss_of)
        if not math.isfinite(value):
            raise _not_finite(
                f"the loss is {value} in epoch {run.epoch + 1}, update {run.updates + 1}", checkpoint, run
            )
        for parameter in held:
            parameter.grad = None
        if settings.optimization.clip:
            fabric.clip_gradients(
                run.model, run.optimizer, max_norm=settings.optimization.clip, error_if_nonfinite=False
            )
        run.optimizer.step()
        run.updates += 1
        run.scheduler.step_update(run.updates)
        if run.updates % _BOUND_EVERY == 0:
            _update_bounds(run.network)
        if run.ema is not None:
            run.ema.update(run.network)
        total += value
        bar.update(size)
        bar.set_postfix(loss=f"{value:.3f}")
    bar.close()
    seconds, count = time.perf_counter() - began, len(loader) * size
    return {
        "loss": total / len(loader),
        "lr": max(float(group["lr"]) for group in run.optimizer.param_groups),
        "images_per_second": count / seconds,
        "images_per_cpu_second": count / max(time.process_time() - cpu, 1e-9),
        "seconds": seconds,
    }


def _backward(run: _Run, images: Tensor, labels: Tensor, loss_of: Any) -> float:
    """The gradients of one step, whose images pass in parts, and the mean loss over all processes."""
    parts, total = run.settings.optimization.accumulate, torch.zeros((), device=images.device)
    chunks = list(zip(images.chunk(parts), labels.chunk(parts), strict=True))
    for i, (some, theirs) in enumerate(chunks):
        with run.fabric.no_backward_sync(cast(Any, run.model), enabled=i + 1 < len(chunks)):
            logits = run.model(some)
            loss = loss_of(logits, theirs)
            if run.teacher is not None:
                with run.fabric.autocast():
                    loss = run.teacher.loss(loss, logits, some)
            loss = loss * (len(some) / len(images))
            run.fabric.backward(loss)
        total += loss.detach().float()
    return float(_reduced(run.fabric, total, "mean"))


def _not_finite(what: str, checkpoint: Path, run: _Run) -> FloatingPointError:
    return FloatingPointError(
        f"{what}; the last good checkpoint is {checkpoint if checkpoint != run.folder else 'none'}"
    )


def _update_bounds(network: nn.Module) -> None:
    """Let released VARS-S layers compute anew, from their present dictionaries, the stored L of their step."""
    for layer in network.modules():
        if isinstance(layer, VarsAttention) and layer.variant.bound == "stored":
            layer.update_bound()


def _reduced(fabric: Fabric, value: Tensor, how: str) -> Tensor:
    """The mean or the sum of all processes' values."""
    return cast(Tensor, fabric.all_reduce(value, reduce_op=how))


@torch.no_grad()
def _validate(run: _Run) -> dict[str, float]:
    """Loss and accuracy on the validation images, each process taking a share."""
    settings, fabric = run.settings, run.fabric
    data, images = settings.data, run.images[1]
    network = run.evaluated
    was_training = network.training
    classifier = fabric.to_device(Normalized(network, data.mean, data.std)).eval()
    size = settings.optimization.batch_size
    sums = torch.zeros(3, dtype=torch.float64)
    for i, first in enumerate(range(0, len(images), size)):
        if i % fabric.world_size != fabric.global_rank:
            continue
        pixels, labels = evaluation_images(images, data, first, first + size)
        with fabric.autocast():
            logits = classifier(fabric.to_device(as_images(pixels))).float().cpu()
        right = (logits.argmax(-1) == labels).sum()
        sums += torch.tensor([float(F.cross_entropy(logits, labels, reduction="sum")), float(right), len(labels)])
    network.train(was_training)
    loss, right, count = _reduced(fabric, sums.float(), "sum").tolist()
    return {"val_loss": loss / count, "accuracy": right / count}


def _checkpoint(run: _Run) -> Path:
    states = [checkpoints.get_random_state()]
    if run.fabric.world_size > 1:
        gathered: list[Any] = [None] * run.fabric.world_size
        torch.distributed.all_gather_object(gathered, states[0])
        states = gathered
    folder = run.folder / "checkpoints"
    if run.fabric.is_global_zero:
        best = (run.best or {"epoch": run.epoch})["epoch"]
        state = {
            "config": as_plain(run.settings),
            "classes": run.images[0].classes,
            "epoch": run.epoch,
            "updates": run.updates,
            "best": run.best,
            "random": states,
        }
        ema = None if run.ema is None else run.ema.module.state_dict()
        checkpoint = Checkpoint(run.network.state_dict(), state, ema, run.optimizer.state_dict())
        checkpoints.write(folder, checkpoint, keep=(best,))
    run.fabric.barrier()
    found = checkpoints.last(run.folder)
    return run.folder if found is None else found
