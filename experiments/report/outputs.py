"""Marks on what commands write. By them a command knows its own files, and replaces no other file unasked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

import vars_dyn
from vars_dyn import _files

__all__ = ["MARK", "holds_records", "marked", "refuse_foreign"]

#: The mark that pictures carry.
MARK = f"vars_dyn {vars_dyn.__version__}"


def marked(path: Path) -> dict[str, Any]:
    """The metadata that mark a picture of this name as made here."""
    marks: dict[str, dict[str, Any]] = {
        ".png": {"Software": MARK},
        ".pdf": {"Creator": MARK},
        ".svg": {"Creator": [MARK]},
    }
    return marks.get(path.suffix.lower(), {})


def refuse_foreign(paths: Iterable[Path], overwrite: bool | None = None, beside: Path | None = None) -> None:
    """Raise ValueError if one of `paths` is something that no command of this package made.

    Pictures carry a mark. Tables and numbers do not. They count as this package's if `beside`, a file that only this
    package writes, is there. So do pictures by Matplotlib, because earlier versions did not mark them.
    """
    for path in paths:
        if overwrite and path.is_file() and not path.is_symlink():
            continue
        if os.path.lexists(path) and not _is_own(path, beside is not None and holds_records(beside)):
            or_else = "another --out" if overwrite is None else "--overwrite true, or another --out,"
            raise ValueError(f"{path} exists, and no command of this package made it; {or_else} is wanted")


def holds_records(path: Path) -> bool:
    """Whether a file of one JSON object, or of one a line, begins as the numbers of this package do."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.readline(1 << 20)
            if text.strip() == "{":
                text += file.read(1 << 24)
        found = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool({"metric", "event", "rows", "records", "attributes"} & set(found))


def _is_own(path: Path, known: bool) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if path.suffix.lower() in (".png", ".pdf", ".svg"):
        return _files.is_our_picture(path) or (known and "Matplotlib" in _told(path, "Software"))
    if path.suffix.lower() == ".gif":
        return "vars_dyn" in _told(path, "comment")
    return known or holds_records(path)


def _told(path: Path, name: str) -> str:
    try:
        with Image.open(path) as image:
            return str(image.info.get(name, ""))
    except (OSError, ValueError, SyntaxError):
        return ""
