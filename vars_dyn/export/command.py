"""The command: a store and a format to a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vars_dyn import _process
from vars_dyn._command import CommandParser
from vars_dyn._files import StoreError, check_place, replacing
from vars_dyn.export.sources import opened

__all__ = ["ExportOptions", "main"]

_SUFFIXES = {"nwb": ".nwb", "netcdf": ".nc"}
_PACKAGES = {"nwb": "pynwb", "netcdf": "h5netcdf"}


@dataclass(frozen=True)
class ExportOptions:
    """What is written; `--help` says what each option is."""

    store: str
    to: str
    out: str | None
    tau_ms: float | None
    overwrite: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 2 bad input, 130 interrupted, 143 terminated."""
    return _process.run_command(_run, list(sys.argv[1:] if arguments is None else arguments))


def _run(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="python -m vars_dyn.export",
        description="Write a recorded run to a file that other programs read. A run that is still being recorded is "
        "written up to its last commit.",
    )
    parser.add_argument("store", type=str, metavar="STORE", help="the store of a run, such as run-0001.zarr")
    parser.add_argument("--to", required=True, choices=tuple(_SUFFIXES), help="the format: nwb (Neurodata Without "
                        "Borders 2, for physiologists) or netcdf (netCDF 4)")  # fmt: skip
    parser.add_argument("--out", type=str, metavar="FILE", help="the file (default: beside the store, with its name)")
    parser.add_argument("--tau-ms", type=float, metavar="NUMBER", help="with --to nwb: the membrane time constant in "
                        "milliseconds, for a run that does not know it")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a file that this command wrote")
    options = ExportOptions(**vars(parser.parse_args(words)))
    store = Path(options.store)
    dataset = opened(store)
    suffix = _SUFFIXES[options.to]
    file = store.with_suffix(suffix) if options.out is None else Path(options.out)
    if file.suffix.lower() != suffix:
        raise ValueError(f"--out is {file}; a name ending in {suffix} is wanted")
    if options.tau_ms is not None and options.to != "nwb":
        raise ValueError("--tau-ms does nothing with --to netcdf, whose times stay in time constants; leave it out")
    if options.tau_ms is not None and not options.tau_ms > 0:
        raise ValueError(f"--tau-ms is {options.tau_ms:g}; a number above zero is wanted")
    check_place("--out", file, [store])
    try:
        if options.to == "nwb":
            from vars_dyn.export.nwb import is_our_nwb, write_nwb  # deferred: pynwb, of the extra nwb
        else:
            from vars_dyn.export.netcdf import is_our_netcdf, write_netcdf  # deferred: h5netcdf, of the extra netcdf
    except ImportError as error:
        extra = f'pip install "vars_dyn[{options.to}]"'
        raise ValueError(f"{error.name or _PACKAGES[options.to]} is not installed; {extra} gets it") from None
    if os.path.lexists(file):
        ours = file.is_file() and (is_our_nwb(file) if options.to == "nwb" else is_our_netcdf(file))
        if not ours:
            raise StoreError(f"{file} exists and is no file that this command wrote; another name is wanted")
        if not options.overwrite:
            raise StoreError(f"{file} exists; choose another name, or --overwrite it")
    with replacing(file) as partial:
        if options.to == "nwb":
            write_nwb(dataset, partial, tau_ms=options.tau_ms)
        else:
            write_netcdf(dataset, partial)
    times = dataset.sizes.get("time", 0)
    _process.tell(f"{file}: {file.stat().st_size / 1e6:.1f} MB, with {times} recorded times")
    return 0
