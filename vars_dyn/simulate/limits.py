"""Estimate the memory and disk that a run needs. Large runs are announced, and runs that cannot fit are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vars_dyn._resources import free_disk, need_memory, size
from vars_dyn.dictionaries import Dictionary
from vars_dyn.images import Signals
from vars_dyn.recording import VARIABLES
from vars_dyn.simulate.banks import sides_of
from vars_dyn.simulate.options import IntegratorOptions, Options

__all__ = ["Demand", "check_device", "check_dictionary", "check_looks", "demand_of"]

#: A run that needs more bytes than this is announced.
_MUCH = 10**9
#: Number of states that the integrator and the certificate hold at once, beside those of a chunk of times.
_STATES = 20
#: Number of states of all signals that are held while blocks are joined: the first, the last, and certificates.
_JOINED = 8
#: Hardly any run settles before this time, in time constants. So what is recorded up to it counts as certain.
_SOON = 10.0
#: The most times, and the most bytes of states, that are written at once where --chunk does not say how many.
_CHUNK, _CHUNK_BYTES = 64, 1 << 24
#: Largest number of checks of the gap.
_CHECKS = 1e8
_FEWER = "fewer signals (--patches, --crop, --scale)"
_LIGHTER = f"{_FEWER}, a smaller --chunk or --dtype float32 is wanted"
_SHORTER = f"{_FEWER}, a smaller --record or a larger --every"


@dataclass(frozen=True)
class Demand:
    """The size of a run.

    Attributes:
        signals: number of signals.
        neurons, atoms: numbers of neurons and encoding neurons per signal.
        memory: bytes that are held at once.
        least: bytes of disk that are certainly written.
        most: bytes of disk if the run goes to t_max and nothing compresses.
    """

    signals: int
    neurons: int
    atoms: int
    memory: float
    least: float
    most: float

    def check(self, place: Path) -> list[str]:
        """Lines that announce a large run, which writes below `place`; ValueError, with advice, if it cannot fit."""
        what = (
            f"the run of {self.signals} signals of {self.neurons} neurons and {self.atoms} encoding neurons "
            "with what is to be recorded"
        )
        need_memory(self.memory, what, _LIGHTER)
        free = free_disk(place)
        if free is not None and self.least > free:
            raise ValueError(
                f"{what} writes at least {size(self.least)}, and {size(free)} of disk are free; "
                f"{_SHORTER}, or an --out on another disk is wanted"
            )
        if max(self.memory, self.most) < _MUCH:
            return []
        told = [
            f"{self.signals} signals of {self.neurons} neurons, {self.atoms} encoding neurons each: about "
            f"{size(self.memory)} of memory, and up to {size(self.most)} of disk"
        ]
        if free is not None and self.most > free:
            told.append(f"{size(free)} of disk are free, which a run up to --t-max may fill; {_SHORTER} would help")
        return told


def demand_of(
    options: Options, signals: Signals, dictionary: Dictionary, times: Tensor, block: int | None = None
) -> Demand:
    """What a run with these options needs. With blocks of so many signals, only those that run are integrated."""
    recording, item = options.record, 4 if options.run.dtype == "float32" else 8
    count, neurons = len(signals.values), math.prod(signals.values.shape[1:])
    coding = options.field.field not in ("recurrent", "feed-forward")
    atoms = math.prod(dictionary.code_shape) if coding else 0
    kept = set(VARIABLES if recording.record is None else recording.record)
    if options.stimulus.stimulus == "none":
        kept -= {"x"}
    shown = neurons if recording.neurons is None else len(recording.neurons)
    coded = 0 if not coding else atoms if recording.atoms is None else len(recording.atoms)
    entries = shown * len(kept & {"x", "z"}) + coded * len(kept & {"u", "code"}) + len(kept - {"x", "z", "u", "code"})
    state, point = item * count * (neurons + atoms), float(item * count * entries)
    # Variables are written one after another. Three copies of one exist then: stacked, as bytes, and compressed.
    largest = item * count * max(shown * ("z" in kept), coded * bool(kept & {"u", "code"}), 1)
    chunk = recording.chunk or max(1, min(_CHUNK, _CHUNK_BYTES // max(state * recording.every, 1)))
    together = min(chunk * recording.every, len(times))
    points = -(-len(times) // recording.every)
    certain = points
    if options.integrator.gap is not None:
        certain = int((times[:: recording.every] <= _SOON).sum())
    still = 8.0 * count * neurons + 3 * state
    # Blocks are written twice: by themselves, and joined. While they are joined, the state of all signals is held.
    running = 1.0 if block is None else min(1.0, block * max(1, options.run.workers or 0) / count)
    held, copies = (0, 1) if block is None else (_JOINED, 2)
    return Demand(
        count,
        neurons,
        atoms,
        24.0 * count * neurons + state * (held + running * (_STATES + together)) + 3.0 * largest * chunk,
        copies * (still + certain * point / 2),  # codes compress well, numbers of full precision hardly at all
        copies * (still + points * point),
    )


def check_dictionary(options: Options, signals: Signals) -> None:
    """Raise ValueError if the dictionary that is to be made does not fit into memory."""
    chosen, shape = options.dictionary, signals.values.shape[1:]
    dimensions = len(shape) - 1
    sides = sides_of("kernel", chosen.kernel, dimensions) if dimensions else ()
    entries = shape[0] * math.prod(sides)
    kind, colon, number = chosen.dictionary.partition(":")
    if kind == "random" and colon and number.isdecimal() and number.isascii():
        atoms = int(number)
    elif chosen.dictionary in ("gabor", "gammatone") and dimensions == 1:
        atoms = shape[0] * chosen.bands * chosen.phases
    elif chosen.dictionary == "gabor":
        scales = chosen.scales or 3
        if scales > 60:
            raise ValueError(f"--scales is {scales}; at most 60 are wanted, beyond which no pixel differs from another")
        places = [1 if dimensions else -(-chosen.places // 2**scale) for scale in range(scales)]
        ways = 2 * len(chosen.speeds) if dimensions == 3 else 1
        atoms = 3 * ways * chosen.orientations * chosen.phases * sum(n * n for n in places)
    else:
        return
    # Four arrays of float64: the drawn or computed atoms, the normalised ones, and the transposes of both.
    need_memory(32.0 * atoms * entries, f"--dictionary {chosen.dictionary}, of {atoms} atoms,", "fewer are wanted")


def check_looks(options: IntegratorOptions) -> None:
    """Raise ValueError if --check-every asks for more checks of the gap than a run can do in reasonable time."""
    if options.check_every is not None and options.t_max / options.check_every > _CHECKS:
        raise ValueError(
            f"--check-every {options.check_every:g} up to --t-max {options.t_max:g} are "
            f"{options.t_max / options.check_every:.2g} looks at the gap; at most {_CHECKS:g} are wanted"
        )


def check_device(device: torch.device, demand: Demand) -> None:
    """Raise ValueError if the run does not fit into the memory of the GPU."""
    if device.type == "cuda" and demand.memory > torch.cuda.mem_get_info(device)[0]:
        free = torch.cuda.mem_get_info(device)[0]
        raise ValueError(
            f"the run of {demand.signals} signals needs about {size(demand.memory)}, and {size(free)} are free on "
            f"--device {device}; {_LIGHTER}"
        )
