"""The process around a run: its standard streams, its signals, and the command that goes on with it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

__all__ = ["Terminated", "flushed", "resuming", "say", "streams", "tell", "terminable"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


@contextmanager
def streams() -> Iterator[None]:
    """Standard streams that can be written to: a closed one is as good as /dev/null.

    Else the next file that is opened takes its number, and gets what libraries write to it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115  # lives on with the process
    try:
        yield
    finally:
        flushed()
        sys.stdout, sys.stderr = before


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM as an exception, so that it can be said how to go on."""

    def stop(*_: Any) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def say(message: object) -> None:
    """One line on standard error; where nobody can be told, nothing."""
    line = " ".join(str(message).split())
    with suppress(OSError, ValueError):
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """The result on standard output. A reader that has gone is no error; OSError for a disk that is full."""
    try:
        print(text, flush=True)
    except UnicodeEncodeError:
        print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except BrokenPipeError:
        _closed(sys.stdout)
    except OSError:
        _closed(sys.stdout)
        raise


def flushed() -> None:
    """Write out what is left in the streams, so that the interpreter's own last attempt has nothing to fail at."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            _closed(stream)


def _closed(stream: TextIO) -> None:
    with suppress(OSError, ValueError, AttributeError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)


def resuming(store: Path | None, arguments: Sequence[str], extra: Sequence[str]) -> str:
    """The command, quoted for a shell, that goes on with `store`; or the same one anew where nothing was stored."""
    command = [sys.executable, "-m", "vars_dyn.simulate"]
    if store is None:
        return shlex.join([*command, *arguments])
    return shlex.join([*command, "--resume", "--out", str(store), *extra])
