"""Connect to Dask: local worker processes, a scheduler that runs already, or a batch system through dask-jobqueue."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vars_dyn import _process, _yaml

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["connected", "jobqueue_cluster"]

#: The batch systems, by the names that dask-jobqueue's configuration has for them, and the classes of their clusters.
_SYSTEMS = {
    "htcondor": "HTCondorCluster",
    "lsf": "LSFCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "slurm": "SLURMCluster",
}
_INSTALL = "the extra `cluster` is wanted: pip install 'vars_dyn[cluster]'"
_CONNECT = "10s"
#: What the process imports that worker processes of this machine are forked from.
_IMPORTED = ("distributed", "vars_dyn.sweeping.members")


@contextmanager
def connected(workers: int, scheduler: Any, *, memory: int | None) -> Iterator[Client]:
    """A Dask client. What is started here is ended with it; ValueError if there is no such cluster.

    Args:
        workers: how many worker processes to start, locally or by the batch system.
        scheduler: an address such as tcp://host:8786, a YAML file of dask-jobqueue, a client or cluster; None: local.
        memory: bytes that each local worker may use before Dask ends it; None: no limit.
    """
    try:
        # deferred: distributed is the extra `cluster`
        import dask

        # deferred: distributed is the extra `cluster`
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError(f"Dask is not installed; {_INSTALL}") from None
    if isinstance(scheduler, Client):
        yield scheduler
        return
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": 0,  # the sweep itself counts, and marks members from then on
        "distributed.comm.timeouts.connect": _CONNECT,
        "distributed.admin.low-level-log-length": 100,  # the scheduler's memory stays flat
    }
    if scheduler is None:
        # Dask gives a worker up that is not there this long after one was lost, even if it is just being started again.
        settings["distributed.deploy.lost-worker-timeout"] = "1000 days"
        settings |= _forked()
    with dask.config.set(settings):
        if scheduler is None:
            _import_once()
            limit = "auto" if memory is None else memory
            cluster: Any = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=limit,
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
            )
        elif isinstance(scheduler, (str, Path)) and "://" not in str(scheduler):
            cluster = jobqueue_cluster(Path(scheduler))
            cluster.scale(workers or 1)
        else:
            cluster = scheduler
        try:
            client = Client(cluster, timeout=_CONNECT)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"scheduler is {scheduler}, where no Dask scheduler answers ({reason})") from None
        try:
            yield client
        finally:
            with suppress(Exception):  # whatever is left of a cluster that broke down
                client.close(timeout=5)
            if cluster is not scheduler:
                with suppress(Exception):
                    cluster.close(timeout=15)


def _forked() -> dict[str, str]:
    """The setting by which worker processes start without importing torch in each, which takes seconds.

    They are forked from one process that has imported everything, has used no GPU and runs no thread of torch.
    """
    return {"distributed.worker.multiprocessing-method": "forkserver"} if sys.platform == "linux" else {}


def _import_once() -> None:
    """Let that process import what workers need. Dask would have it import less, so this comes after Dask's list."""
    # deferred: distributed is the extra `cluster`
    from distributed.utils import get_mp_context

    context = get_mp_context()
    if context.get_start_method() == "forkserver":
        multiprocessing.get_context("forkserver").set_forkserver_preload([*_IMPORTED])


def jobqueue_cluster(file: Path) -> Any:
    """The cluster that a YAML file of dask-jobqueue describes: {jobqueue: {slurm: {cores: 8, memory: 32GB, ...}}}.

    Raises ValueError for a file that describes none or several, and for options that the batch system does not take.
    """
    try:
        # dask-jobqueue would end the process on SIGINT, without a word of how the sweep goes on.
        with _process.interrupts_kept():
            # deferred: dask-jobqueue is the extra `cluster`
            import dask_jobqueue
    except ImportError:
        raise ValueError(f"dask-jobqueue is not installed; {_INSTALL}") from None
    found = _yaml.load(file)
    systems = found.get("jobqueue", found)
    if not isinstance(systems, Mapping) or len(systems) != 1 or next(iter(systems)) not in _SYSTEMS:
        named = ", ".join(map(str, systems)) if isinstance(systems, Mapping) else str(systems)
        raise ValueError(f"{file} has {named or 'nothing'} for jobqueue; one of {', '.join(_SYSTEMS)} is wanted")
    name, options = next(iter(systems.items()))
    if not isinstance(options, Mapping) or not {"cores", "memory"} <= set(options):
        raise ValueError(f"{file} lacks cores or memory of {name}; both are wanted")
    given = {str(key).replace("-", "_"): value for key, value in options.items()}
    try:
        return getattr(dask_jobqueue, _SYSTEMS[name])(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} describes no cluster of {name}: {' '.join(str(error).split())}") from None
