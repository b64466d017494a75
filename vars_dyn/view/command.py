"""The command: arguments to a served page, or to a file."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vars_dyn import _process
from vars_dyn._command import CommandParser
from vars_dyn._files import StoreError, check_place, replacing
from vars_dyn.recording import open_dataset
from vars_dyn.view.panels import Panels
from vars_dyn.view.reading import Recorded

__all__ = ["ViewOptions", "main"]


@dataclass(frozen=True)
class ViewOptions:
    """How the run is shown; `--help` says what each option is."""

    store: str
    html: str | None
    max_mb: float
    signals: list[int] | None
    port: int
    browser: bool
    overwrite: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done or interrupted, 2 bad input, 143 terminated."""
    return _process.run_command(_run, list(sys.argv[1:] if arguments is None else arguments), interrupted=0)


def _run(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="python -m vars_dyn.view",
        description="Show a recorded run in the browser: stimulus, reconstruction, code and atoms under a time slider, "
        "and the curves of potentials and certificates. The page is served to this machine only, until Ctrl+C; or "
        "--html writes it to a file.",
    )
    parser.add_argument("store", type=str, metavar="STORE", help="the store of a run, such as run-0001.zarr")
    parser.add_argument("--html", type=str, metavar="FILE", help="write the page to a file, which needs no network and "
                        "no Python, and end")  # fmt: skip
    parser.add_argument("--max-mb", type=float, default=20.0, metavar="NUMBER", help="with --html: the most megabytes. "
                        "Of a larger run the file holds fewer recorded times and signals")  # fmt: skip
    parser.add_argument("--signals", type=int, nargs="+", metavar="SIGNAL", help="with --html: the signals in the "
                        "file, by number (default: the first ones)")  # fmt: skip
    parser.add_argument("--port", type=int, default=0, help="the port to serve at, on this machine only; 0: a free one")
    parser.add_argument("--browser", action="store_true", help="open the page in the default browser")
    parser.add_argument("--overwrite", action="store_true", help="with --html: replace a page that this command wrote")
    options = ViewOptions(**vars(parser.parse_args(words)))
    store = Path(options.store)
    dataset = open_dataset(store)
    _need_bokeh()
    if options.html is not None:
        from vars_dyn.view.page import page_of  # deferred: bokeh, of the extra view

        run, file = Recorded(dataset), Path(options.html)
        _check_file(file, store, options)
        for signal in options.signals or []:
            if not 0 <= signal < run.signals:
                raise ValueError(f"--signals holds {signal}; numbers from 0 to {run.signals - 1} are wanted")
        page = page_of(Panels(run, pixels=160), f"{store.name}", options.max_mb * 1e6, options.signals)
        with replacing(file) as partial:
            partial.write_text(page.text, encoding="utf-8")
        size = file.stat().st_size / 1e6
        _process.tell(
            f"{file}: {size:.1f} MB, with {page.times} of {len(run.times)} recorded times and {len(page.signals)} of "
            f"{run.signals} signals"
        )
        return 0
    for name in ("signals", "overwrite"):
        if getattr(options, name):
            raise ValueError(f"--{name} does nothing without --html; leave it out")
    from vars_dyn.view.server import serve  # deferred: bokeh, of the extra view

    Recorded(dataset)  # refuses what is no trajectory before a page is served

    def begun(address: str) -> None:
        _process.tell(f"{store} is at {address} (Ctrl+C ends)")
        if options.browser:
            webbrowser.open(address)

    serve(store, options.port, begun)
    return 0


def _need_bokeh() -> None:
    try:
        import bokeh  # noqa: F401  # deferred: of the extra view
    except ImportError:
        raise ValueError('bokeh is not installed; pip install "vars_dyn[view]" gets it') from None


def _check_file(file: Path, store: Path, options: ViewOptions) -> None:
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html is {file}; a name ending in .html is wanted")
    if options.max_mb <= 0:
        raise ValueError(f"--max-mb is {options.max_mb:g}; a number above zero is wanted")
    check_place("--html", file, [store])
    if not os.path.lexists(file):
        return
    if not file.is_file() or '<meta name="generator" content="vars_dyn ' not in _start(file):
        raise StoreError(f"--html {file} exists and is no page of this command; another name is wanted")
    if not options.overwrite:
        raise StoreError(f"--html {file} exists; choose another name, or --overwrite it")


def _start(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(1 << 16).decode("utf-8", "replace")
