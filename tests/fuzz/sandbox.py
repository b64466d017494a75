"""What the targets share: a folder with foreign files in it, and the call of a command under a time limit."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Called", "Foreign", "called", "within"]


class Foreign:
    """Files and folders that no command made and none may touch, some with names that look like a command's own."""

    NAMES = (
        "thesis.txt",
        "holiday.png",
        "run.png.bak",
        ".run.zarr.backup.old",
        ".run.zarr.1.new/data.txt",
        ".run.1.png",
        "run-0001.zarr.old/notes.txt",
        "data/raw.npy",
        "folder/.hidden",
        "other.zarr/zarr.json",
        "x.partial",
    )

    def __init__(self, folder: Path, seed: int = 0) -> None:
        draw = random.Random(seed)
        self.folder = folder
        for name in self.NAMES:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw.randbytes(100))
        self._before = self._state()

    def _state(self) -> dict[str, str]:
        return {
            name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
            if (self.folder / name).is_file()
            else "gone"
            for name in self.NAMES
        }

    def touched(self) -> list[str]:
        """The names of the files that were changed, moved or removed since the last call."""
        now = self._state()
        found = [name for name in self.NAMES if now[name] != self._before[name]]
        self._before = now
        return found


@dataclass(frozen=True)
class Called:
    """How a call ended: its exit status (None if it raised or hung), what it printed, and its fault, if any."""

    status: int | None
    out: str
    err: str
    fault: str | None

    def faults(self, statuses: Sequence[int] = (0, 1, 2)) -> list[str]:
        """What is wrong: a traceback, a hang, another exit status, or an error that is not one line."""
        if self.fault is not None:
            return [self.fault]
        found = []
        if self.status not in statuses:
            found.append(f"exit status {self.status}")
        if "Traceback" in self.err:
            found.append("a traceback on standard error")
        errors = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        if self.status == 2 and (len(errors) != 1 or len(errors[0]) > 2000):
            found.append(f"{len(errors)} lines on standard error instead of one: {self.err[:200]!r}")
        if self.status == 2 and self.out:
            found.append(f"standard output with exit status 2: {self.out[:200]!r}")
        return found


#: By how much the limit of time on the clock exceeds that of processor time. A busy machine makes commands slow, but a
#: command that waits for ever takes no processor time.
WALL = 15.0


class _Hang(BaseException):
    """The time is up. This is no Exception, so that no command takes it for bad input."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise if the block takes more processor time, of all threads together, or `WALL` times as long on the clock.

    The error comes between two of Python's instructions, in the main thread.
    """

    def stop(number: int, _: object) -> None:
        used = f"{seconds:g} s of processor time" if number == signal.SIGPROF else f"{seconds * WALL:g} s on the clock"
        raise _Hang(used)

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, seconds * WALL))
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for (_, number, _), old in zip(timers, before, strict=True):
            signal.signal(number, old)


def called(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], folder: Path, seconds: float = 20.0
) -> Called:
    """Call a command's `main` in `folder`, in this process, and say how it ended; `seconds` is as for `within`."""
    out, err, fault, status = io.StringIO(), io.StringIO(), None, None
    here = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default")
            with within(seconds):
                status = main(list(arguments))
    except _Hang as error:
        last = traceback.extract_tb(error.__traceback__)[-2]  # the last entry is `stop` itself
        fault = f"no end after {error}, in {Path(last.filename).name}:{last.lineno}"
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as error:  # users would see a traceback of whatever leaves main
        last = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__}: {str(error)[:300]!r} from {Path(last.filename).name}:{last.lineno}"
    finally:
        os.chdir(here)
    return Called(status, out.getvalue(), err.getvalue(), fault)
