"""How much memory and disk space is free, so that a task that cannot fit is refused before it begins."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["free_disk", "free_memory", "need_memory", "size"]


def free_memory() -> int | None:
    """Bytes that can be allocated without swapping, by the kernel and by the container's limit; None if unknown."""
    found = [each for each in (_meminfo(), _container()) if each is not None]
    if found:
        return min(found)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _container() -> int | None:
    """Bytes that the control group of this process leaves free (version 2, as containers mount it)."""
    try:
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        return max(0, int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError):  # where there is no limit the file reads "max"
        return None


def free_disk(path: Path) -> int | None:
    """Bytes that may be written below `path`, which need not exist yet; None if unknown."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def need_memory(needed: float, what: str, advice: str) -> None:
    """ValueError, with `advice`, where `what` needs more bytes of memory than are free."""
    free = free_memory()
    if free is not None and needed > free:
        raise ValueError(f"{what} needs about {size(needed)} of memory, and {size(free)} are free; {advice}")


def size(count: float) -> str:
    """A number of bytes, for people."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
