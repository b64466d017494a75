"""The log of a run: one JSON object a line, and TensorBoard's files if asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vars_dyn.recording.provenance import command_line, now, versions

__all__ = ["Log", "read_log"]


class Log:
    """Appends to `folder`/log.jsonl; lines of epochs after `epoch`, from where the run goes on, are dropped first."""

    def __init__(self, folder: Path, epoch: int = 0, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        kept = [line for line in read_log(folder) if line.get("epoch", 0) <= epoch]
        fresh = self.path.with_suffix(".partial")
        fresh.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        fresh.replace(self.path)
        self._write({"event": "start", "epoch": epoch, "date": now(), "command": command_line(), **versions()})
        self.board = _board(folder, epoch) if tensorboard else None

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log what an epoch came to."""
        self._write({"event": "epoch", "epoch": epoch, "date": now(), **figures})
        print("  ".join([f"epoch {epoch}", *(f"{name} {value:.4g}" for name, value in figures.items())]), flush=True)
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self.board is not None:
            self.board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(f"{json.dumps(line)}\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a line cut off by a kill is left out."""
    path = folder / "log.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _board(folder: Path, epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModuleNotFoundError("tensorboard is true, but the package tensorboard is not installed") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)
