"""The options of the command that learns, and their parser; they are read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vars_dyn._command import CommandParser

__all__ = ["LearnOptions", "parser"]


@dataclass
class LearnOptions:
    """What is learned from what, and how.

    Attributes:
        out: the folder of the run; by default a fresh one, learned-0001, learned-0002, ...
        figure: picture of the atoms and the course; by default atoms.png in the folder, none draws none.
        kind: dense learns atoms of whole patches, conv learns templates that may sit at every place of a patch.
        patch: side of the square patches in pixels.
        atoms: number of atoms; by default twice the entries of a patch, or 32 templates.
        kernel: with conv, side of the templates in pixels.
        colour: learn from colours instead of grey.
        whiten: olshausen-field filters whole images, zca whitens patches, none leaves them as they are.
        contrast: floor of the normalisation of contrast, as a root mean square; null does not normalise.
        lam: weight of |a|_1. Filtered images have unit variance per pixel.
        method: how the dictionary changes.
        codes: how codes are found.
        nonnegative: only codes of at least zero.
        nonnegative_atoms: only atoms without negative entries.
        norm: sphere keeps atoms at norm 1, ball at most at 1.
        patience: signals after which an unused atom is revived.
        rate: learning rate of hebbian (default 0.1) or of Adam (default 0.01).
        forgetting: exponent with which the online method forgets old codes.
        tol: relative gap of the codes.
        horizon: time of the codes with integrate, in membrane time constants.
        steps: number of batches.
        batch: signals in a batch.
        seed: the seed of everything random.
        every: steps between checkpoints.
        processes: processes that code a part of each batch; the result is that of one to rounding.
        dtype: precision of everything.
        on_bad: refuse ends the run at an image that cannot be used and names it; skip warns and goes on.
    """

    out: str | None = None
    figure: str | None = "auto"
    kind: Literal["dense", "conv"] = "dense"
    patch: int = 12
    atoms: int | None = None
    kernel: int = 9
    colour: bool = False
    whiten: Literal["olshausen-field", "zca", "none"] = "olshausen-field"
    contrast: float | None = None
    lam: float = 1.5
    method: Literal["online", "hebbian", "gradient"] = "online"
    codes: Literal["solve", "equilibrium", "integrate"] = "solve"
    nonnegative: bool = False
    nonnegative_atoms: bool = False
    norm: Literal["sphere", "ball"] = "sphere"
    patience: int = 10000
    rate: float | None = None
    forgetting: float = 5.0
    tol: float = 1e-4
    horizon: float = 20.0
    steps: int = 1000
    batch: int = 256
    seed: int = 0
    every: int = 100
    processes: int = 1
    dtype: Literal["float32", "float64"] = "float64"
    on_bad: Literal["refuse", "skip"] = "refuse"


def parser() -> CommandParser:
    """The parser of the command's arguments."""
    made = CommandParser(
        prog="python -m vars_dyn.learn",
        description="Learn the atoms of a dictionary from photographs, or from an array of signals.",
        epilog="Exit status: 0 done; 2 bad input or arguments; 130 interrupted and 143 terminated (the command that "
        "continues the run is printed).",
    )
    made.add_argument("--config", action="config", help="YAML file of options")
    made.add_argument(
        "images", nargs="*", type=str, default=[], metavar="IMAGES",
        help="image files, or folders of them; or one .npy file or zarr array of signals, a signal a row. Default: the "
        "photographs that come with matplotlib, scikit-learn and scikit-image, where these are installed",
    )  # fmt: skip
    made.add_class_arguments(LearnOptions, None)
    made.add_argument("--resume", action="store_true", help="go on with the run in --out, with its options")
    made.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    return made
