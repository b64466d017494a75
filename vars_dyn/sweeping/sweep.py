"""Sweep: run every member of a design, on one process or many, into one store."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from vars_dyn._checks import count
from vars_dyn._files import StoreError
from vars_dyn._resources import size
from vars_dyn.sweeping.commands import as_work
from vars_dyn.sweeping.designs import Design, as_design, plain_value
from vars_dyn.sweeping.executors import Executor, LostError, executor_for
from vars_dyn.sweeping.members import (
    Attempt,
    BlockTask,
    Finished,
    WorkingTerms,
    attempt,
    record,
    run_block,
    tidy_member,
    write_traceback,
)
from vars_dyn.sweeping.outputs import Outputs, outputs_of
from vars_dyn.sweeping.places import Place
from vars_dyn.sweeping.store import DONE, FAILED, WAITING, Block, EnsembleStore, create, open_sweep

__all__ = ["sweep", "unsaid"]

_LOG = logging.getLogger("vars_dyn.sweeping")
#: At least this many blocks, so that they spread evenly over workers; and at most so many members and bytes in one.
_BLOCKS, _MOST, _BYTES = 512, 256, 1 << 23
#: How many members are tried, one after another, until one shows what results look like.
_TRIALS = 16
#: How often the bar is brought up to date, in seconds.
_LOOK = 0.5


def sweep(
    command_or_function: Any,
    design: Design | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    store: str | os.PathLike[str],
    workers: int = 0,
    scheduler: Any = None,
    resume: bool = False,
    *,
    fixed: Mapping[str, Any] | None = None,
    ragged: Mapping[str, int | NDArray[np.generic]] | None = None,
    retries: int = 2,
    block: int | None = None,
    threads: int = 1,
    progress: bool | Callable[[int], object] | None = None,
) -> xr.Dataset:
    """Run every member of a design and gather the results in one zarr store.

    Whatever happens to the processes, the store is whole, and a member that it calls done has all its results. A member
    that fails is recorded, and the rest goes on. The results do not depend on how many processes computed them.

    Args:
        command_or_function: a function that takes the parameters as keywords and returns a number, an array, a tensor,
            a mapping of such, or an xarray dataset; or the name of a command, such as "simulate".
        design: a `Design`; names with lists of values, for a grid; or a list of members' parameters.
        store: folder of the store, or a URL that fsspec knows, such as s3://bucket/sweep.zarr.
        workers: how many worker processes to start on this machine; 0: this process does the work.
        scheduler: the address of a Dask scheduler, a Dask client or cluster, or a YAML file of dask-jobqueue, by which
            `workers` workers are started; None: none.
        resume: go on with the store. Members that are done are left, those that failed are tried again.
        fixed: parameters that all members share.
        ragged: the dimensions whose size differs between members, with the largest size, or all values along it.
        retries: how often a member is begun again after its process was killed or the system refused something
            (OSError, MemoryError). Other errors would come again.
        block: how many members share a chunk of the store; by default as many as make 512 blocks, and at most 256
            members or 8 MiB.
        threads: threads of the CPU for each member.
        progress: whether to show a bar; None: if standard error is a terminal. A function is called in this process,
            with the number of members that have ended, after each block; the bar is then as with None.

    Returns:
        The dataset, read lazily: see `vars_dyn.sweeping.open_sweep`.

    Raises:
        ValueError: for arguments that do not fit, and if none of the first members gives a result.
        StoreError: (a ValueError) if the store cannot be written, is being written, has another design, or exists and
            `resume` is False; and if the scheduler is gone. What was committed stays.

    Examples:
        >>> found = vd.sweep(lambda lam, seed: lam + seed, {"lam": [0.1, 0.2], "seed": [0, 1]}, "sweep.zarr")
        >>> dict(found.sizes)["member"]
        4
    """
    place, work = Place.of(store), as_work(command_or_function)
    members = as_design(design)
    shared = {name: plain_value(name, value) for name, value in (fixed or {}).items()}
    _check(place, workers, scheduler, retries, block, threads)
    for name in shared:
        if name in members.names:
            raise ValueError(f"{name} is fixed and in the design; one of them is wanted")
    work.check([*shared, *members.names])
    if place.exists() and not resume:
        raise StoreError(f"{place.text} exists; resume, or another store is wanted")
    with place.claimed() as token, executor_for(workers, scheduler) as executor:
        run = _Sweep(place, members, executor, WorkingTerms(work, shared, threads, retries, token))
        _LOG.info("%d members of %s on %s", len(members), work.name, executor.about)
        layout = run.resumed() if place.exists() else run.begun(ragged, block)
        run.finish(layout, progress)
    return open_sweep(place)


@contextmanager
def unsaid() -> Iterator[None]:
    """Keep failures of members from standard error. The caller reports them by its own means."""
    handler = logging.NullHandler()  # with a handler, Python does not print warnings by itself
    _LOG.addHandler(handler)
    try:
        yield
    finally:
        _LOG.removeHandler(handler)


def _check(place: Place, workers: int, scheduler: Any, retries: int, block: int | None, threads: int) -> None:
    count("workers", workers, least=0)
    count("retries", retries, least=0)
    count("threads", threads)
    if block is not None:
        count("block", block)
    if place.text.startswith("memory:") and (workers or scheduler is not None):
        raise ValueError(f"store is {place.text}, which other processes cannot see; a folder or another URL is wanted")


@dataclass(frozen=True)
class _Sweep:
    place: Place
    design: Design
    executor: Executor
    terms: WorkingTerms

    def begun(self, ragged: Mapping[str, Any] | None, block: int | None) -> EnsembleStore:
        """Lay out the store for results like those of the first member that gives any, unless the work knows them."""
        shared, like = self.terms.fixed, self.terms.work.like()
        known = ragged or self.terms.work.ragged([{**shared, **self.design.at(i)} for i in range(len(self.design))])
        if like is not None:
            return self._laid_out(outputs_of(like, known), block)
        tried: dict[int, Attempt] = {}
        for member in _spread(len(self.design)):
            found = tried[member] = self._trial(member)
            if found.result is None:
                write_traceback(self.place, member, {**shared, **self.design.at(member)}, found.traceback)
                continue
            layout = self._laid_out(outputs_of(found.result, known), block)
            for number, each in tried.items():
                self._keep(layout, number, each)
            return layout
        first = next(iter(tried.values()))
        raise ValueError(
            f"none of {len(tried)} members that were tried gave a result; the first said: {first.error} "
            f"(the tracebacks are in {self.place.folder})"
        )

    def _laid_out(self, outputs: Outputs, block: int | None) -> EnsembleStore:
        length = block or _block_of(len(self.design), outputs.nbytes)
        layout = create(self.place, self.design, outputs, length, self._identity())
        _LOG.info("blocks of %d members; a worker holds %s of results", length, size(length * outputs.nbytes))
        return layout

    def _trial(self, member: int) -> Attempt:
        """Run one member, wherever members are run."""
        folder = self.place.folder / f"member-{member:06d}"
        said = ""
        for _ in range(self.terms.retries + 1):
            self.executor.submit(member, attempt, self.terms, self.design.at(member), folder)
            while (ended := self.executor.next(_LOOK)) is None:
                pass
            try:
                found: Attempt = ended[1]()
            except LostError as error:
                said = f"its process ended before the member was done ({error})"
                continue
            if found.result is not None or not found.again:
                return found
            said = found.error
        return Attempt(None, said, said, False, float("nan"))

    def _keep(self, layout: EnsembleStore, member: int, tried: Attempt) -> None:
        block = Block(layout, member // layout.block)
        block["attempts"][member - block.first] += 1
        record(block, self.terms, member, self.design.at(member), tried)
        if tried.result is not None:
            block.put(member, {**layout.outputs.padded(tried.result), "status": DONE})
        block.commit()
        if tried.result is not None:
            tidy_member(self.place.folder / f"member-{member:06d}", self.terms.work)

    def _identity(self) -> dict[str, Any]:
        return {
            "work": self.terms.work.name,
            "fixed": dict(self.terms.fixed),
            "threads": self.terms.threads,
            "design": type(self.design).__name__,
            "parameters": list(self.design.names),
            "design_sha256": self.design.digest(),
        }

    def resumed(self) -> EnsembleStore:
        """Open the store. Members that failed wait again; StoreError if it is the store of another sweep."""
        layout = EnsembleStore.open(self.place)
        for name, value in self._identity().items():
            if layout.facts.get(name) != value:
                raise StoreError(
                    f"{self.place.text} cannot be resumed with another {name.replace('_sha256', '')}: "
                    f"it has {layout.facts.get(name)}, this sweep has {value}"
                )
        failed = np.flatnonzero(layout.books("status") == FAILED)
        for number, own in itertools.groupby(failed.tolist(), lambda member: member // layout.block):
            block = Block(layout, number)
            for member in own:
                block.put(member, {"status": WAITING, "error": ""})
            block.commit()
        return layout

    def finish(self, layout: EnsembleStore, progress: bool | Callable[[int], object] | None) -> None:
        """Run what the store does not call done or failed, until nothing is left."""
        states, attempts = layout.books("status"), layout.books("attempts")
        before = Counter(states.tolist())
        with tqdm(
            total=len(states),
            initial=before[DONE] + before[FAILED],
            unit=" members",
            disable=not progress if isinstance(progress, bool) else None,
        ) as bar:
            failed, ended = before[FAILED], before[DONE] + before[FAILED]
            for _ in range(self.terms.retries + 1):
                # A worker that was cut off, and came back, may have written an older state of its block.
                for found in self._pass(layout, states, attempts, bar):
                    failed, ended = failed + found.failed, ended + found.done + found.failed
                    bar.update(found.done + found.failed)
                    bar.set_postfix_str(f"{failed} failed, {self.executor.waiting} blocks running or queued")
                    for error in found.errors:
                        _LOG.warning("%s", error)
                    if callable(progress):
                        progress(ended)
                states = layout.books("status")
                if not (states == WAITING).any():
                    return
        raise StoreError(f"{self.place.text}: {int((states == WAITING).sum())} members were not done; resume it")

    def _pass(
        self, layout: EnsembleStore, states: NDArray[Any], attempts: NDArray[Any], bar: Any
    ) -> Iterator[Finished]:
        fresh, again = self._tasks(layout, states, attempts), deque[BlockTask]()
        losses: Counter[int] = Counter()
        while True:
            while self.executor.waiting < self.executor.parallel:
                task = again.popleft() if again else next(fresh, None)
                if task is None:
                    break
                self.executor.submit(task, run_block, layout, self.terms, task)
            if not self.executor.waiting:
                return
            ended = self.executor.next(_LOOK)
            if ended is None:
                bar.refresh()
                continue
            task, result = ended
            try:
                yield result()
            except LostError:
                losses[task.block] += 1
                # Every loss but the first is of a member that was marked, and each may be lost `retries` + 1 times.
                if losses[task.block] > (self.terms.retries + 1) * len(task.members) + 5:
                    raise StoreError(
                        f"{self.place.text}: the processes that ran block {task.block} ended {losses[task.block]} times"
                    ) from None
                again.append(replace(task, careful=True))

    def _tasks(self, layout: EnsembleStore, states: NDArray[Any], attempts: NDArray[Any]) -> Iterator[BlockTask]:
        for number in range(-(-layout.members // layout.block)):
            first, end = layout.bounds(number)
            left = [member for member in range(first, end) if states[member] == WAITING]
            if left:
                allowed = {member: int(attempts[member]) + self.terms.retries + 1 for member in left}
                yield BlockTask(number, [(member, self.design.at(member)) for member in left], allowed)


def _block_of(members: int, nbytes: int) -> int:
    """How many members share a chunk."""
    return max(1, min(-(-members // _BLOCKS), _MOST, _BYTES // max(1, nbytes)))


def _spread(members: int) -> list[int]:
    """Members to try first: the first, the last, the middle, and so on, since bad values often stand together."""
    shares = [0.0, 1.0] + [(2 * k + 1) / 2**level for level in range(1, 6) for k in range(2 ** (level - 1))]
    return list(dict.fromkeys(round(share * (members - 1)) for share in shares))[:_TRIALS]
