"""The command: from arguments to a store, a figure, a table and an exit status."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image
from tqdm import tqdm

import vars_dyn
from vars_dyn.integrate import IntegrationError
from vars_dyn.plotting import summary
from vars_dyn.recording import Progress, StoreError, is_store, record
from vars_dyn.recording.store import read_attributes
from vars_dyn.simulate import report
from vars_dyn.simulate.build import dictionary_of, field_of, integration_of, threads_of, times_of
from vars_dyn.simulate.inputs import read_signals
from vars_dyn.simulate.options import FREE, Options, parse, stored

__all__ = ["main"]

#: Exit statuses, as the help text lists them.
_DONE, _NOT_REACHED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit status."""
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {_one_line(message)}", file=sys.stderr)
            return _run(parse(sys.argv[1:] if arguments is None else arguments, _stored_options))
    except IntegrationError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return _NOT_REACHED
    except (ValueError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"error: {_one_line(error) or type(error).__name__}", file=sys.stderr)
        return _BAD_INPUT
    except RuntimeError as error:
        if "alloc" not in str(error):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: the store is whole up to its last commit; go on with --resume", file=sys.stderr)
        return _INTERRUPTED
    finally:
        torch.set_num_threads(threads)


def _run(options: Options) -> int:
    recording = options.record
    if recording.resume and recording.overwrite:
        raise ValueError("--resume and --overwrite came together; one of them is wanted")
    if recording.resume:
        if recording.out is None:
            raise ValueError("--resume came without --out; the store to go on with is wanted")
        _check_resumed(options, recording.out)
    signals = read_signals(options.signals, options.run.seed)
    dictionary = dictionary_of(options.dictionary, signals, whole=options.signals.whole, seed=options.run.seed)
    field = field_of(options, signals, dictionary)
    times, integration = times_of(options.integrator), integration_of(options.integrator)
    torch.set_num_threads(threads_of(options.run, field))
    with _place(options) as (store, figure):
        _check_figure(figure, options, signals.attributes.get("input"))
        with _bar(times[-1].item()) as progress:
            dataset = record(
                field,
                store,
                times,
                variables=recording.record,
                every=recording.every,
                neurons=recording.neurons,
                atoms=recording.atoms,
                chunk=recording.chunk,
                resume=recording.resume,
                overwrite=recording.overwrite,
                progress=progress,
                coordinates=signals.coordinates,
                attributes={**signals.attributes, "seed": options.run.seed, "options": stored(options)},
                **integration,
            )
    if figure is not None:
        _save(dataset, figure)
    print(report.as_table(dataset, None if figure is None else str(figure)))
    if options.run.json:
        print(json.dumps(report.as_json(dataset, None if figure is None else str(figure)), allow_nan=False))
    return _DONE if report.is_done(dataset) else _NOT_REACHED


def _stored_options(store: Path) -> Mapping[str, Any]:
    """The options that a store was made with; none where the command did not make it."""
    text = read_attributes(store).get("options")
    return {} if text is None else json.loads(text)


def _check_resumed(options: Options, store: Path) -> None:
    """ValueError where an option was given that is not the store's, in the words in which it was given."""
    if not store.exists():
        raise StoreError(f"--out {store} does not exist; there is no store to resume")
    if not is_store(store):
        raise StoreError(f"--out {store} is no store that a simulation wrote; there is nothing to resume")
    old = _stored_options(store)
    if not old:
        raise StoreError(f"--out {store} was not written by this command; resume it with vars_dyn.recording.record")
    new = json.loads(stored(options))
    for name in sorted(options.given - set(FREE)):
        if old.get(name) != new[name] and not _same_number(old.get(name), new[name]):
            raise StoreError(
                f"{store} cannot be resumed with another {name}: it has {old.get(name)}, this run has {new[name]}"
            )


def _same_number(old: Any, new: Any) -> bool:
    try:
        return float(old) == float(new)
    except (TypeError, ValueError):
        return False


@contextmanager
def _place(options: Options) -> Iterator[tuple[Path, Path | None]]:
    """Where the store and the figure go; a fresh number is held by an empty folder until the store is there."""
    recording = options.record
    if recording.out is not None:
        yield recording.out, _figure_of(options, recording.out)
        return
    store = _fresh()
    try:
        yield store, _figure_of(options, store)
    except BaseException:
        if store.is_dir() and not any(store.iterdir()):
            store.rmdir()
        raise


def _fresh() -> Path:
    """The first of run-0001.zarr, run-0002.zarr, ... with neither store nor figure there, made as an empty folder."""
    number = 1
    while True:
        store = Path(f"run-{number:04d}.zarr")
        if not store.exists() and not store.with_suffix(".png").exists():
            try:
                store.mkdir()
            except FileExistsError:
                pass
            except OSError as error:
                raise StoreError(f"{store.resolve()} cannot be written: {error.strerror}") from error
            else:
                return store
        number += 1


def _figure_of(options: Options, store: Path) -> Path | None:
    """The figure's path: as told, or beside the store."""
    if options.text["figure"] == "auto":
        return store.with_suffix(".png") if store.suffix else store.with_name(f"{store.name}.png")
    return options.record.figure


def _check_figure(figure: Path | None, options: Options, inputs: Any) -> None:
    """ValueError where the figure cannot be drawn, or would take the place of something that is no figure of ours."""
    if figure is None:
        return
    if figure.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--figure is {figure}; a name ending in .png, .pdf or .svg is wanted")
    if str(figure.resolve()) in (inputs or []):
        raise ValueError(f"--figure {figure} is an INPUT; another name is wanted")
    if figure.is_dir():
        raise ValueError(f"--figure {figure} is a folder; the name of a picture is wanted")
    if figure.exists() and not options.record.overwrite and not _is_ours(figure):
        raise ValueError(
            f"--figure {figure} exists and is no figure of a simulation; another name, or --overwrite, is wanted"
        )
    folder = figure.parent
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"--figure {figure} cannot be written: {folder} is no folder that may be written to")


def _is_ours(figure: Path) -> bool:
    try:
        with Image.open(figure, formats=("PNG",)) as image:
            return str(image.info.get("Software", "")).startswith("vars_dyn")
    except (OSError, ValueError, SyntaxError):
        return False


def _save(dataset: xr.Dataset, figure: Path) -> None:
    """Draw the summary, complete before it gets its name."""
    partial = figure.with_name(f".{figure.stem}.{os.getpid()}{figure.suffix}")
    mark = f"vars_dyn {vars_dyn.__version__}"
    metadata = {".png": {"Software": mark}, ".pdf": {"Creator": mark}, ".svg": {"Creator": mark}}[figure.suffix.lower()]
    try:
        figure.parent.mkdir(parents=True, exist_ok=True)
        summary(dataset).savefig(partial, dpi=100, metadata=metadata)
        partial.replace(figure)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"--figure {figure} cannot be written: {error.strerror or error}; "
            f"the store {dataset.encoding['source']} is complete"
        ) from error


class _Bar:
    """A progress bar over simulated time, with the gap falling beside it."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, now: Progress) -> None:
        self._bar.n = min(now.time, now.t_max)
        gap = "" if np.isnan(now.relative_gap) else f"gap {now.relative_gap:.1e}, "
        self._bar.set_postfix_str(f"{gap}{now.settled} of {now.signals} settled", refresh=True)


@contextmanager
def _bar(t_max: float) -> Iterator[_Bar]:
    layout = "t = {n:.4g} of {total:.4g} |{bar:30}| {elapsed}{postfix}"
    with tqdm(total=t_max, bar_format=layout, disable=None, leave=False, file=sys.stderr) as bar:
        yield _Bar(bar)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
