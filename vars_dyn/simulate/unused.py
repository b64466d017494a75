"""Find options that were given but would change nothing. Ignoring one in silence would mislead the user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vars_dyn.images import Signals
from vars_dyn.integration import method_for
from vars_dyn.simulate.declaring import written
from vars_dyn.simulate.inputs import is_array
from vars_dyn.simulate.options import Options
from vars_dyn.simulate.spikes import unused_by_spikes

__all__ = ["check_used", "idle_options"]

_BANK = ("orientations", "scales", "phases", "places", "wavelength", "speeds", "bands")
#: What signals are, by the dimensions of their array.
_KINDS = {2: "vectors", 3: "sounds", 4: "images", 5: "movies"}
_CALLED = {
    "vectors": "patches of images",
    "sounds": "sounds, whose tones differ in frequency",
    "images": "--whole, where templates are at all places",
    "movies": "movies, where templates are at all places",
}
#: The options of a built-in bank that each kind of signal takes.
_USED = {
    "vectors": {"orientations", "scales", "phases", "places", "wavelength"},
    "sounds": {"phases", "bands"},
    "images": {"orientations", "scales", "phases", "wavelength"},
    "movies": {"orientations", "scales", "phases", "wavelength", "speeds"},
}
_TOLERANCES = ("rtol", "atol")
_CUTS = ("patch", "stride", "patches")
_PIXELS = ("crop", "colour", "background")
_IMAGES = ("scale", *_PIXELS, *_CUTS, "movie")


def check_used(options: Options, signals: Signals) -> list[str]:
    """Warnings of a --seed or --dictionary that changes nothing; ValueError for any other option that does nothing."""
    for name, reason in idle_options(options, signals):
        if name in options.given:
            raise ValueError(f"{written(name)} does nothing {reason}; leave it out")
    passed = []
    if "seed" in options.given and not _draws(options):
        passed.append("--seed changes nothing: neither noise, --dictionary random:M nor --patches draws by it")
    if "dictionary" in options.given and options.field.field == "feed-forward":
        passed.append("--dictionary changes nothing: --field feed-forward has none")
    return passed


def idle_options(options: Options, signals: Signals) -> Iterator[tuple[str, str]]:
    """The options that do nothing here, each with the reason."""
    chosen, dictionary, recording = options.signals, options.dictionary, options.record
    kind, source = _KINDS[signals.values.ndim], dictionary.dictionary
    built = source in ("gabor", "gammatone")
    array = any(is_array(Path(name)) for name in chosen.input)
    if kind == "vectors" and signals.patch_colours is None:
        yield from ((name, "with an array of signals, which is taken row by row") for name in _IMAGES)
    elif kind == "sounds":
        yield from ((name, "with a sound") for name in (*_PIXELS, "movie"))
    elif array:
        yield from ((name, "with a stack of grey images") for name in ("colour", "background"))
    if kind in ("sounds", "movies"):
        yield from ((name, f"with {kind}, which are coded whole") for name in (*_CUTS, "whole"))
    elif options.stimulus.stimulus != "movie":
        yield "clip", "without a sound or a movie"
    if kind != "sounds":
        yield "channels", "without a sound"
    if kind == "images":
        yield from ((name, "with --whole") for name in _CUTS)
    elif kind == "vectors":
        yield from ((name, "without --whole") for name in ("kernel", "conv_stride"))
    idle = set(_BANK) if not built else set(_BANK) - _USED[kind]
    reason = f"with --dictionary {source}" if not built else f"with {_CALLED[kind]}"
    yield from ((name, reason) for name in _BANK if name in idle)
    if not built and kind != "vectors" and not source.startswith("random:"):
        yield "kernel", f"with --dictionary {source}, whose templates have their own size"
    if not options.spiking.spiking:
        yield from ((name, "without --spiking") for name in ("leak", "quantum", "window"))
    else:
        yield from ((name, "with --spiking") for name in unused_by_spikes())
    if options.integrator.gap is None:
        yield "check_every", "with --gap none"
    if not method_for(options.integrator.method).uses_tolerance:
        yield from ((name, f"with --method {options.integrator.method}, which steps by --step") for name in _TOLERANCES)
    if recording.record is not None:
        if "z" not in recording.record:
            yield "neurons", f"with --record {','.join(recording.record)}, without z"
        if not {"u", "code"} & set(recording.record):
            yield "atoms", f"with --record {','.join(recording.record)}, without u and code"


def _draws(options: Options) -> bool:
    noisy = options.interventions.noise_z > 0 or options.interventions.noise_u > 0
    drawn = options.signals.patches is not None or options.dictionary.dictionary.startswith("random:")
    return noisy or drawn or options.stimulus.stimulus == "noise"
