"""What a training run needs before its first step: Fabric for devices and processes, an optimizer and its schedule."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from experiments.settings import Settings

__all__ = ["fabric_of", "stepping"]


def fabric_of(settings: Settings) -> Fabric:
    """Launch Fabric on the devices of the settings. Raises ValueError where this machine does not have them."""
    cuda = settings.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
    precision: Any = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true"
    many = settings.devices * settings.nodes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="ddp" if many else "auto",
            precision=precision,
        )
    except Exception as error:  # Fabric raises errors of its own classes
        raise ValueError(f"accelerator, devices or precision do not fit this machine: {error}") from None
    fabric.launch()
    return fabric


def stepping(settings: Settings, network: nn.Module, steps: int) -> tuple[Optimizer, Scheduler]:
    """The optimizer and its schedule. Raises ValueError for names and numbers that timm does not take."""
    options = settings.optimization
    try:
        layers: dict[str, Any] = {} if options.layer_decay == 1 else {"layer_decay": options.layer_decay}
        optimizer = create_optimizer_v2(
            network, options.optimizer, lr=options.lr, weight_decay=options.weight_decay, **layers
        )
    except Exception as error:  # each optimizer raises errors of its own
        raise ValueError(
            f"optimization.optimizer is {options.optimizer!r}, which timm cannot make here: {error}"
        ) from None
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=options.schedule,
            num_epochs=settings.epochs,
            warmup_epochs=options.warmup_epochs,  # type: ignore[arg-type]  # fractions work too
            warmup_lr=options.lr / 100,
            min_lr=options.min_lr,
            step_on_epochs=False,
            updates_per_epoch=max(steps, 1),
        )
        if scheduler is None:
            raise ValueError("constant is the schedule that stays")
        scheduler.step_update(0)
    except (AssertionError, ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"optimization.schedule is {options.schedule!r}, which timm cannot make for {settings.epochs} epochs: "
            f"{error}"
        ) from None
    return optimizer, scheduler
