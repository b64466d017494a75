"""Files and folders that appear whole or not at all. What a killed process leaves is known, and only that is removed.

What is to appear at a place is first made in a workplace: a hidden folder beside it, named after it, that is locked by
the process that made it and holds a note of what it is for and whose it is. A workplace whose process is gone is
removed by the next one for the same place. Nothing else beside the place is touched.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

try:
    import fcntl
except ImportError:  # Windows has no flock; there two runs on one store are not told apart.
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "StoreError",
    "Workplace",
    "check_place",
    "explained",
    "is_our_picture",
    "lock",
    "open_new",
    "replacing",
    "replacing_folder",
    "sync",
    "tidy",
    "tidy_all",
    "write_bytes",
    "write_text",
]

_NOTE = ".vars_dyn.json"
#: A workplace's name is .NAME.TOKEN.part, where NAME is the place's.
_FORM = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.part", re.DOTALL)
_PATIENCE = 20.0  # seconds; others hold the lock of a folder for moments only


class StoreError(ValueError):
    """A store or file that cannot be made, opened, resumed or written; the message is one sentence."""


# Single files, in folders that are this process's own


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that at every moment it is whole, the old or the new, and on the disk when this returns.

    The folder must be the caller's own: what has the name of the unfinished file, path.partial, is removed.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(open_new(partial), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def open_new(path: Path) -> int:
    """A descriptor of a file that this call makes; never one that a link leads to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Files and folders among other people's


def write_text(path: Path, text: str) -> None:
    """Put a text file at `path`, whole or not at all."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file at, which takes the place of `path` where the block ends without an error."""
    with Workplace.begin(path) as work:
        file = work.folder / path.name
        yield file
        sync(file)
        file.replace(path)
        sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of the folder `path` where the block ends without an error.

    The caller answers for it that the folder to be replaced is his.
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
        """A workplace for `target`, after those that killed processes left for it are gone."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with _guarded(target.parent):
            _tidy(target)
            return cls._made(target)

    @classmethod
    def claim(cls, target: Path) -> Self | None:
        """A workplace for `target` where nothing is there, nor on the way there in another process; else None."""
        with _guarded(target.parent):
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
        """Where the folder is made that is to appear."""
        return self.folder / "new"

    @property
    def old(self) -> Path:
        """Where the folder goes that was in its place."""
        return self.folder / "old"

    def publish(self, permit: Callable[[], int | None]) -> None:
        """Move `new` to the target. What is there goes if `permit`, called last, raises nothing and gives a lock on it.

        Killed between its two renamings, this leaves the old folder in the workplace, from where `tidy` gives it back.
        """
        with _guarded(self.target.parent):
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
        """Remove the workplace with all that is left in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def tidy(target: Path) -> None:
    """Remove the workplaces that killed processes left for `target`; give back what one was about to replace."""
    if next(_workplaces(target), None) is not None:
        with _guarded(target.parent):
            _tidy(target)


def tidy_all(folder: Path, name: re.Pattern[str]) -> None:
    """`tidy` for every place in `folder` whose name matches."""
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
                    folder.rmdir()  # killed before it had noted anything: empty now, or not ours
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
            return  # something else took the place in between: neither is ours to remove
    shutil.rmtree(folder)


def _workplaces(target: Path) -> Iterator[Path]:
    """The folders of the exact form; links are none."""
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
    """Whether the process that wrote a note is known to have ended; on another machine that cannot be known."""
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
    """When a process was started, in the kernel's ticks: a number given again to another process is told apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


# Locks


def lock(folder: Path) -> int | None:
    """A lock on a folder that ends with the process; StoreError where another holds it. None where there are none."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, now = os.fstat(descriptor), folder.stat()
        if (found.st_dev, found.st_ino) != (now.st_dev, now.st_ino):
            raise BlockingIOError  # another took its place meanwhile
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise StoreError(f"{folder} is being written by another process") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Among processes of ours, only one at a time adds, moves or removes what is in `folder`."""
    if fcntl is None:
        yield
        return
    descriptor, end = os.open(folder, os.O_RDONLY), time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StoreError(f"{folder} has been locked by another process for {_PATIENCE:g} s") from None
                time.sleep(0.005)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


# Places


def check_place(name: str, path: Path, inputs: Iterator[Path] | list[Path] | tuple[Path, ...] = ()) -> None:
    """StoreError where nothing may be put at `path`: a link, inside a zarr store, or where an input is."""
    if path.is_symlink():
        raise StoreError(f"{name} is {path}, a symbolic link; the place itself is wanted")
    place = path.resolve()
    for above in place.parents:
        if any((above / file).is_file() for file in ("zarr.json", ".zgroup", ".zarray")):
            raise StoreError(f"{name} is {path}, inside the zarr store {above}; a place outside of stores is wanted")
    for file in inputs:
        source = file.resolve()
        if source == place or place in source.parents:
            raise StoreError(f"{name} is {path}, where the input {file} is; another place is wanted")


def is_our_picture(path: Path) -> bool:
    """Whether a picture carries the mark of a simulation: PNG's Software, or Creator in PDF and SVG."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        if path.suffix.lower() == ".png":
            with Image.open(path, formats=("PNG",)) as image:
                return str(image.info.get("Software", "")).startswith("vars_dyn")
        with path.open("rb") as file:
            start = file.read(1 << 16)
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            around = start + file.read()
        if path.suffix.lower() == ".pdf":
            return start.startswith(b"%PDF") and re.search(rb"/Creator \(vars_dyn ", around) is not None
        return re.search(rb"<dc:creator>\s*<cc:Agent>\s*<dc:title>vars_dyn ", around) is not None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; what was committed before stays whole"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"no permission to write to {error.filename or path.parent}"
        else:
            reason = error.strerror or str(error)
        raise StoreError(f"{path} cannot be written: {reason}") from error
