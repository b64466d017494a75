"""Resumption. The checkpoint that a run goes on from is checked against the run that asks for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from experiments.options import plain_data
from experiments.options.plain_data import as_plain
from experiments.settings import Settings
from experiments.training import checkpoints, logs
from experiments.training.checkpoints import Checkpoint
from vars_dyn.recording.provenance import first_difference

__all__ = ["FREE", "Resumed", "begin", "restore"]

#: Settings that may differ between a run and its resumption. All but `epochs`, which may be raised, do not change what
#: is computed.
FREE = ("epochs", "out", "resume", "stop_after", "devices", "nodes", "accelerator", "tensorboard", "progress",
        "data.workers", "data.root", "data.in_memory", "data.download")  # fmt: skip


class Resumed(Protocol):
    """The parts of a run that a checkpoint restores."""

    settings: Settings
    fabric: Fabric
    images: Any
    network: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    ema: ModelEmaV3 | None
    epoch: int
    updates: int
    best: dict[str, Any] | None


def begin(settings: Settings, folder: Path) -> Checkpoint | None:
    """The checkpoint to resume from, or None for a new run.

    Raises ValueError if the folder has a run and `settings` do not resume it, or if that run had other settings.
    """
    logs.refuse_another(folder)
    path = checkpoints.last(folder)
    if not settings.resume:
        if path is not None:
            raise ValueError(f"{folder} has a run already, up to {path.name}; give --resume or another --out")
        return None
    if path is None:
        return None
    start = checkpoints.read(path)
    missing = [name for name in ("config", "classes", "updates", "best", "random") if name not in start.state]
    if start.state.get("best") is not None and "accuracy" not in start.state["best"]:
        missing.append("accuracy in best")
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)} in state.json; a checkpoint of a training run is wanted")
    try:
        before = as_plain(plain_data.read(Settings, start.state["config"], ""))
    except ValueError as error:
        raise ValueError(f"{path} has settings that cannot be read: {error}") from None
    if settings.epochs < before["epochs"]:
        raise ValueError(
            f"epochs is {settings.epochs}, but the run in {folder} has {before['epochs']}; a run may be made longer, "
            "not shorter"
        )
    difference = first_difference(*(_fixed(config) for config in (before, as_plain(settings))))
    if difference is not None:
        name, then, now = difference
        raise ValueError(f"{name} is {now!r}, but the run in {folder} has {then!r}; a run is resumed as it was begun")
    return start


def _fixed(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A flat configuration, without the settings that may change."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_fixed(value, f"{prefix}{name}."))
        elif f"{prefix}{name}" not in FREE:
            flat[f"{prefix}{name}"] = value
    return flat


def restore(run: Resumed, start: Checkpoint) -> None:
    """Put a run where its checkpoint left it. Raises ValueError for a checkpoint that is damaged or of another run."""
    source = str(start.path)
    checkpoints.load_weights(run.network, start.model, source)
    if run.ema is not None and start.ema is not None:
        checkpoints.load_weights(run.ema.module, start.ema, source)
    _restore_optimizer(run.optimizer, start)
    run.epoch, run.updates, run.best = (start.state[name] for name in ("epoch", "updates", "best"))
    run.scheduler.step_update(run.updates)
    steps = len(run.images[0]) // run.settings.optimization.batch_size
    if run.epoch > run.settings.epochs or run.updates != run.epoch * steps:
        raise ValueError(
            f"{source} is of epoch {run.epoch} after {run.updates} updates; {steps} in each of up to "
            f"{run.settings.epochs} epochs are wanted"
        )
    states = start.state["random"]
    if len(states) == run.fabric.world_size:
        try:
            checkpoints.set_random_state(states[run.fabric.global_rank])
        except ValueError as error:
            raise ValueError(f"{source} cannot be resumed: {error}") from None


def _restore_optimizer(optimizer: Optimizer, start: Checkpoint) -> None:
    """Put the optimizer back where the checkpoint left it. Raises ValueError for a damaged or another one's state."""
    fresh = [dict(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(start.optimizer)
        for before, group in zip(fresh, optimizer.param_groups, strict=True):
            for name, value in before.items():
                if name not in ("params", "param_names") and not _alike(value, group[name]):
                    raise ValueError(f"{name} is {group[name]!r:.40} where {value!r:.40} was")
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if name in _LIKE_THE_WEIGHTS and value.shape != parameter.shape:
                    raise ValueError(f"{name} has shape {tuple(value.shape)} of weights of {tuple(parameter.shape)}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{start.path} cannot be resumed: its optimizer is another or damaged ({error})") from None


#: The tensors that optimizers keep for each weight, in the shape of the weight.
_LIKE_THE_WEIGHTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")


def _alike(before: Any, now: Any) -> bool:
    """Whether a stored option of an optimizer (`now`) has the type and form of a fresh optimizer's (`before`)."""
    if isinstance(before, bool | str | None) or callable(before):
        return type(before) is type(now)
    if isinstance(before, list | tuple):
        return isinstance(now, list | tuple) and len(now) == len(before) and all(map(_alike, before, now))
    if isinstance(before, int | float):
        return isinstance(now, int | float) and not isinstance(now, bool) and math.isfinite(now)
    return isinstance(now, type(before))
