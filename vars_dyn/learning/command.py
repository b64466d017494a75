"""The command `python -m vars_dyn.learn`: photographs to a dictionary, the course of its training, and a figure."""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from vars_dyn import _process
from vars_dyn._files import StoreError, check_place, is_our_picture, replacing
from vars_dyn._learn_options import LearnOptions, parser
from vars_dyn._resources import need_memory
from vars_dyn._version import __version__
from vars_dyn.dictionaries import ConvDictionary, DenseDictionary, Dictionary
from vars_dyn.learning.atoms import Atoms, random_dictionary
from vars_dyn.learning.checkpoints import read_facts
from vars_dyn.learning.coding import Codes, Equilibrium, Integrate, Solve
from vars_dyn.learning.photographs import photographs
from vars_dyn.learning.picture import summary
from vars_dyn.learning.preprocessing import ZCA, Centre, ContrastNormalisation, OlshausenField, Preparation
from vars_dyn.learning.processes import company
from vars_dyn.learning.results import Learned
from vars_dyn.learning.rules import Gradient, Hebbian, Online, Rule
from vars_dyn.learning.sources import Patches, Rows, Source
from vars_dyn.learning.training import StoreOptions, learn
from vars_dyn.simulate.inputs import is_array

__all__ = ["main"]

#: Patches from which a ZCA whitening is estimated.
_SAMPLE = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 2 bad input, 130 interrupted, 143 terminated."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    begun: list[Path] = []
    with _process.streams(), _process.terminable():
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: _process.say(f"warning: {message}")
                return _run(words, begun)
        except SystemExit as stop:  # --help
            return int(stop.code or 0)
        except ArgumentError as error:
            _process.say(f"error: {error}")
            return 2
        except (ValueError, OSError, MemoryError) as error:
            _process.say(f"error: {error}" if str(error) else f"error: {type(error).__name__}")
            return 2
        except KeyboardInterrupt as stop:
            ended = isinstance(stop, _process.Terminated)
            again = [*words, *([] if "--resume" in words else ["--resume"])]
            if begun and not any(word.partition("=")[0] == "--out" for word in words):
                again += ["--out", str(begun[0])]
            told = (
                f"go on with: {sys.executable} -m vars_dyn.learn {shlex.join(again)}" if begun else "nothing was stored"
            )
            _process.say(f"{'terminated' if ended else 'interrupted'}: {told}")
            return 143 if ended else 130


def _parsed(words: Sequence[str]) -> tuple[LearnOptions, Any]:
    """The options; those of a resumed run come from its store, where the command line does not give others."""
    found = parser().parse_args(words)
    if found.resume:
        if found.out is None:
            raise ValueError("--resume came without --out; the run to go on with is wanted")
        kept = read_facts(Path(found.out)).get("origin", {}).get("options")
        if kept is None:
            raise StoreError(f"{found.out} was not written by this command; resume it with vars_dyn.learn")
        resumed = parser()
        resumed.set_defaults(**{name: value for name, value in kept.items() if name not in ("out", "figure")})
        found = resumed.parse_args(words)
    return LearnOptions(**{each.name: getattr(found, each.name) for each in fields(LearnOptions)}), found


def _run(words: Sequence[str], begun: list[Path]) -> int:
    options, found = _parsed(words)
    for name in ("patch", "batch", "steps", "every", "patience", "processes"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; a number of at least 1 is wanted")
    files = [Path(name) for name in found.images] or photographs()
    made = _made(options, files)
    out = Path(options.out) if options.out is not None else _fresh()
    check_place("--out", out, files)
    figure = _figure(options, out)
    kept = {
        each.name: getattr(options, each.name) for each in fields(LearnOptions) if each.name not in ("out", "figure")
    }
    origin = {"input": [str(file) for file in files], "options": {**kept, "images": list(found.images)}}
    begun.append(out)
    try:
        with company(options.processes, _help, (options, files, out, found.resume)):
            learned = _learned(options, made, StoreOptions(out, options.every, origin), found.resume)
    except BaseException:
        if options.out is None:
            with suppress(OSError):
                out.rmdir()  # only a folder in which nothing was stored
                begun.clear()
        raise
    if figure is not None:
        mark = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}[figure.suffix.lower()]
        with replacing(figure) as partial:
            summary(learned.history).savefig(partial, dpi=100, metadata={mark: f"vars_dyn {__version__}"})
    told = _report(learned, figure)
    table = "\n".join(f"{name:<18} {value}" for name, value in told.items())
    _process.tell(json.dumps(told) if found.json else table)
    return 0


def _made(options: LearnOptions, files: Sequence[Path]) -> tuple[Source, Dictionary]:
    """The signals, and the dictionary to start from."""
    source, shape = _source(options, files)
    return source, _dictionary(options, shape)


def _learned(options: LearnOptions, made: tuple[Source, Dictionary], store: StoreOptions, resume: bool) -> Learned:
    return learn(
        made[1],
        made[0],
        options.lam,
        method=_rule(options),
        codes=_codes(options),
        steps=options.steps,
        batch_size=options.batch,
        seed=options.seed,
        atoms=Atoms(options.norm, options.nonnegative_atoms, options.patience),
        store=store,
        resume=resume,
    )


def _help(options: LearnOptions, files: Sequence[Path], out: Path, resume: bool) -> None:
    """Learn as another process of the group does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first process shows them
        _learned(options, _made(options, files), StoreOptions(out, options.every), resume)


def _source(options: LearnOptions, files: Sequence[Path]) -> tuple[Source, tuple[int, ...]]:
    """The signals, and the shape of one."""
    missing = [file for file in files if not file.exists()]
    if missing:
        raise ValueError(f"{missing[0]} does not exist; images, folders of them, or one array are wanted")
    arrays = [file for file in files if is_array(file)]
    if arrays:
        if len(files) > 1:
            raise ValueError(f"{arrays[0]} is an array among {len(files)} paths; images, or one array, are wanted")
        values = _array(arrays[0])
        if options.kind == "conv" and values.ndim < 3:
            raise ValueError(f"{arrays[0]} has shape {values.shape}; conv wants signals (n, channels, *places)")
        rows = Rows(values, options.on_bad)
        return rows, tuple(int(n) for n in values.shape[1:])
    image_steps: list[Preparation] = [OlshausenField()] if options.whiten == "olshausen-field" else []
    patches = Patches(
        list(files),
        options.patch,
        colour=options.colour,
        image_steps=image_steps,
        flat=options.kind == "dense",
        on_bad=options.on_bad,
    )
    steps: list[Preparation] = [Centre()]
    if options.whiten == "zca":
        steps.append(ZCA.fit(Centre().apply(patches.sample(_SAMPLE, options.seed)).values))
    if options.contrast is not None:
        steps.append(ContrastNormalisation(options.contrast))
    patches.patch_steps = tuple(steps)
    patches.sample(1, options.seed)  # images that do not fit are refused before anything is made for them
    shape = (3 if options.colour else 1, options.patch, options.patch)
    return patches, shape if options.kind == "conv" else (math.prod(shape),)


def _array(path: Path) -> Any:
    """An array on disk, of which rows are read when they are needed."""
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        node = zarr.open(path, mode="r")
    except Exception as error:  # each library refuses a damaged file in its own way
        raise ValueError(f"{path} cannot be read as an array: {' '.join(str(error).split())}") from None
    if not isinstance(node, zarr.Array):
        raise ValueError(f"{path} is a zarr group; one of its arrays is wanted, as {path}/NAME")
    return node


def _dictionary(options: LearnOptions, shape: tuple[int, ...]) -> Dictionary:
    """A random dictionary for signals of that shape."""
    dtype = torch.float64 if options.dtype == "float64" else torch.float32
    if options.kind == "dense":
        if len(shape) != 1:
            raise ValueError(f"the signals have shape {shape}; dense wants vectors, a signal a row")
        count = options.atoms or 2 * shape[0]
        need_memory(
            8.0 * count * (shape[0] + 2 * count), f"learning {count} atoms", "fewer, or smaller patches, are wanted"
        )
        start: Dictionary = DenseDictionary(torch.ones(shape[0], count, dtype=dtype))
    else:
        templates = torch.ones(options.atoms or 32, shape[0], *(options.kernel for _ in shape[1:]), dtype=dtype)
        start = ConvDictionary(templates, shape)
    return random_dictionary(start, options.seed)


def _rule(options: LearnOptions) -> Rule:
    if options.method == "online":
        return Online(options.forgetting)
    if options.method == "hebbian":
        return Hebbian(0.1 if options.rate is None else options.rate)
    rate = 0.01 if options.rate is None else options.rate
    return Gradient(lambda tensors: torch.optim.Adam(tensors, rate))


def _codes(options: LearnOptions) -> Codes:
    if options.codes == "integrate":
        return Integrate(options.horizon, options.nonnegative)
    return (Solve if options.codes == "solve" else Equilibrium)(options.tol, options.nonnegative)


def _numbers() -> Iterator[Path]:
    return (Path(f"learned-{number:04d}") for number in itertools.count(1))


def _fresh() -> Path:
    """The first of learned-0001, learned-0002, ... that this process could make."""
    for place in _numbers():
        try:
            place.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise StoreError(f"{Path().resolve()} cannot be written: {error.strerror}") from None
        return place
    raise AssertionError("there is a number after every number")


def _figure(options: LearnOptions, out: Path) -> Path | None:
    if options.figure in (None, "none"):
        return None
    figure = out / "atoms.png" if options.figure == "auto" else Path(str(options.figure))
    if figure.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--figure is {figure}; a name ending in .png, .pdf or .svg is wanted")
    if os.path.lexists(figure) and not is_our_picture(figure):
        raise ValueError(f"--figure {figure} exists and is no figure of this package; another name is wanted")
    return figure


def _report(learned: Learned, figure: Path | None) -> Mapping[str, Any]:
    history = learned.history
    last = history.isel(step=slice(-max(1, history.sizes["step"] // 20), None))
    return {
        "steps": history.sizes["step"],
        "atoms": history.sizes["atom"],
        "signal_dim": learned.dictionary.signal_size,
        "objective": float(last["objective"].mean()),
        "relative_gap_max": float(history["relative_gap"].max()),
        "active_fraction": float(last["active_fraction"].mean()),
        "signal_to_noise": float(last["signal_to_noise"].mean()),
        "dead": int(history["dead"][-1]),
        "revived": int(history["revived"].sum()),
        "dictionary": str(Path(str(learned.store)) / "dictionary.safetensors"),
        "store": str(learned.store),
        "figure": None if figure is None else str(figure),
    }
