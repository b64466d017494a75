"""The process of a command: its standard streams, and the signals that end it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

__all__ = ["Terminated", "flushed", "interrupts_kept", "run_command", "say", "streams", "tell", "terminable"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


@contextmanager
def streams() -> Iterator[None]:
    """Open closed standard streams on /dev/null.

    Otherwise the next file that is opened gets the number of the closed stream, and libraries print into that file.
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
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115  # stays open until the process ends
    try:
        yield
    finally:
        flushed()
        sys.stdout, sys.stderr = before


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, so that the command can print how to continue."""

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


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Put the handler of SIGINT back, for imports of libraries that set one of their own."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def say(message: object) -> None:
    """Print one line on standard error; do nothing if the stream is closed."""
    line = " ".join(str(message).split())
    with suppress(OSError, ValueError):
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Print the result on standard output. A closed pipe is no error; a full disk raises OSError."""
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
    """Flush the streams. What cannot be written is dropped, or the interpreter would print a traceback at exit."""
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


def run_command(run: Callable[[Sequence[str]], int], words: Sequence[str], interrupted: int = 130) -> int:
    """The exit status of a command: what `run` returns, 2 after bad input, `interrupted`, or 143 if terminated."""
    with streams(), terminable():
        try:
            return run(words)
        except SystemExit as stop:  # --help
            return int(stop.code or 0)
        except (ArgumentError, ValueError, OSError, MemoryError) as error:
            say(f"error: {error}" if str(error) else f"error: {type(error).__name__}")
            return 2
        except KeyboardInterrupt as stop:
            return 143 if isinstance(stop, Terminated) else interrupted
