"""The benchmark's tables, as Markdown and as plain data for JSON."""

from __future__ import annotations

import datetime as dt
import math
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.benchmark.alternating import Measured, Ratio, ratios
from experiments.benchmark.contract import Row
from experiments.benchmark.machine import machine
from experiments.report import tables
from vars_dyn import _files

__all__ = ["as_json", "goals", "header", "heading", "page", "paragraph", "section", "version_of", "write"]

#: The peers, by their names in the package registry.
PEERS = ("scikit-learn", "celer", "skglm", "spams-bin", "torchode", "diffrax", "jax", "scipy", "zarr")


def header(command: str, rounds: int, device: str) -> dict[str, Any]:
    """Where, when and with what the numbers were measured."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    clock = "seconds of the clock" if device.startswith("cuda") else "processor seconds, one thread"
    return {
        "command": command,
        "date": now,
        "measured": f"{clock}, median of {rounds} alternating rounds",
        "machine": {**machine(device), **{name: version_of(name) for name in PEERS}},
    }


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def heading(head: dict[str, Any]) -> str:
    """When, where and with what the numbers were measured, in Markdown."""
    own = {name: value for name, value in head["machine"].items() if value != "not installed"}
    said = ", ".join(f"{name} {value}" for name, value in own.items())
    said = paragraph(f"with {said}.")
    return f"Measured on {head['date']} ({head['measured']}) by\n\n    {head['command']}\n\n{said}\n"


def paragraph(text: str) -> str:
    """A text in lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)


def goals(rows: Sequence[tuple[Row, list[Measured]]]) -> str:
    """The ratios of all rows that have a goal, in Markdown."""
    compared = [
        [row.name, *_compared(one)]
        for row, measured in rows
        for one in ratios(row, measured)
        if _is_goal(one) and one.value is not None
    ]
    return tables.markdown(["row", "ours", "peer", "of", "ratio", "goal, at most", ""], compared, spaced=True)


def as_json(row: Row, measured: list[Measured]) -> dict[str, Any]:
    """A row with everything that was measured of it, as plain data."""
    contenders = [
        {
            "name": one.name,
            "ours": one.ours,
            "seconds": one.seconds if one.times else None,
            "rounds": one.times,
            "findings": {name: _finite(value) for name, value in one.findings.items()},
            "failure": one.failure,
        }
        for one in measured
    ]
    compared = [_plain(one) for one in ratios(row, measured)]
    facts = {"name": row.name, "work": row.work, "accuracy": row.measure, "wanted": row.wanted}
    return {**facts, "contenders": contenders, "ratios": compared}


def _plain(one: Ratio) -> dict[str, Any]:
    met = one.met if _is_goal(one) else None
    goal = {**one.goal.__dict__, "at_most": _finite(one.goal.at_most)}
    return {**goal, "ratio": one.value, "counts": one.counts, "met": met}


def section(row: Row, measured: list[Measured]) -> str:
    """A row in Markdown: its contenders and the ratios."""
    others = sorted({name for one in measured for name in one.findings} - {"accuracy"})
    titles = ["contender", "seconds", row.measure, *others]
    compared = [_compared(one) for one in ratios(row, measured) if one.value is not None]
    return "\n".join(
        [
            f"### {row.name}\n",
            f"{row.work}; {row.measure} at most {row.wanted:g}.\n",
            tables.markdown(titles, [_contender(one, others) for one in measured], spaced=True),
            tables.markdown(["ours", "peer", "of", "ratio", "goal", ""], compared, spaced=True),
        ]
    )


def page(head: dict[str, Any], done: Sequence[tuple[Row, list[Measured]]]) -> str:
    """The whole page in Markdown: the goals, the machine and the versions, and the rows."""
    sections = [section(row, measured) for row, measured in done]
    return "\n".join(["## Goals\n", goals(done), "## As measured\n", heading(head), *sections])


def write(path: Path, text: str) -> None:
    """Write a file so that it appears whole or not at all."""
    _files.write_text(path, text)


def _contender(one: Measured, others: list[str]) -> list[str]:
    if one.failure:
        return [one.name, one.failure, *[""] * (1 + len(others))]
    findings = [f"{one.findings[name]:.3g}" if name in one.findings else "" for name in ("accuracy", *others)]
    return [one.name, f"{one.seconds:.3g}", *findings]


def _compared(one: Ratio) -> list[str]:
    verdict = "met" if one.met else "not met" if one.counts else "less accurate: does not count"
    if not _is_goal(one):
        verdict = "" if one.counts else verdict
    limit = f"{one.goal.at_most:.3g}" if _is_goal(one) else ""
    return [one.goal.ours, one.goal.peer, one.goal.quantity, f"{one.value:.3g}", limit, verdict]


def _is_goal(one: Ratio) -> bool:
    return not math.isnan(one.goal.at_most)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
