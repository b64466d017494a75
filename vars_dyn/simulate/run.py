"""The command. It turns arguments into a store, a figure, a table and an exit status."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vars_dyn import _process
from vars_dyn._files import Workplace, check_place, tidy_all
from vars_dyn.dictionaries import Dictionary
from vars_dyn.images import Signals
from vars_dyn.integration import IntegrationError
from vars_dyn.movies import pyav
from vars_dyn.plotting import spike_summary
from vars_dyn.plotting.animation import ANIMATION_SUFFIXES
from vars_dyn.recording import Progress, StoreError, facts, is_store
from vars_dyn.recording.integrity import read_attributes
from vars_dyn.recording.record import record_plan
from vars_dyn.simulate import report
from vars_dyn.simulate.blocks import block_size, blocks_of, check_blocks, options_of_blocks, record_blocks
from vars_dyn.simulate.build import device_of, dictionary_of, field_of, plan_of, threads_of, times_of
from vars_dyn.simulate.cli import FREE, parse, stored
from vars_dyn.simulate.inputs import read_signals
from vars_dyn.simulate.limits import check_device, check_dictionary, check_looks, demand_of
from vars_dyn.simulate.options import Options
from vars_dyn.simulate.pictures import FIGURE_SUFFIXES, check_picture, save_animation, save_figure
from vars_dyn.simulate.spikes import spikes_as_text, spiking_of
from vars_dyn.simulate.stimulus import check_taken, decided, resolved, signals_under, stimulus_of
from vars_dyn.simulate.unused import check_used
from vars_dyn.spiking import spike

__all__ = ["main"]

#: The names that this command gives to stores and pictures if it is told none.
_NUMBERED = re.compile(r"run-\d{4,}\.(zarr|png|pdf|svg)")
#: Exit statuses, as the help text lists them.
_DONE, _NOT_REACHED, _BAD_INPUT, _INTERRUPTED, _TERMINATED = 0, 1, 2, 130, 143


@dataclass
class _Begun:
    """What the message of an interrupted run needs: the store, and the options that no store keeps."""

    store: Path | None = None
    extra: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit status."""
    words, threads, begun = sys.argv[1:] if arguments is None else arguments, torch.get_num_threads(), _Begun()
    with _process.streams(), _process.terminable():
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: _process.say(f"warning: {message}")
                return _run(parse(words, _stored_options), begun)
        except IntegrationError as error:
            _process.say(f"error: {error}")
            return _NOT_REACHED
        except (ValueError, OSError, MemoryError, torch.OutOfMemoryError) as error:
            _process.say(f"error: {error}" if str(error) else f"error: {type(error).__name__}")
            return _BAD_INPUT
        except RuntimeError as error:
            if "alloc" not in str(error):
                raise
            _process.say(f"error: {error}")
            return _BAD_INPUT
        except KeyboardInterrupt as stop:
            ended = isinstance(stop, _process.Terminated)
            kept = begun.store if begun.store is not None and _can_go_on(begun.store) else None
            told = "nothing was stored; start anew" if kept is None else f"{kept} is whole up to its last commit; go on"
            _process.say(
                f"{'terminated' if ended else 'interrupted'}: {told} with: {_resuming(kept, words, begun.extra)}"
            )
            return _TERMINATED if ended else _INTERRUPTED
        finally:
            torch.set_num_threads(threads)


def _can_go_on(store: Path) -> bool:
    return is_store(store) or options_of_blocks(store) is not None


def _resuming(store: Path | None, arguments: Sequence[str], extra: Sequence[str]) -> str:
    """The command, quoted for a shell, that continues `store`; the same command again if nothing was stored."""
    command = [sys.executable, "-m", "vars_dyn.simulate"]
    if store is None:
        return shlex.join([*command, *arguments])
    return shlex.join([*command, "--resume", "--out", str(store), *extra])


def _run(options: Options, begun: _Begun) -> int:
    options = _going_on(decided(options))
    recording = options.record
    if recording.resume and recording.overwrite:
        raise ValueError("--resume and --overwrite came together; one of them is wanted")
    if recording.resume:
        if recording.out is None:
            raise ValueError("--resume came without --out; the store to go on with is wanted")
        _check_resumed(options, recording.out)
    check_blocks(options)
    check_taken(options)
    stimulus = stimulus_of(options)
    options = resolved(options, stimulus)
    recording = options.record
    times = times_of(options.integrator)
    check_looks(options.integrator)
    device = device_of(options.run.device)
    if stimulus is None:
        signals = read_signals(options.signals, options.run.seed)
    else:
        signals, stimulus = signals_under(stimulus, options)
    notes = [] if recording.resume else check_used(options, signals)
    check_dictionary(options, signals)
    dictionary = dictionary_of(options.dictionary, signals, seed=options.run.seed)
    if options.spiking.spiking:
        for note in notes:
            _process.say(f"warning: {note}")
        return _spike(options, begun, signals, dictionary)
    in_blocks = options.run.workers is not None
    demand = demand_of(options, signals, dictionary, times, block_size(signals) if in_blocks else None)
    large = demand.check(Path() if recording.out is None else recording.out)
    check_device(device, demand)
    for note in notes:
        _process.say(f"warning: {note}")
    for note in large:
        _process.say(note)
    neurons = field_of(options, signals, dictionary, stimulus)
    torch.set_num_threads(threads_of(options.run, neurons))
    with _place(options) as (store, figure):
        sources = _sources(options, signals)
        check_place("--out", store, sources)
        check_picture("--figure", figure, FIGURE_SUFFIXES, sources)
        check_picture("--animate", recording.animate, ANIMATION_SUFFIXES, sources)
        if recording.animate is not None and recording.animate.suffix.lower() == ".mp4":
            pyav(f"--animate {recording.animate}")
        begun.store, begun.extra = store, _unstored(options)
        plan = plan_of(options, signals, neurons)
        if in_blocks:
            dataset = record_blocks(options, signals, plan, store, stored(options))
        else:
            with _bar(times[-1].item()) as progress:
                dataset = record_plan(
                    plan, store, resume=recording.resume, overwrite=recording.overwrite, progress=progress
                )
    if figure is not None:
        save_figure(dataset, figure)
    if recording.animate is not None:
        save_animation(dataset, recording.animate, neurons.stimulus)
    found = report.report_of(dataset, None if figure is None else str(figure))
    as_json = options.run.json
    table = report.as_table(found, facts(dataset)["stop_gap"])
    _told(json.dumps(found.as_json(), allow_nan=False) if as_json else table, store)
    return _DONE if report.is_done(dataset) else _NOT_REACHED


def _spike(options: Options, begun: _Begun, signals: Signals, dictionary: Dictionary) -> int:
    """Run spiking units in place of a field."""
    recording = options.record
    units = spiking_of(options, signals, dictionary)
    torch.set_num_threads(options.run.threads or 1)
    with _place(options) as (store, figure):
        given, sources = signals.attributes["input"], _sources(options, signals)
        check_place("--out", store, sources)
        check_picture("--figure", figure, FIGURE_SUFFIXES, sources)
        begun.store, begun.extra = store, _unstored(options)
        dataset = spike(
            units,
            options.integrator.t_max,
            store,
            every=options.spiking.window,
            resume=recording.resume,
            overwrite=recording.overwrite,
            origin={"input": given, "seed": options.run.seed, "options": stored(options)},
        )
    if figure is not None:
        save_figure(dataset, figure, spike_summary)
    scaling = str(signals.attributes.get("scaling", "scale not stated"))
    _told(spikes_as_text(dataset, scaling, None if figure is None else str(figure), as_json=options.run.json), store)
    return _DONE


def _told(text: str, store: Path) -> None:
    try:
        _process.tell(text)
    except OSError as error:
        raise StoreError(
            f"standard output cannot be written: {error.strerror or error}; the store {store} is complete"
        ) from None


def _sources(options: Options, signals: Signals) -> list[Path]:
    """The files that the run reads, and that nothing may replace."""
    given = signals.attributes["input"]
    inputs = given if isinstance(given, list) else [given]
    own = [file for file in (options.field.weights, options.field.bias) if file is not None]
    return [Path(str(name)) for name in (*inputs, *_files_of(options.dictionary.dictionary), *own)]


def _going_on(options: Options) -> Options:
    """The options, where a run in blocks that is resumed without --workers goes on in this process."""
    out, run = options.record.out, options.run
    if run.workers is None and options.record.resume and out is not None and options_of_blocks(out) is not None:
        return replace(options, run=replace(run, workers=0))
    return options


def _unstored(options: Options) -> list[str]:
    """The options that a store does not keep, and that the command to resume the run must repeat."""
    pictures = [name for name in ("figure", "animate") if name in options.given]
    extra = [word for name in pictures for word in (f"--{name}", str(options.text[name]))]
    blocks = [] if options.run.workers is None else ["--workers", str(options.run.workers)]
    return [*extra, *blocks, *(["--json"] if options.run.json else [])]


def _stored_options(store: Path) -> Mapping[str, Any]:
    """The options that a store was made with; none if another program made it."""
    blocks = options_of_blocks(store)
    if blocks is not None:
        return blocks
    text = read_attributes(store).get("options")
    # Stores of runs without a stimulus, and those of older versions, do not name it.
    return {} if text is None else {"stimulus": "none", **json.loads(text)}


def _check_resumed(options: Options, store: Path) -> None:
    """Raise StoreError if there is no store to resume, or if a given option differs from the store's."""
    blocks = options_of_blocks(store)
    if blocks is None and not store.exists():
        raise StoreError(f"--out {store} does not exist; there is no store to resume")
    if blocks is None and not is_store(store):
        raise StoreError(f"--out {store} is no store that a simulation wrote; there is nothing to resume")
    old = _stored_options(store)
    if not old:
        raise StoreError(f"--out {store} was not written by this command; resume it with vars_dyn.recording.record")
    new = {"stimulus": "none", **json.loads(stored(options))}
    # Blocks that are done do not go on, so those that are left must end at the same time.
    free = set(FREE) - ({"t_max"} if blocks is not None else set())
    for name in sorted(options.given - free):
        if old.get(name) != new.get(name) and not _same_number(old.get(name), new.get(name)):
            raise StoreError(
                f"{store} cannot be resumed with another {name}: it has {old.get(name)}, this run has {new.get(name)}"
            )


def _same_number(old: Any, new: Any) -> bool:
    try:
        return float(old) == float(new)
    except (TypeError, ValueError):
        return False


@contextmanager
def _place(options: Options) -> Iterator[tuple[Path, Path | None]]:
    """Yield the paths of the store and the figure. A hidden folder reserves a new number until the run has ended."""
    recording = options.record
    if recording.out is not None:
        yield recording.out, _figure_of(options, recording.out)
        return
    with _fresh() as work:
        yield work.target, _figure_of(options, work.target)


def _fresh() -> Workplace:
    """Reserve the first of run-0001.zarr, run-0002.zarr, ... for which neither a store nor a figure exists."""
    here = Path()
    try:
        tidy_all(here, _NUMBERED)
        for number in itertools.count(1):
            store = Path(f"run-{number:04d}.zarr")
            if not any(map(os.path.lexists, (store, store.with_suffix(".png"), blocks_of(store)))):
                work = Workplace.claim(store)
                if work is not None:
                    return work
    except OSError as error:
        raise StoreError(f"{here.resolve()} cannot be written: {error.strerror}") from error
    raise AssertionError("there is a number after every number")


def _figure_of(options: Options, store: Path) -> Path | None:
    """The figure's path: the given one, or one beside the store."""
    if options.text["figure"] == "auto":
        return store.with_suffix(".png") if store.suffix else store.with_name(f"{store.name}.png")
    return options.record.figure


def _files_of(dictionary: str) -> list[str]:
    """The file or folder that a dictionary is read from; empty if it is not read from one."""
    return (
        []
        if dictionary in ("gabor", "gammatone") or dictionary.startswith("random:")
        else [dictionary.partition(".safetensors:")[0]]
    )


class _Bar:
    """A progress bar over simulated time, with the largest gap beside it."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, now: Progress) -> None:
        self._bar.n = min(now.time, now.t_max)
        gap = "" if np.isnan(now.relative_gap) else f"gap {now.relative_gap:.1e}, "
        with suppress(OSError):  # the run goes on if the terminal is closed
            self._bar.set_postfix_str(f"{gap}{now.settled} of {now.signals} settled", refresh=True)


@contextmanager
def _bar(t_max: float) -> Iterator[_Bar]:
    layout = "t = {n:.4g} of {total:.4g} |{bar:30}| {elapsed}{postfix}"
    with tqdm(total=t_max, bar_format=layout, disable=None, leave=False, file=sys.stderr) as bar:
        yield _Bar(bar)
