"""Processes on this machine that learn together: started by the command, and joined to a group."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented there, and not marked as exported

__all__ = ["company"]

#: Seconds that the others have to end after the first process has.
_PATIENCE = 10.0


@contextmanager
def company(count: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Start `count` - 1 processes that call `work(*arguments)`, and be the first of the group while the block lasts.

    They share the threads that this process has, at least one for each. They end with it, however it ends. ValueError
    if one of them ends early.
    """
    if count == 1:
        yield
        return
    threads = torch.get_num_threads()
    each = max(1, threads // count)
    # The others wait for each other at this store; it listens on a free port of this machine alone.
    store = TCPStore("127.0.0.1", 0, count, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_other, args=(rank, count, store.port, each, work, arguments), daemon=True)
        for rank in range(1, count)
    ]
    try:
        for other in others:
            other.start()
        torch.set_num_threads(each)
        dist.init_process_group("gloo", store=store, rank=0, world_size=count)
        yield
        for other in others:
            other.join(_PATIENCE)
    except RuntimeError as error:
        gone = [other.pid for other in others if other.exitcode is not None]
        if not gone:
            raise
        raise ValueError(f"process {gone[0]} of the {count} that learn together has ended: {error}") from error
    finally:
        torch.set_num_threads(threads)
        if dist.is_initialized():
            dist.destroy_process_group()
        for other in others:
            if other.is_alive():
                other.terminate()


def _other(
    rank: int, count: int, port: int, threads: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """What another process does. The first one reports errors, so this one ends without a word."""
    torch.set_num_threads(threads)
    try:
        store = TCPStore("127.0.0.1", port, count, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
        work(*arguments)
    except (Exception, KeyboardInterrupt):
        os._exit(1)  # no waiting for a group that may be gone
    with suppress(RuntimeError):
        dist.destroy_process_group()
