"""The log of a run: one JSON object a line, and TensorBoard's files if the run asks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vars_dyn import _files
from vars_dyn.recording.provenance import command_line, now, versions

__all__ = ["Log", "read_log", "refuse_another"]


class Log:
    """Appends to `folder`/log.jsonl. The run goes on after `epoch`, so lines of later epochs are dropped first."""

    def __init__(self, folder: Path, epoch: int = 0, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        refuse_another(folder)
        kept = [line for line in read_log(folder) if line.get("epoch", 0) <= epoch]
        _files.write_bytes(self.path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())
        self._write({"event": "start", "epoch": epoch, "date": now(), "command": command_line(), **versions()})
        self.board = _board(folder, epoch) if tensorboard else None

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log the figures of an epoch."""
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


def refuse_another(folder: Path) -> None:
    """Raise ValueError if log.jsonl is not the log of a run, because its lines would be lost."""
    path = folder / "log.jsonl"
    lines = _lines(path)
    read = read_log(folder)
    if any("event" not in line for line in read) or len(lines) > len(read) + 1 or (lines and not read):
        raise ValueError(f"{path} is no log of a training run; another --out is wanted")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be read as a log ({error})") from None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without a last line that a kill has cut off."""
    lines = []
    for text in _lines(folder / "log.jsonl"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _board(folder: Path, epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # deferred: optional
    except ImportError:
        raise ModuleNotFoundError("tensorboard is true, but the package tensorboard is not installed") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)
