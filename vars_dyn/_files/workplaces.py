"""Make files and folders that appear whole or not at all, in folders that also hold other people's files.

A file or folder is first made in a workplace, a hidden folder beside its place and named after it. The process that
makes a workplace locks it, and writes a note into it that names the place and the process. If the process is killed,
the next workplace for the same place removes the one that was left. Nothing else beside the place is touched.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vars_dyn._files.locks import guarded, lock
from vars_dyn._files.places import StoreError
from vars_dyn._files.single import sync, write_bytes

__all__ = ["Workplace", "replacing", "replacing_folder", "tidy", "tidy_all", "write_text"]

_NOTE = ".vars_dyn.json"
#: The name of a workplace is .NAME.TOKEN.part, where NAME is the name of the place.
_FORM = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.part", re.DOTALL)


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to. The file takes the place of `path` if the block ends without an error."""
    with Workplace.begin(path) as work:
        file = work.folder / path.name
        yield file
        sync(file)
        file.replace(path)
        sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder, which takes the place of the folder `path` if the block ends without an error.

    The caller must make sure that the folder to be replaced is its own.
    """
    with Workplace.begin(path) as work:
        work.new.mkdir()
        yield work.new
        for folder, _, files in os.walk(work.new):
            for name in files:
                sync(Path(folder, name))
            sync(Path(folder))
        work.publish(lambda: None)


@dataclass
class Workplace:
    """A hidden folder beside `target`, held by this process until closed; use as a context manager."""

    target: Path
    folder: Path
    _lock: int | None

    @classmethod
    def begin(cls, target: Path) -> Self:
        """Make a workplace for `target`. Workplaces that killed processes left for it are removed first."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with guarded(target.parent):
            _tidy(target)
            return cls._made(target)

    @classmethod
    def claim(cls, target: Path) -> Self | None:
        """Make a workplace for `target`; None if `target` exists, or if another process is making it."""
        with guarded(target.parent):
            _tidy(target)
            if os.path.lexists(target) or next(_workplaces(target), None) is not None:
                return None
            return cls._made(target)

    @classmethod
    def _made(cls, target: Path) -> Self:
        folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
        folder.mkdir()
        try:
            held = lock(folder)
            write_bytes(folder / _NOTE, json.dumps({"target": target.name, **_self()}).encode())
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(target, folder, held)

    @property
    def new(self) -> Path:
        """The path at which the caller makes the new folder."""
        return self.folder / "new"

    @property
    def old(self) -> Path:
        """The path to which `publish` moves the folder that is replaced."""
        return self.folder / "old"

    def publish(self, permit: Callable[[], int | None]) -> None:
        """Move `new` to the target.

        If something is at the target, `permit` is called just before the move. It raises an error, or returns a lock on
        what is replaced. If the process is killed between the two renamings, the workplace holds the old folder, and
        `tidy` puts it back.
        """
        with guarded(self.target.parent):
            replaced = os.path.lexists(self.target)
            held = permit() if replaced else None
            try:
                if replaced:
                    self.target.rename(self.old)
                try:
                    self.new.rename(self.target)
                except OSError:
                    if replaced:
                        self.old.rename(self.target)
                    raise
            finally:
                if held is not None:
                    os.close(held)
            sync(self.target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the workplace and all that is left in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def tidy(target: Path) -> None:
    """Remove the workplaces that killed processes left for `target`, and put back a folder that one was replacing."""
    if next(_workplaces(target), None) is not None:
        with guarded(target.parent):
            _tidy(target)


def tidy_all(folder: Path, name: re.Pattern[str]) -> None:
    """Call `tidy` for every place in `folder` whose name matches."""
    try:
        found = [match["name"] for entry in os.scandir(folder) if (match := _FORM.fullmatch(entry.name))]
    except OSError:
        return
    for place in {place for place in found if name.fullmatch(place)}:
        tidy(folder / place)


def _tidy(target: Path) -> None:
    for folder in _workplaces(target):
        with suppress(OSError, StoreError):
            held = lock(folder)
            try:
                note = _note(folder)
                if note is None:
                    (folder / f"{_NOTE}.partial").unlink(missing_ok=True)
                    folder.rmdir()  # its process was killed before the note; a folder with files in it is not ours
                elif note.get("target") == target.name and (held is not None or _is_gone(note)):
                    _clear(target, folder)
            finally:
                if held is not None:
                    os.close(held)


def _clear(target: Path, folder: Path) -> None:
    if (folder / "old").exists():
        if not os.path.lexists(target):
            (folder / "old").rename(target)
        elif (folder / "new").exists():
            return  # someone else's folder has taken the place, so the old and the new may be the only copies
    shutil.rmtree(folder)


def _workplaces(target: Path) -> Iterator[Path]:
    """The workplaces for `target`. Symbolic links do not count."""
    try:
        entries = list(os.scandir(target.parent))
    except OSError:
        return
    for entry in entries:
        match = _FORM.fullmatch(entry.name)
        if match and match["name"] == target.name and entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def _note(folder: Path) -> dict[str, Any] | None:
    path = folder / _NOTE
    try:
        if path.is_symlink() or path.stat().st_size > 4096:
            return None
        note = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None


def _self() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_gone(note: dict[str, Any]) -> bool:
    """Whether the process that wrote a note is known to have ended. A process on another machine cannot be asked."""
    pid = note.get("pid")
    if os.name == "nt" or note.get("host") != socket.gethostname() or not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _started(pid) != note.get("started")


def _started(pid: int) -> str | None:
    """The start of a process in the kernel's ticks, which distinguishes processes that got the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
