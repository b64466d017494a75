"""Tables in Markdown and LaTeX. Every table that a command writes is made here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Entry", "Link", "head", "latex", "markdown", "row"]


class Link(NamedTuple):
    """A cell that links its text to a file, or to a place in it."""

    text: str
    target: str


#: What stands in a cell; None is a dash.
Entry = str | Link | None


def markdown(
    titles: Sequence[str], rows: Iterable[Sequence[Entry]], left: int | None = None, *, spaced: bool = False
) -> str:
    """The table in Markdown. See `head` for `left` and `spaced`."""
    return "\n".join([*head(titles, left, spaced=spaced), *map(row, rows)]) + "\n"


def head(titles: Sequence[str], left: int | None = None, *, spaced: bool = False) -> list[str]:
    """The two lines above the rows of a Markdown table.

    The first `left` columns are aligned to the left and the others to the right. With None no alignment is given.
    `spaced` puts blanks around the dashes.
    """
    words = len(titles) if left is None else left
    rules = ["---"] * words + ["---:"] * (len(titles) - words)
    return [row(titles), row(rules) if spaced else f"|{'|'.join(rules)}|"]


def row(cells: Sequence[Entry]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(_markdown, cells))} |"


def _markdown(cell: Entry) -> str:
    if isinstance(cell, Link):
        return f"[{cell.text}]({cell.target})"
    return "-" if cell is None else cell


def latex(titles: Sequence[str], rows: Iterable[Sequence[Entry]]) -> str:
    """The table as a LaTeX tabular, with its first column aligned to the left. Links need the package hyperref."""
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}", r"\hline", rf"{' & '.join(titles)} \\", r"\hline"]
    lines += [rf"{' & '.join(map(_latex, cells))} \\" for cells in rows]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _latex(cell: Entry) -> str:
    if isinstance(cell, Link):
        target = cell.target.replace("#", r"\#")
        return rf"\href{{{target}}}{{{cell.text}}}"
    return "--" if cell is None else re.sub(r"([&%$#_{}])", r"\\\1", cell)
