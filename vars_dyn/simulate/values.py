"""Readers of options. Each turns a text into a value, or raises ValueError with what came and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vars_dyn._names import VARIABLES
from vars_dyn._suggestions import meant

__all__ = [
    "Clip",
    "Lam",
    "auto_or",
    "box",
    "clip",
    "count",
    "flash",
    "fraction",
    "full_scale",
    "indices",
    "lam",
    "names",
    "number",
    "one_of",
    "or_all",
    "or_auto",
    "or_none",
    "path",
    "shown",
    "sides",
    "size",
    "speeds",
    "yes",
]

#: Largest number of indices. Checking more would take longer than most runs.
_INDICES = 10**7


class Clip(NamedTuple):
    """A part of a sound or movie: where it starts and stops, in seconds or numbers of frames, and the step."""

    ends: tuple[tuple[float, bool], tuple[float, bool]]
    step: int


class Lam(NamedTuple):
    """The weight of |a|_1: a number, or a share of each signal's critical value max |P^T x|."""

    value: float
    is_share: bool


def shown(text: str) -> str:
    """The text in quotes, cut after 200 characters."""
    return repr(text) if len(text) <= 200 else f"{text[:200]!r}..."


def path(text: str) -> Path:
    """Read a path."""
    if not text or "\0" in text:
        raise ValueError(f"{shown(text)}; a path is wanted")
    return Path(text)


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{shown(text)}; a number from 0 to 1 is wanted")
    return value


def size(text: str) -> tuple[int, int]:
    """Read a height and a width in pixels."""
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        height = width = 0
    if not (0 < height <= 10**5 and 0 < width <= 10**5):
        raise ValueError(f"{shown(text)}; HEIGHT,WIDTH in pixels, at most 100000 each, is wanted")
    return height, width


def flash(text: str) -> tuple[float, float]:
    """Read an onset and a duration in milliseconds."""
    try:
        onset, duration = (float(part) for part in text.split(","))
    except ValueError:
        onset = duration = math.nan
    if not (math.isfinite(onset) and 0 < duration < math.inf):
        raise ValueError(f"{shown(text)}; ONSET,DURATION in milliseconds, with a duration above 0, is wanted")
    return onset, duration


def full_scale(text: str) -> str | float:
    """Read auto, dtype, none, or a number above zero."""
    if text in ("auto", "dtype", "none"):
        return text
    try:
        return number(0.0, above=True)(text)
    except ValueError:
        raise ValueError(f"{shown(text)}; auto, dtype, none, or a number above 0 is wanted") from None


def number(least: float = -math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Make a reader of finite numbers of at least `least`, or above it."""
    wanted = "a number" if least == -math.inf else f"a number {'above' if above else 'of at least'} {least:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least or (above and value == least):
            raise ValueError(f"{shown(text)}; {wanted} is wanted")
        return value

    return read


def number_or_file(text: str) -> float | Path:
    """Read a finite number, or the path of a file of numbers, which has the ending of one."""
    if Path(text).suffix.lower() in (".npy", ".safetensors", ".zarr"):
        return path(text)
    try:
        return number()(text)
    except ValueError:
        raise ValueError(
            f"{shown(text)}; a number, or a file .npy, .safetensors or .zarr of numbers, is wanted"
        ) from None


def count(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Make a reader of integers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise ValueError(f"{shown(text)}; an integer of at least {least} is wanted")
        if value > most:
            raise ValueError(f"{shown(text)}; an integer of at most {most} is wanted")
        return value

    return read


def one_of(*names: str) -> Callable[[str], str]:
    """Make a reader of one of the names."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"{shown(text)}; one of {', '.join(names)} is wanted{meant(text, names)}")
        return text

    return read


def or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader that takes `none` as None, and passes any other text to `read`."""
    return _or("none", read)


def or_all(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader that takes `all` as None, and passes any other text to `read`."""
    return _or("all", read)


def or_auto(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader that takes `auto` as None, and passes any other text to `read`."""
    return _or("auto", read)


def auto_or(default: Any, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader that takes `auto` as the default, and passes any other text to `read`."""
    return lambda text: default if text == "auto" else read(text)


def _or(word: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == word else read(text)


def names(text: str) -> list[str]:
    """Read names of variables, separated by commas."""
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if name not in VARIABLES or found.count(name) > 1:
            wanted = f"names of {', '.join(VARIABLES)}, each once, separated by commas,"
            raise ValueError(f"{shown(text)}; {wanted} are wanted{meant(name, VARIABLES)}")
    return found


def indices(text: str) -> list[int]:
    """Read indices and ranges of indices, separated by commas."""
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            chosen = range(int(first), int(last) + 1) if dash else range(int(first), int(first) + 1)
            if chosen.stop - chosen.start > _INDICES - len(found):
                raise ValueError(f"{shown(text)}; at most {_INDICES} indices are wanted")
            if not chosen:
                raise ValueError(f"{shown(text)}; indices such as 0,5,10-19 are wanted")
            found += chosen
    except ValueError as error:
        if "wanted" in str(error):
            raise
        raise ValueError(f"{shown(text)}; indices such as 0,5,10-19 are wanted") from None
    return found


def box(text: str) -> tuple[int, ...]:
    """Read four integers: top, left, height and width."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 4:
        raise ValueError(f"{shown(text)}; TOP,LEFT,HEIGHT,WIDTH in pixels is wanted")
    return found


def clip(text: str) -> Clip:
    """Read START,STOP or START,STOP,STEP: numbers of frames or samples, or seconds, such as 0.5s."""
    try:
        first, last, *rest = (part.strip() for part in text.split(","))
        ends = [(float(part[:-1]), True) if part.endswith("s") else (float(int(part)), False) for part in (first, last)]
        (step,) = [int(part) for part in rest] or [1]
        if step < 1 or not all(math.isfinite(value) and 0 <= value < 2**53 for value, _ in ends):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{shown(text)}; START,STOP or START,STOP,STEP is wanted, in numbers of frames or samples, or in seconds "
            "such as 0.5s,2s"
        ) from None
    return Clip((ends[0], ends[1]), step)


def sides(least: int) -> Callable[[str], tuple[int, ...]]:
    """Make a reader of one integer of at least `least`, or of one for each dimension, separated by commas."""

    def read(text: str) -> tuple[int, ...]:
        try:
            found = tuple(int(part) for part in text.split(","))
        except ValueError:
            found = ()
        if not 1 <= len(found) <= 3 or min(found) < least or max(found) >= 2**31:
            raise ValueError(
                f"{shown(text)}; an integer of at least {least}, or one for each dimension such as 5,11,11, is wanted"
            )
        return found

    return read


def speeds(text: str) -> tuple[float, ...]:
    """Read numbers of at least 0, separated by commas."""
    try:
        found = tuple(number(0.0)(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{shown(text)}; numbers of at least 0, each once, separated by commas, are wanted")
    return found


def lam(text: str) -> Lam:
    """Read a number, or a share of the critical value such as 0.2x."""
    is_share = text.endswith("x")
    try:
        return Lam(number(0.0)(text.removesuffix("x")), is_share)
    except ValueError:
        raise ValueError(f"{shown(text)}; a number of at least 0, or a share such as 0.2x, is wanted") from None


def yes(text: str) -> bool:
    """Read yes or no."""
    if text not in ("yes", "no"):
        raise ValueError(f"{shown(text)}; yes or no is wanted")
    return text == "yes"
