"""The templates that --dictionary names, for vectors, sounds, images and movies."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from vars_dyn._suggestions import meant
from vars_dyn.dictionaries.drifting import DriftingGaborBank
from vars_dyn.dictionaries.gabor import GaborBank
from vars_dyn.dictionaries.tones import ToneBank
from vars_dyn.images import Signals
from vars_dyn.simulate.inputs import real_array
from vars_dyn.simulate.options import DictionaryOptions

__all__ = ["bank_of", "sides_of"]

#: Sides of the templates, and steps between their places, by the number of dimensions: sounds, images and movies.
_SIDES = {
    "kernel": {1: (512,), 2: (11, 11), 3: (5, 11, 11)},
    "conv_stride": {1: (64,), 2: (4, 4), 3: (2, 4, 4)},
}
_WANTED = {
    2: "(templates, channels, samples)",
    3: "(templates, colours, side, side)",
    4: "(templates, colours, frames, side, side)",
}


#: The dictionaries that have a name.
_NAMES = ("gabor", "gammatone", "random:M")


def sides_of(name: str, asked: tuple[int, ...] | None, dimensions: int) -> tuple[int, ...]:
    """The numbers of --kernel or --conv-stride, one for each dimension; ValueError if there are more or fewer."""
    if asked is None:
        return _SIDES[name][dimensions]
    if len(asked) not in (1, dimensions):
        raise ValueError(
            f"--{name.replace('_', '-')} is {','.join(str(n) for n in asked)}; one number, or {dimensions}, is wanted"
        )
    return asked * dimensions if len(asked) == 1 else asked


def bank_of(options: DictionaryOptions, signals: Signals, *, seed: int) -> Tensor:
    """The weight: (d, d') for vectors, (templates, channels or colours, *sides) for what is coded whole."""
    shape = signals.values.shape[1:]
    whole = len(shape) > 1
    kind, colon, count = options.dictionary.partition(":")
    sides = sides_of("kernel", options.kernel, len(shape) - 1) if whole else ()
    if kind == "random" and colon:
        return _random(count, (shape[0], *sides), whole=whole, seed=seed)
    if options.dictionary == "gammatone" and len(shape) != 2:
        raise ValueError("--dictionary gammatone is for sounds, and INPUT is none; gabor, random:M or a file is wanted")
    if options.dictionary in ("gabor", "gammatone"):
        return {0: _patches, 1: _sound, 2: _image, 3: _movie}[len(sides)](options, signals, sides)
    if close := meant(options.dictionary, _NAMES) if not Path(options.dictionary).exists() else "":
        raise ValueError(f"--dictionary {options.dictionary} is no file{close}")
    weight = torch.from_numpy(real_array(Path(options.dictionary), "--dictionary"))
    if weight.ndim != (len(shape) + 1 if whole else 2):
        wanted = _WANTED[len(shape)] if whole else "(d, d'), an atom a column,"
        raise ValueError(f"--dictionary {options.dictionary} has shape {tuple(weight.shape)}; {wanted} is wanted")
    return weight


def _random(count: str, shape: tuple[int, ...], *, whole: bool, seed: int) -> Tensor:
    try:
        atoms = int(count)
    except ValueError:
        atoms = 0
    if atoms < 1:
        raise ValueError(
            f"--dictionary is 'random:{count}'; random:M with M, the number of atoms, at least 1 is wanted"
        )
    drawn = torch.randn(atoms, math.prod(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = drawn / drawn.norm(dim=1, keepdim=True)
    return rows.reshape(atoms, *shape) if whole else rows.mT.contiguous()


def _patches(options: DictionaryOptions, signals: Signals, sides: tuple[int, ...]) -> Tensor:
    entries = signals.values.shape[1]
    colours = signals.patch_colours or 1
    side = math.isqrt(entries // colours)
    if side < 2 or side * side * colours != entries:
        raise ValueError(
            f"--dictionary gabor wants square patches, but the signals have {entries} entries; "
            "random:M or a file is wanted"
        )
    return _gabor(options, side, scales=3, places=options.places, colours=colours).weight()


def _image(options: DictionaryOptions, signals: Signals, sides: tuple[int, ...]) -> Tensor:
    return _gabor(options, _square(sides), scales=2, places=1, colours=signals.values.shape[1]).kernels()


def _gabor(options: DictionaryOptions, side: int, *, scales: int, places: int, colours: int) -> GaborBank:
    return GaborBank(
        side,
        orientations=options.orientations,
        scales=options.scales or scales,
        phases=options.phases,
        places=places,
        wavelength=options.wavelength,
        colours=colours,
    )


def _movie(options: DictionaryOptions, signals: Signals, sides: tuple[int, ...]) -> Tensor:
    return DriftingGaborBank(
        sides[0],
        _square(sides[1:]),
        options.speeds,
        orientations=options.orientations,
        scales=options.scales or 2,
        phases=options.phases,
        wavelength=options.wavelength,
        colours=signals.values.shape[1],
    ).kernels()


def _square(sides: tuple[int, ...]) -> int:
    if sides[0] != sides[1] or sides[0] < 2:
        raise ValueError(
            f"--kernel has templates of {sides[0]} x {sides[1]} pixels; a square of at least 2 x 2 is wanted with "
            "--dictionary gabor"
        )
    return sides[0]


def _sound(options: DictionaryOptions, signals: Signals, sides: tuple[int, ...]) -> Tensor:
    return ToneBank(
        sides[0],
        float(signals.attributes["sample_rate"]),  # type: ignore[arg-type]
        bands=options.bands,
        phases=options.phases,
        envelope=options.dictionary,
        channels=signals.values.shape[1],
    ).kernels()
