"""Where an ensemble's store is: a folder, or a URL that fsspec knows. Who may write to it is decided here too."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, LocalStore

from vars_dyn._files import StoreError, lock, write_bytes

__all__ = ["Place", "held_folder", "is_url", "tidied"]

#: A lease that was not renewed for this long belongs to a process that is gone. It is renewed three times as often.
_STALE = 60.0
#: How long a worker waits for a process that still holds the block, which may be one that is just being killed.
_PATIENCE = 120.0


def is_url(store: str | os.PathLike[str]) -> bool:
    """Whether a store is named by a URL, such as s3://bucket/sweep.zarr or memory://sweep.zarr."""
    return isinstance(store, str) and "://" in store


class _DurableStore(LocalStore):
    """A folder of zarr files. Each is on the disk before it gets its name, so that a loss of power leaves it whole."""

    async def set(self, key: str, value: Buffer) -> None:
        if not self._is_open:
            await self._open()
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, value.to_bytes())


@dataclass(frozen=True)
class Place:
    """Where the store of an ensemble is.

    Attributes:
        text: the folder's absolute path, or the URL.
        url: whether it is a URL.
    """

    text: str
    url: bool

    @classmethod
    def of(cls, store: str | os.PathLike[str]) -> Place:
        """The place that a user names; ValueError for a URL whose kind fsspec does not know."""
        if not is_url(store):
            return cls(str(Path(store).absolute()), False)
        text = str(store).rstrip("/")
        try:
            fsspec.core.url_to_fs(text)
        except (ImportError, ValueError) as error:
            raise ValueError(f"store is {text}, which cannot be opened: {' '.join(str(error).split())}") from None
        return cls(text, True)

    @property
    def path(self) -> Path:
        """The folder of a store that is no URL."""
        return Path(self.text)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.text.rpartition("/")[2]

    @property
    def folder(self) -> Path:
        """The folder of what members leave beside the store: tracebacks, and work in progress."""
        return self.path.with_name(f"{self.name}.members") if not self.url else Path(f"{self.name}.members").absolute()

    def store(self, *, read_only: bool = False) -> Store:
        """The store, as zarr takes it."""
        if not self.url:
            return LocalStore(self.path, read_only=True) if read_only else _DurableStore(self.path)
        return FsspecStore.from_url(self.text, read_only=read_only)

    def exists(self) -> bool:
        """Whether anything is in the place of a folder, or a zarr store at a URL."""
        if not self.url:
            return os.path.lexists(self.path)
        system, path = fsspec.core.url_to_fs(self.text)
        return bool(system.exists(f"{path}/zarr.json"))

    @contextmanager
    def claimed(self) -> Iterator[str]:
        """Let no other sweep write to the store meanwhile, and yield a token; StoreError if one does.

        A folder is locked by the operating system, which ends the lock with the process. An object store gets a lease
        that is renewed; one that is not renewed any more, or whose process is gone from this machine, is taken over.
        """
        token = secrets.token_hex(8)
        if not self.url:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                held = lock(self.folder)
            except (StoreError, FileNotFoundError):
                raise StoreError(f"{self.text} is being written by another sweep") from None
            try:
                yield token
            finally:
                tidied(self.folder)
                if held is not None:
                    os.close(held)
            return
        lease = _Lease(self.text, token)
        lease.take()
        ended = threading.Event()
        thread = threading.Thread(target=lease.keep, args=(ended,), daemon=True)
        thread.start()
        try:
            yield token
        finally:
            ended.set()
            thread.join()
            lease.drop()

    def is_ours(self, token: str) -> bool:
        """Whether the sweep with this token may still write. Another may have taken over an object store's lease."""
        return not self.url or _Lease(self.text, token).found().get("token") == token


class _Lease:
    """A small file beside a store of objects that says which sweep writes to it."""

    def __init__(self, url: str, token: str) -> None:
        self._system, path = fsspec.core.url_to_fs(url)
        self._path, self._url, self._token = f"{path}.lease", url, token

    def found(self) -> dict[str, Any]:
        try:
            self._system.invalidate_cache()
            note = json.loads(self._system.cat_file(self._path))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def take(self) -> None:
        note = self.found()
        if note and not _is_stale(note):
            raise StoreError(
                f"{self._url} is being written by another sweep, process {note.get('pid')} on {note.get('host')}"
            )
        self._write()
        time.sleep(0.05)  # of two that begin at once, the one that wrote last goes on
        if self.found().get("token") != self._token:
            raise StoreError(f"{self._url} is being written by another sweep, which began at the same moment")

    def keep(self, ended: threading.Event) -> None:
        while not ended.wait(_STALE / 3):
            with suppress(OSError):
                if self.found().get("token") != self._token:
                    return
                self._write()

    def drop(self) -> None:
        with suppress(OSError):
            if self.found().get("token") == self._token:
                self._system.rm_file(self._path)

    def _write(self) -> None:
        note = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "renewed": time.time()}
        self._system.pipe_file(self._path, json.dumps(note).encode())


def _is_stale(note: dict[str, Any]) -> bool:
    try:
        if float(note["renewed"]) < time.time() - _STALE:
            return True
        if note["host"] != socket.gethostname():
            return False
        os.kill(int(note["pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, ValueError):
        return True
    except OSError:
        return False
    return False


def tidied(folder: Path) -> None:
    """Remove the empty folders in a folder, and the folder itself if nothing is left in it."""
    with suppress(OSError):
        for each in [*folder.iterdir()] if folder.is_dir() else []:
            with suppress(OSError):
                each.rmdir()
        folder.rmdir()


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be, against other processes. It is removed afterwards if it is empty."""
    end = time.monotonic() + _PATIENCE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock(folder)
            break
        except (StoreError, FileNotFoundError):  # held, or just removed by the process that held it
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
        if held is not None:
            os.close(held)
