"""Find options that were given but would change nothing. Ignoring one in silence would mislead the user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vars_dyn.images import Signals
from vars_dyn.integration import method_for
from vars_dyn.simulate.inputs import is_array
from vars_dyn.simulate.options import Options, written

__all__ = ["check_used", "idle_options"]

_BANK = ("orientations", "scales", "phases", "places", "wavelength")
_TOLERANCES = ("rtol", "atol")
_IMAGES = ("crop", "scale", "patch", "stride", "patches", "colour", "background")


def check_used(options: Options, signals: Signals) -> list[str]:
    """Warnings of a --seed or --dictionary that changes nothing; ValueError for any other option that does nothing."""
    for name, reason in idle_options(options, signals):
        if name in options.given:
            raise ValueError(f"{written(name)} does nothing {reason}; leave it out")
    passed = []
    if "seed" in options.given and not _draws(options):
        passed.append("--seed changes nothing: neither --dictionary random:M nor --patches draws by it")
    if "dictionary" in options.given and options.field.field == "feed-forward":
        passed.append("--dictionary changes nothing: --field feed-forward has none")
    return passed


def idle_options(options: Options, signals: Signals) -> Iterator[tuple[str, str]]:
    """The options that do nothing here, each with the reason."""
    chosen, dictionary, recording = options.signals, options.dictionary, options.record
    whole, bank = chosen.whole, dictionary.dictionary == "gabor"
    rows = signals.patch_colours is None and not whole
    array = any(is_array(Path(name)) for name in chosen.input)
    if rows:
        yield from ((name, "with an array of signals, which is taken row by row") for name in _IMAGES)
    elif array:
        yield from ((name, "with a stack of grey images") for name in ("colour", "background"))
    if whole:
        yield from ((name, "with --whole") for name in ("patch", "stride", "patches"))
    else:
        yield from ((name, "without --whole") for name in ("kernel", "conv_stride"))
    if not bank:
        yield from ((name, f"with --dictionary {dictionary.dictionary}") for name in _BANK)
        if whole and not dictionary.dictionary.startswith("random:"):
            yield "kernel", f"with --dictionary {dictionary.dictionary}, whose templates have their own size"
    elif whole:
        yield "places", "with --whole, where templates are at all places"
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
    return (
        options.stimulus.stimulus == "noise"
        or options.signals.patches is not None
        or options.dictionary.dictionary.startswith("random:")
    )
