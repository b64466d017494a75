"""The pictures that a run leaves behind: a figure and an animation. Only files that a simulation made are replaced."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from vars_dyn._files import check_place, is_our_picture, replacing
from vars_dyn._version import __version__
from vars_dyn.plotting import animate, summary
from vars_dyn.recording import StoreError
from vars_dyn.stimuli import Stimulus

__all__ = ["FIGURE_SUFFIXES", "check_picture", "save_animation", "save_figure"]

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


def check_picture(option: str, file: Path | None, suffixes: Sequence[str], sources: Sequence[Path]) -> None:
    """Raise ValueError if a picture cannot be written, or would replace a file that no simulation made."""
    if file is None:
        return
    if file.suffix.lower() not in suffixes:
        raise ValueError(f"{option} is {file}; a name ending in {', '.join(suffixes[:-1])} or {suffixes[-1]} is wanted")
    if file.resolve() in [source.resolve() for source in sources]:
        raise ValueError(f"{option} {file} is an INPUT; another name is wanted")
    check_place(option, file)
    if file.is_dir():
        raise ValueError(f"{option} {file} is a folder; the name of a picture is wanted")
    if os.path.lexists(file) and not is_our_picture(file):
        raise ValueError(f"{option} {file} exists and is no figure of a simulation; another name is wanted")
    folder = file.parent
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"{option} {file} cannot be written: {folder} is no folder that may be written to")


def save_figure(dataset: xr.Dataset, figure: Path, draw: Callable[[xr.Dataset], Figure] = summary) -> None:
    """Draw the summary to a file, which gets its name when it is complete."""
    mark = f"vars_dyn {__version__}"
    metadata = {".png": {"Software": mark}, ".pdf": {"Creator": mark}, ".svg": {"Creator": mark}}[figure.suffix.lower()]
    try:
        with replacing(figure) as partial:
            draw(dataset).savefig(partial, dpi=100, metadata=metadata)
    except OSError as error:
        raise _unwritten("--figure", figure, dataset, error) from error


def save_animation(dataset: xr.Dataset, file: Path, stimulus: Stimulus | None = None) -> None:
    """Write the animation to a file, which gets its name when it is complete, with a bar of progress.

    `stimulus` is what the field saw, where it moved.
    """

    def seen(time: float) -> NDArray[Any]:
        return np.asarray(dataset["signals"] if stimulus is None else stimulus(time).detach().cpu().numpy())

    with tqdm(desc="animation", unit="image", disable=None, leave=False, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            with suppress(OSError):  # the run goes on if the terminal is closed
                bar.update(done - bar.n)

        try:
            animate(dataset, file, stimulus=None if stimulus is None else seen, progress=show)
        except ValueError as error:
            raise StoreError(
                f"--animate {file} cannot be made: {error}; the store {dataset.encoding['source']} is complete"
            ) from error
        except OSError as error:
            raise _unwritten("--animate", file, dataset, error) from error


def _unwritten(option: str, file: Path, dataset: xr.Dataset, error: OSError) -> StoreError:
    return StoreError(
        f"{option} {file} cannot be written: {error.strerror or error}; "
        f"the store {dataset.encoding['source']} is complete"
    )
