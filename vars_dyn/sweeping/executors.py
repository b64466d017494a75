"""Where blocks are run: in this process, or by the workers of a Dask cluster."""

from __future__ import annotations

import itertools
import logging
import queue
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vars_dyn._files import StoreError
from vars_dyn._resources import free_memory
from vars_dyn.sweeping.clusters import connected

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Executor", "Here", "LostError", "executor_for"]

_LOG = logging.getLogger("vars_dyn.sweeping")
#: How many blocks wait at the scheduler for each one that runs. The client holds no more of them than these.
_AHEAD = 2
#: How long the client waits for a scheduler that does not answer.
_SILENCE = 60.0
#: After how many seconds without a worker the client says so. A batch system may take hours to start one.
_ALONE = 10.0
#: After how many seconds without a worker of this machine something must be wrong.
_LOST = 300.0


class LostError(Exception):
    """The process that ran a task is gone, and the task may be given to another."""


class Executor(ABC):
    """Runs calls, one after another or many at a time, and hands back what they give in the order in which they end."""

    #: How many calls can run at a time.
    parallel: int = 1
    #: What a user may want to know about it.
    about: str = "this process"

    @abstractmethod
    def submit(self, label: Any, call: Callable[..., Any], *arguments: Any) -> None:
        """Queue a call under a label."""

    @abstractmethod
    def next(self, wait: float) -> tuple[Any, Callable[[], Any]] | None:
        """The label of a call that has ended and a function that gives its result, or raises; None after `wait` s.

        That function raises `LostError` if the process of the call is gone.
        """

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many calls were submitted and have not come back."""


class Here(Executor):
    """This process runs the calls, each when its result is asked for."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Any, Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, label: Any, call: Callable[..., Any], *arguments: Any) -> None:
        """Queue a call."""
        self._calls.append((label, call, arguments))

    def next(self, wait: float) -> tuple[Any, Callable[[], Any]] | None:
        """Run the first call that waits."""
        label, call, arguments = self._calls.popleft()
        return label, lambda: call(*arguments)

    @property
    def waiting(self) -> int:
        """How many calls were submitted and have not come back."""
        return len(self._calls)


class Dask(Executor):
    """The workers of a Dask cluster run the calls."""

    def __init__(self, client: Client, *, local: bool = False) -> None:
        self._client, self._local = client, local
        self._ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._labels: dict[Any, tuple[Any, Future[Any]]] = {}
        self._numbers = itertools.count()
        self._prefix = f"sweep-{time.time_ns():x}"
        self._silent: float | None = None
        self._alone: float | None = None
        self._said = False
        self.parallel = _AHEAD * max(1, self._threads())
        address = client.dashboard_link
        self.about = f"the Dask cluster at {client.scheduler_info()['address']}, dashboard {address}"

    def _threads(self) -> int:
        return sum(int(each["nthreads"]) for each in self._client.scheduler_info(n_workers=-1)["workers"].values())

    def submit(self, label: Any, call: Callable[..., Any], *arguments: Any) -> None:
        """Send a call to the scheduler."""
        key = f"{self._prefix}-{next(self._numbers)}"
        future = self._client.submit(call, *arguments, key=key, pure=False, retries=0)
        self._labels[future.key] = label, future
        future.add_done_callback(self._ended.put)

    def next(self, wait: float) -> tuple[Any, Callable[[], Any]] | None:
        """Wait for a call to end; StoreError if the scheduler is gone."""
        try:
            future = self._ended.get(timeout=wait)
        except queue.Empty:
            self._check()
            if self._client.status == "running":
                threads = self._threads()
                self._say_if_alone(threads)
                self.parallel = max(self.parallel, _AHEAD * threads)
            return None
        label, _ = self._labels.pop(future.key)
        return label, lambda: self._result(future)

    def _say_if_alone(self, threads: int) -> None:
        """Say that there is no worker; StoreError if one of this machine should have started long ago."""
        if threads:
            self._alone, self._said = None, False
            return
        self._alone = self._alone or time.monotonic()
        waited = time.monotonic() - self._alone
        if waited > _ALONE and not self._said:
            _LOG.warning("the cluster has no worker; the sweep waits for one")
            self._said = True
        if self._local and waited > _LOST:
            raise StoreError("no worker process could be started; what was committed is whole, and can be resumed")

    def _result(self, future: Future[Any]) -> Any:
        # deferred: distributed is the extra `cluster`
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError  # deferred: distributed is the extra `cluster`

        if future.status == "finished":
            try:
                return future.result()
            except (KilledWorker, FutureCancelledError) as gone:
                # The process ended between the end of the task and this. What the task committed is in the store.
                raise LostError(str(gone)) from None
        if self._client.status != "running":
            self._check(now=True)
        if future.status in ("cancelled", "lost"):
            raise LostError("the cluster lost the task")
        error = future.exception()
        if isinstance(error, KilledWorker):
            raise LostError(str(error))
        raise error

    def _check(self, *, now: bool = False) -> None:
        """StoreError if the scheduler has been gone for a while, or is gone for good."""
        if self._client.status == "running":
            self._silent = None
            return
        self._silent = self._silent or time.monotonic()
        if now or self._client.status == "closed" or time.monotonic() - self._silent > _SILENCE:
            raise StoreError("the Dask scheduler is gone; what was committed is whole, and --resume goes on from there")

    @property
    def waiting(self) -> int:
        """How many calls were submitted and have not come back."""
        return len(self._labels)


@contextmanager
def executor_for(workers: int, scheduler: Any) -> Iterator[Executor]:
    """The executor that a user asked for.

    Args:
        workers: how many local processes; 0: this one. With a cluster of dask-jobqueue, how many workers it starts.
        scheduler: the address of a Dask scheduler, a YAML file of dask-jobqueue, a Dask client or cluster, or None.
    """
    if workers == 0 and scheduler is None:
        yield Here()
        return
    with connected(workers, scheduler, memory=_share(workers)) as client:
        yield Dask(client, local=scheduler is None)


def _share(workers: int) -> int | None:
    """Bytes of memory for each of several local workers: their share of nine tenths of what is free."""
    free = free_memory()
    return None if free is None or workers == 0 else int(0.9 * free / workers)
