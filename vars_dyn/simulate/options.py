"""The command's options. Each is declared once, with its default, its reader and its help."""

# ruff: noqa: RUF009 -- `option` and `flag` only call dataclasses.field
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from vars_dyn._names import METHODS, VARIABLES
from vars_dyn.simulate import acting
from vars_dyn.simulate import values as read
from vars_dyn.simulate.declaring import Option, flag, option, options_of
from vars_dyn.simulate.input_options import DictionaryOptions, InputOptions
from vars_dyn.simulate.stimulus_options import StimulusOptions

__all__ = [
    "DictionaryOptions",
    "FieldOptions",
    "InputOptions",
    "IntegratorOptions",
    "InterventionOptions",
    "Option",
    "Options",
    "RecordOptions",
    "RunOptions",
    "SpikingOptions",
    "StimulusOptions",
    "groups",
    "options_of",
]


@dataclass(frozen=True)
class FieldOptions:
    """field"""

    field: str = option(
        "sparse",
        read.one_of("sparse", "reduced", "encoder-decoder", "recurrent", "feed-forward"),
        "vector field: sparse (Eq. 8-9), reduced (Eq. 20), encoder-decoder (Eq. 6-7), recurrent (Eq. 5) or "
        "feed-forward (Eq. 2)",
        "FIELD",
    )
    lam: read.Lam = option(
        "0.1x",
        read.lam,
        "weight of |a|_1 in the objective: a number; or a number with an x, which is a share of each signal's "
        "critical value max |P^T x|",
        "NUMBER[x]",
    )
    weights: Path | None = option(
        "none",
        read.or_none(read.path),
        "array (.npy, .safetensors, zarr) of one weight per atom, or per template, by which its share of the penalty "
        "is multiplied; 0 leaves an atom unpenalised, infinity silences it (default: ones)",
        "FILE",
    )
    bias: Path | None = option(
        "none",
        read.or_none(read.path),
        "array of one bias current per atom, or per template (default: zeros)",
        "FILE",
    )
    alpha: float | Path | None = option(
        "none",
        read.or_none(read.number_or_file),
        "leak of the neurons, or an array of one per neuron, or per colour (default: the field's, 1)",
        "NUMBER|FILE",
    )
    beta: float | Path | None = option(
        "none",
        read.or_none(read.number_or_file),
        "leak of the encoding neurons, or an array of one per atom, or per template (default: 2; 1 for "
        "encoder-decoder)",
        "NUMBER|FILE",
    )
    gamma: float | None = option(
        "none", read.or_none(read.number()), "inhibition between encoding neurons (default: 2)", "NUMBER"
    )
    tau_z: float | Path | None = option(
        "none",
        read.or_none(read.number_or_file),
        "time constant of the neurons, or an array as for --alpha (default: 1)",
        "TIME|FILE",
    )
    tau_u: float | Path | None = option(
        "none",
        read.or_none(read.number_or_file),
        "time constant of the encoding neurons, or an array as for --beta (default: 1)",
        "TIME|FILE",
    )
    threshold: str | None = option(
        "none",
        read.or_none(read.one_of("soft", "nonnegative")),
        "gate of the encoding neurons (default: soft)",
        "soft|nonnegative",
    )


@dataclass(frozen=True)
class SpikingOptions:
    """spiking units"""

    spiking: bool = flag(
        "let integrate-and-fire units spike in place of the field, from rest to --t-max (auto: 1000). Their averaged "
        "spikes approach the code of --lam and --threshold"
    )
    leak: float = option("0", read.number(0.0), "leak of the units' membranes, per time constant", "RATE")
    quantum: float | None = option(
        "auto",
        read.or_auto(read.number(0.0, above=True)),
        "code that one spike per time constant stands for. auto: such that the unit with the most drive starts with "
        "one spike per time constant",
        "NUMBER|auto",
    )
    window: float = option(
        "10", read.number(0.0, above=True), "time between two averages that are recorded, a part of --t-max", "TIME"
    )


@dataclass(frozen=True)
class InterventionOptions:
    """interventions and noise: UNITS are u or z with indices, as in u3,5-9 or zall; several are separated by ;"""

    silence: list[Any] = option("none", acting.silence, "set the output of units to zero", "UNITS[@START:STOP]")
    lesion: list[Any] = option(
        "none", acting.lesion, "remove units: no output, and a potential that stays", "UNITS[@START:STOP]"
    )
    clamp: list[Any] = option(
        "none",
        acting.clamp,
        "hold the potential of u or z, or the output of a (as in a3=0.5)",
        "UNITS=VALUE[@START:STOP]",
    )
    inject: list[Any] = option("none", acting.inject, "add a current", "UNITS=VALUE[@START:STOP]")
    scale_synapses: list[Any] = option(
        "none",
        acting.scale,
        "multiply the synapses of units; of one way only with feedforward:, feedback: or inhibition: in front",
        "[WAY:]UNITS=FACTOR[@START:STOP]",
    )
    noise_z: float = option("0", read.number(0.0), "white noise on z, per root of a time constant", "STRENGTH")
    noise_u: float = option("0", read.number(0.0), "white noise on u, per root of a time constant", "STRENGTH")


@dataclass(frozen=True)
class IntegratorOptions:
    """integrator"""

    method: str = option("dopri5", read.one_of(*METHODS), f"integrator: {', '.join(METHODS)}", "METHOD")
    rtol: float = option("1e-6", read.number(0.0, above=True), "relative tolerance of a step", "NUMBER")
    atol: float = option(
        "1e-8", read.number(0.0, above=True), "absolute tolerance of a step, in units of each signal's size", "NUMBER"
    )
    t_max: float = option(
        "auto",
        read.auto_or(1000.0, read.number(0.0, above=True)),
        "time at which the run ends, in membrane time constants. auto: 1000; the end of a movie; 100 with any other "
        "stimulus that moves",
        "TIME|auto",
    )
    dt: float = option("0.1", read.number(0.0, above=True), "spacing of the times to record, at the start", "TIME")
    times: str = option(
        "auto",
        read.auto_or("octaves", read.one_of("octaves", "even")),
        "octaves: the spacing of the times doubles each time that the time doubles; even: the spacing stays --dt; "
        "auto: octaves, or even with a stimulus that moves",
        "octaves|even|auto",
    )
    gap: float | None = option(
        "auto",
        read.auto_or(1e-6, read.or_none(read.number(0.0, above=True))),
        "relative duality gap at which a signal has settled; none: run to --t-max. auto: 1e-6, or none with a stimulus "
        "that moves for ever, and with a movie that is not over before --t-max",
        "NUMBER|none|auto",
    )
    step: float | None = option(
        "none",
        read.or_none(read.number(0.0, above=True)),
        "step of a fixed-step method, or first step of an adaptive one (default: --dt for a fixed-step method with "
        "--gap none; else chosen)",
        "TIME",
    )
    check_every: float | None = option(
        "none",
        read.or_none(read.number(0.0, above=True)),
        "time between two checks of the gap (default: chosen)",
        "TIME",
    )
    max_steps: int = option("1000000", read.count(1), "largest number of steps", "COUNT")


@dataclass(frozen=True)
class RecordOptions:
    """recording"""

    out: Path | None = option(
        "none",
        read.or_none(read.path),
        "zarr store to write (default: run-0001.zarr, or the next free number)",
        "STORE",
    )
    figure: Path | None = option(
        "auto",
        read.or_none(read.path),
        "picture of the run (.png, .pdf or .svg), or none for no picture (default: the store's name with .png)",
        "FILE|none",
    )
    animate: Path | None = option(
        "none",
        read.or_none(read.path),
        "animation of the run (.gif, or .mp4 with PyAV): stimulus, reconstruction and most active neurons over time",
        "FILE|none",
    )
    record: list[str] | None = option(
        "all", read.or_all(read.names), f"variables to record: all, or names of {','.join(VARIABLES)}", "NAMES"
    )
    every: int = option("1", read.count(1), "record every n-th of the times", "N")
    neurons: list[int] | None = option(
        "all", read.or_all(read.indices), "neurons to record: all, or indices such as 0,5,10-19", "INDICES"
    )
    atoms: list[int] | None = option(
        "all", read.or_all(read.indices), "encoding neurons to record: all, or indices such as 0,5,10-19", "INDICES"
    )
    chunk: int | None = option(
        "auto",
        read.auto_or(16, read.count(1)),
        "number of recorded times that are written at once. auto: 16; with a stimulus that moves, as many as fit in 16 "
        "MiB, at most 64",
        "COUNT|auto",
    )
    resume: bool = flag(
        "continue the run in --out. Options that are not given are those of the store; --t-max may be raised"
    )
    overwrite: bool = flag("replace a store and a picture of the same names")


@dataclass(frozen=True)
class RunOptions:
    """run"""

    seed: int = option("0", read.count(0), "seed of all random numbers", "SEED")
    device: str = option("cpu", str, "device to compute on: cpu, cuda, cuda:1, ...", "DEVICE")
    dtype: str = option("float64", read.one_of("float64", "float32"), "precision of the states", "float64|float32")
    threads: int | None = option(
        "auto",
        read.or_auto(read.count(1, 1024)),
        "threads of the CPU. auto: one for a run so small that threads cost more than they gain, else torch's choice",
        "COUNT|auto",
    )
    workers: int | None = option(
        "none",
        read.or_none(read.count(0)),
        "integrate blocks of signals by themselves, in so many processes of this machine; 0: in this one. Results do "
        "not depend on the number (default: all signals together)",
        "COUNT",
    )
    json: bool = flag("print the result as a JSON object, alone on standard output")
    config: Path | None = option(
        "none",
        read.or_none(read.path),
        "YAML file of options, by their names without the dashes; the command line wins over it",
        "FILE",
    )


@dataclass(frozen=True)
class Options:
    """All options.

    Attributes:
        signals, stimulus, dictionary, field, spiking, interventions, integrator, record, run: the values, in groups.
        text: the text that each value was read from, in the command line, a YAML file, a store, or the default.
        given: the names of the options that the command line or the YAML file gave.
    """

    signals: InputOptions
    stimulus: StimulusOptions
    dictionary: DictionaryOptions
    field: FieldOptions
    spiking: SpikingOptions
    interventions: InterventionOptions
    integrator: IntegratorOptions
    record: RecordOptions
    run: RunOptions
    text: dict[str, str | list[str] | None]
    given: frozenset[str]


def groups() -> dict[str, type[Any]]:
    """The groups of options, by their names in `Options`."""
    hints = get_type_hints(Options).items()
    return {name: kind for name, kind in hints if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
