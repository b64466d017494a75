"""Checks and messages that all readers of files share."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["one_line", "regular_file"]


def regular_file(path: Path, wanted: str) -> None:
    """ValueError where `path` is no regular file, because reading a pipe or a device might never end."""
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ValueError(f"{path} cannot be read: {reason}; {wanted} is wanted") from None
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "no regular file"
        raise ValueError(f"{path} is {what}; {wanted} is wanted")


def one_line(message: object) -> str:
    """A message on one line."""
    return " ".join(str(message).split())
