"""Make the dictionary, the field and the times of a run from its options."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vars_dyn.dictionaries import ConvDictionary, DenseDictionary, Dictionary
from vars_dyn.dynamics import EncoderDecoder, FeedForward, Field, Recurrent, Reduced, SparseRecurrent
from vars_dyn.images import Signals
from vars_dyn.integration import Monitor, method_for
from vars_dyn.noise import Noise
from vars_dyn.recording import Selection
from vars_dyn.recording.plan import RecordingPlan, plan_recording
from vars_dyn.simulate.banks import bank_of, sides_of
from vars_dyn.simulate.cli import stored
from vars_dyn.simulate.inputs import read_array
from vars_dyn.simulate.options import DictionaryOptions, FieldOptions, IntegratorOptions, Options, RunOptions
from vars_dyn.stimuli import Stimulus
from vars_dyn.stimuli.view import fitted

__all__ = [
    "device_of",
    "dictionary_of",
    "done_of",
    "field_of",
    "integration_of",
    "lam_of",
    "plan_of",
    "threads_of",
    "times_of",
]

_FIELDS: dict[str, type[Field]] = {
    "sparse": SparseRecurrent,
    "reduced": Reduced,
    "encoder-decoder": EncoderDecoder,
    "recurrent": Recurrent,
    "feed-forward": FeedForward,
}
_SPARSE = ("sparse", "reduced")
#: The options that each field takes.
_TAKES = {
    "sparse": ("lam", "weights", "bias", "alpha", "beta", "gamma", "tau_z", "tau_u", "threshold"),
    "reduced": ("lam", "weights", "bias", "alpha", "beta", "gamma", "tau_u", "threshold"),
    "encoder-decoder": ("alpha", "beta", "tau_z", "tau_u"),
    "recurrent": ("alpha", "tau_z"),
    "feed-forward": ("alpha", "tau_z"),
}
#: The options with one number per neuron; those of all others are of atoms.
_OF_NEURONS = ("alpha", "tau_z")
#: Times per octave. The spacing is --dt for the first 2 * 20 times, and doubles each time that the time doubles.
_PER_OCTAVE = 20
#: How many moments of a stimulus the critical value of lam is looked for at, and the last of them if it has no end.
_MOMENTS = (101, 100.0)
#: One thread is enough if P a, with a dense P, takes at most this many multiplications.
_ONE_THREAD = 1 << 25


def device_of(name: str) -> torch.device:
    """The device of that name; ValueError if it is not available."""
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=device)
    except Exception as error:  # each kind of device refuses in its own way
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(f"--device {name} is not there: {reason}") from None
    return device


def threads_of(options: RunOptions, field: Field) -> int:
    """The number of threads: as asked for, or else 1 if an evaluation of the field takes less than milliseconds.

    In such a small run more threads gain little, and cost much on shared cores. They also make the last bits depend on
    the machine.
    """
    if options.threads is not None:
        return options.threads
    dictionary = field.dictionary
    size = math.prod(field.signal_batch) * dictionary.signal_size * dictionary.code_size
    return 1 if size <= _ONE_THREAD else torch.get_num_threads()


def dictionary_of(options: DictionaryOptions, signals: Signals, *, seed: int) -> Dictionary:
    """The dictionary for the signals, in float64 on the CPU; ValueError if its shape does not fit theirs.

    Vectors get a dense one. Sounds, images and movies that are coded whole get a convolutional one.
    """
    weight = bank_of(options, signals, seed=seed)
    shape = signals.values.shape[1:]
    whole = len(shape) > 1
    empty = (weight.flatten(1) if whole else weight.mT).abs().amax(1) == 0 if weight.numel() else torch.ones(1).bool()
    if not weight.numel():
        raise ValueError(
            f"--dictionary {options.dictionary} has shape {tuple(weight.shape)}: no atoms; at least one is wanted"
        )
    if bool(empty.any()):
        raise ValueError(
            f"--dictionary {options.dictionary}: atom {int(empty.nonzero()[0])} is zero; atoms that are not are wanted"
        )
    if not whole:
        if weight.shape[0] != shape[0]:
            raise ValueError(
                f"--dictionary {options.dictionary} has atoms of {weight.shape[0]} entries, but the signals have "
                f"{shape[0]}; the same number is wanted"
            )
        return DenseDictionary(weight)
    if weight.shape[1] != shape[0]:
        kind = "channels, the sounds" if len(shape) == 2 else "colours, the images"
        raise ValueError(f"--dictionary {options.dictionary} has templates of {weight.shape[1]} {kind} have {shape[0]}")
    return ConvDictionary(
        weight,
        tuple(int(n) for n in shape),
        stride=sides_of("conv_stride", options.conv_stride, len(shape) - 1),
        padding=tuple(int(k) // 2 for k in weight.shape[2:]),
    )


def field_of(options: Options, signals: Signals, dictionary: Dictionary, stimulus: Stimulus | None = None) -> Field:
    """The field, in the dtype and on the device asked for; ValueError for parameters that it does not take.

    It sees the stimulus, or else the signals.
    """
    chosen = options.field
    takes = _TAKES[chosen.field]
    for name in _TAKES["sparse"]:
        if name not in takes and name in options.given:
            raise ValueError(
                f"--{name.replace('_', '-')} is no parameter of --field {chosen.field}; it takes {', '.join(takes)}"
            )
    kind = {"dtype": getattr(torch, options.run.dtype), "device": device_of(options.run.device)}
    dictionary = dictionary.to(**kind)
    x = torch.from_numpy(signals.values).to(**kind) if stimulus is None else stimulus.to(**kind)
    given = {name: getattr(chosen, name) for name in takes if name != "lam" and getattr(chosen, name) is not None}
    for name in [name for name in given if isinstance(given[name], Path)]:
        unit, shape = ("neuron", dictionary.signal_shape) if name in _OF_NEURONS else ("atom", dictionary.code_shape)
        value = _per_unit(f"--{name.replace('_', '-')}", given[name], unit, shape).to(**kind)
        # One dimension more tells constants of units from those of as many signals.
        given[name] = value if name in ("weights", "bias") else value[None]
    if chosen.field == "feed-forward":
        return FeedForward(x, signal_shape=dictionary.signal_shape, **given)
    if chosen.field in _SPARSE:
        given["lam"] = lam_of(chosen, x, dictionary)
    return _FIELDS[chosen.field](dictionary, x, **given)


def _per_unit(what: str, file: Path, unit: str, shape: tuple[int, ...]) -> Tensor:
    """The numbers of a file, one per unit, or one for all places of each template (of neurons, of each colour)."""
    values = read_array(file, what)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{what} {file} has dtype {values.dtype}; real numbers are wanted")
    found = torch.from_numpy(values.astype(np.float64))
    if len(shape) > 1 and tuple(found.shape) == shape[:1]:
        found = found.reshape(-1, *(1,) * (len(shape) - 1))
    if found.ndim > len(shape):
        raise ValueError(f"{what} {file} has shape {tuple(found.shape)}; one number per {unit}, {shape}, is wanted")
    return found


def lam_of(options: FieldOptions, x: Tensor | Stimulus, dictionary: Dictionary) -> float | Tensor:
    """The weight; a share is that of the critical value, or of the largest one at the moments of a stimulus."""
    if not options.lam.is_share:
        return options.lam.value
    shape = dictionary.signal_shape
    moments = [0.0]
    if isinstance(x, Stimulus) and x.moves:
        last = x.duration if math.isfinite(x.duration) else _MOMENTS[1]
        moments = np.linspace(0.0, last, _MOMENTS[0]).tolist()
    shown = (x if isinstance(x, Tensor) else fitted(x, shape)(t) for t in moments)
    critical = (dictionary.encode(one).flatten(-len(dictionary.code_shape)).abs().amax(-1) for one in shown)
    return options.lam.value * functools.reduce(torch.maximum, critical)


def done_of(options: Options) -> dict[str, Any]:
    """The interventions and the noise, as arguments of `record`. The noise is drawn by --seed."""
    chosen = options.interventions
    acts = [*chosen.silence, *chosen.lesion, *chosen.clamp, *chosen.inject, *chosen.scale_synapses]
    noise = Noise(z=chosen.noise_z, u=chosen.noise_u, seed=options.run.seed)
    return {"interventions": acts or None, "noise": None if noise.is_silent else noise}


def times_of(options: IntegratorOptions) -> Tensor:
    """The times from 0 to t_max, evenly spaced or with a spacing that doubles each time that the time doubles.

    The times before t_max do not depend on t_max, so that a run can be resumed with a later one.
    """
    limit = options.t_max / options.dt * (1 + 1e-12)
    if limit > 1e8:
        raise ValueError(
            f"--t-max {options.t_max:g} over --dt {options.dt:g} are {limit:.2g} times; at most 1e8 are wanted"
        )
    if options.times == "even":
        steps = np.arange(math.floor(limit) + 1, dtype=np.float64)
    else:
        blocks = [np.arange(min(2 * _PER_OCTAVE, math.floor(limit)) + 1)]
        first, spacing = 2 * _PER_OCTAVE, 2
        while first < limit:
            blocks.append(first + spacing * np.arange(1, _PER_OCTAVE + 1))
            first, spacing = 2 * first, 2 * spacing
        steps = np.concatenate(blocks)
        steps = steps[steps <= limit].astype(np.float64)
    times = steps * options.dt
    if times[-1] < options.t_max * (1 - 1e-12):
        times = np.append(times, options.t_max)
    return torch.from_numpy(times)


def plan_of(options: Options, signals: Signals, field: Field, monitor: Monitor | None = None) -> RecordingPlan:
    """What is recorded of the field."""
    chosen = options.record
    return plan_recording(
        field,
        times_of(options.integrator),
        None,
        Selection(chosen.record, chosen.every, chosen.neurons, chosen.atoms, chosen.chunk),
        {**integration_of(options.integrator), **done_of(options)},
        coordinates=signals.coordinates,
        attributes={name: value for name, value in signals.attributes.items() if name != "input"},
        origin={"input": signals.attributes.get("input"), "seed": options.run.seed, "options": stored(options)},
        monitor=monitor,
    )


def integration_of(options: IntegratorOptions) -> dict[str, Any]:
    """The integrator's arguments. With --gap none and without --step, a fixed-step method takes steps of --dt."""
    step = options.step
    if step is None and not method_for(options.method).adaptive and options.gap is None:
        step = options.dt
    return {
        "method": options.method,
        "rtol": options.rtol,
        "atol": options.atol,
        "gap": options.gap,
        "step": step,
        "check_every": options.check_every,
        "max_steps": options.max_steps,
    }
