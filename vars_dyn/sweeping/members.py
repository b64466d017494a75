"""Running members: what a worker process does with one block, and what it tells of it."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import shutil
import socket
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from vars_dyn._files import StoreError, write_bytes
from vars_dyn.recording.provenance import now, versions
from vars_dyn.sweeping.outputs import as_dataset
from vars_dyn.sweeping.places import Place, held_folder
from vars_dyn.sweeping.store import DONE, FAILED, WAITING, Block, EnsembleStore

__all__ = [
    "Attempt",
    "BlockTask",
    "Called",
    "Finished",
    "Work",
    "WorkingTerms",
    "attempt",
    "record",
    "run_block",
    "tidy_member",
    "write_traceback",
]

#: A commit is made if the last one is this many seconds ago, so that tiny members share one.
_SOON = 1.0
#: The longest error message that the store keeps. The traceback's file has all of it.
_LONGEST = 1000


class Work(ABC):
    """What the members of an ensemble do."""

    #: What the store's records call it.
    name: str
    #: Whether the folder of a member stays when it is done.
    keep: bool = False

    @abstractmethod
    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError if parameters of these names are not taken."""

    def ragged(self, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The dimensions of results whose size differs between members with these parameters: see `sweep`."""
        return {}

    def like(self) -> xr.Dataset | None:
        """What a member's results look like, if that is known beforehand; None: some members are run to find out."""
        return None

    @abstractmethod
    def run(self, parameters: Mapping[str, Any], folder: Path) -> Any:
        """Carry out a member. `folder` is its own, need not exist, and is there again if the member was interrupted."""


@dataclass(frozen=True)
class Called(Work):
    """A function that is called with the parameters as keywords."""

    function: Callable[..., Any]

    @property
    def name(self) -> str:  # type: ignore[override]  # a property where the base class has a plain attribute
        """The function's module and name."""
        own = self.function
        return f"{getattr(own, '__module__', '?')}.{getattr(own, '__qualname__', type(own).__name__)}"

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError if the function does not take keywords of these names, or wants more."""
        try:
            taken = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):
            return
        known = [each.name for each in taken if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if not any(each.kind is each.VAR_KEYWORD for each in taken):
            for name in names:
                if name not in known:
                    raise ValueError(f"{self.name} takes no {name}; of {', '.join(known) or 'nothing'} is wanted")

    def run(self, parameters: Mapping[str, Any], folder: Path) -> Any:
        """Call the function."""
        return self.function(**parameters)


@dataclass(frozen=True)
class WorkingTerms:
    """How members are run.

    Attributes:
        work: what they do.
        fixed: the parameters that all members share.
        threads: threads of the CPU for each member, in whatever process it runs.
        retries: how often a member is begun again after its process ended or the system refused something.
        token: the sweep, as the store's place knows it.
    """

    work: Work
    fixed: Mapping[str, Any]
    threads: int
    retries: int
    token: str


@dataclass(frozen=True)
class BlockTask:
    """The members of one block that are still to be run.

    Attributes:
        block: the number of the block.
        members: their numbers and parameters.
        allowed: how often each may have been begun in all.
        careful: mark each member before it is begun, because a process ended while it ran this block.
    """

    block: int
    members: Sequence[tuple[int, Mapping[str, Any]]]
    allowed: Mapping[int, int]
    careful: bool = False


@dataclass
class Finished:
    """What became of a block: the numbers of members that are done and failed, and the first failure's message."""

    done: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Attempt:
    """One run of a member: its results, or its error with the traceback, and how long it took."""

    result: xr.Dataset | None
    error: str
    traceback: str
    again: bool
    seconds: float


def attempt(terms: WorkingTerms, parameters: Mapping[str, Any], folder: Path) -> Attempt:
    """Run a member once. Errors become a value, except those of a full disk, which raise StoreError."""
    began = time.perf_counter()
    try:
        with _threads(terms.threads):
            result = as_dataset(terms.work.run({**terms.fixed, **parameters}, folder)).load()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{folder}: the disk is full; what was committed before stays whole") from error
        said = " ".join(str(error).split())
        message = f"{type(error).__name__}: {said}" if said else type(error).__name__
        again = isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError))
        return Attempt(None, message[:_LONGEST], traceback.format_exc(), again, time.perf_counter() - began)
    return Attempt(result, "", "", False, time.perf_counter() - began)


def run_block(store: EnsembleStore, terms: WorkingTerms, task: BlockTask) -> Finished:
    """Run the members of a block, and commit each. Members that the store calls done are left as they are."""
    found = Finished()
    with held_folder(store.place.folder / f"block-{task.block:06d}"):
        block = Block(store, task.block)
        book = _Book(store.place, terms, block)
        try:
            for member, parameters in task.members:
                at = member - block.first
                while block["status"][at] == WAITING:
                    if block["attempts"][at] >= task.allowed[member]:
                        _ended(block, terms, member, parameters)
                        book.unsaved = True
                        break
                    block["attempts"][at] += 1
                    book.save(mark=True, now=task.careful)
                    last = bool(block["attempts"][at] >= task.allowed[member])
                    _once(store, block, terms, member, parameters, last=last)
                    book.unsaved = True
                if block["status"][at] == DONE:
                    found.done += 1
                    book.done.append(member)
                else:
                    found.failed += 1
                    found.errors = found.errors or [f"member {member}: {block['error'][at]}"]
                book.save(now=task.careful)
        finally:
            if book.unsaved:
                book.save(now=True)
    return found


@dataclass
class _Book:
    """When a block is committed: at once if asked for, and else if the last commit was a while ago."""

    place: Place
    terms: WorkingTerms
    block: Block
    unsaved: bool = False
    done: list[int] = field(default_factory=list)
    saved: float = field(default_factory=time.monotonic)

    def save(self, *, now: bool, mark: bool = False) -> None:
        """Commit. A mark before a member is begun writes no more than that if there is no more."""
        if not now and time.monotonic() - self.saved < _SOON:
            return
        if not self.place.is_ours(self.terms.token):
            raise StoreError(f"{self.place.text} is being written by another sweep, which took it over")
        self.block.commit(results=self.unsaved or not mark)
        self.saved, self.unsaved = time.monotonic(), False
        # Only now: a process that is killed meanwhile must not leave half of what a member would go on from.
        while self.done:
            tidy_member(self.place.folder / f"member-{self.done.pop():06d}", self.terms.work)


def _once(
    store: EnsembleStore, block: Block, terms: WorkingTerms, member: int, parameters: Mapping[str, Any], *, last: bool
) -> None:
    """Run a member once, and put what came of it into the block."""
    folder = store.place.folder / f"member-{member:06d}"
    tried = attempt(terms, parameters, folder)
    if tried.result is not None:
        try:
            values = store.outputs.padded(tried.result)
        except ValueError as error:
            tried = Attempt(None, f"ValueError: {error}", traceback.format_exc(), False, tried.seconds)
    if tried.result is not None:
        record(block, terms, member, parameters, tried)
        block.put(member, {**values, "status": DONE})
    elif last or not tried.again:
        record(block, terms, member, parameters, tried)


def record(block: Block, terms: WorkingTerms, member: int, parameters: Mapping[str, Any], tried: Attempt) -> None:
    """Put what is known of a member's last run into its block; a failure leaves its traceback in a file, too."""
    given = {**terms.fixed, **parameters}
    origin = {
        "command": terms.work.name,
        "parameters": given,
        "date": now(),
        "host": socket.gethostname(),
        "torch_threads": terms.threads,
        **_versions(),
    }
    books: dict[str, Any] = {"member_seconds": tried.seconds, "error": tried.error, "provenance": json.dumps(origin)}
    if tried.result is None:
        books["status"] = FAILED
        write_traceback(block.place, member, given, tried.traceback)
    block.put(member, books)


def _ended(block: Block, terms: WorkingTerms, member: int, parameters: Mapping[str, Any]) -> None:
    count = int(block["attempts"][member - block.first])
    said = f"its process ended {count} times before the member was done"
    record(block, terms, member, parameters, Attempt(None, said, said, False, math.nan))


def write_traceback(place: Place, member: int, parameters: Mapping[str, Any], text: str) -> None:
    """Write the file that says why a member failed: its parameters and the traceback."""
    file = place.folder / f"member-{member:06d}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, f"member {member}\n{json.dumps(dict(parameters), indent=1)}\n\n{text}".encode())


def tidy_member(folder: Path, work: Work) -> None:
    """Remove what a member that is done has left: its folder, and the traceback of an earlier sweep."""
    folder.with_name(f"{folder.name}.txt").unlink(missing_ok=True)
    if not work.keep:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@cache
def _versions() -> dict[str, str]:
    return {**versions(), "pid": str(os.getpid())}
