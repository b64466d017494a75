"""What a user may have meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["meant"]

#: How alike two names must be, from 0 to 1, and the most that are suggested.
_ALIKE, _MOST = 0.6, 2


def meant(name: object, known: Iterable[str]) -> str:
    """`; did you mean NAME?` for the known names that are closest to `name`; empty where none is close."""
    if not isinstance(name, str):
        return ""
    by_plain = {_plain(each): each for each in known}
    close = get_close_matches(_plain(name), list(by_plain), n=_MOST, cutoff=_ALIKE)
    return f"; did you mean {' or '.join(by_plain[each] for each in close)}?" if close else ""


def _plain(name: str) -> str:
    """The name as it is compared: in lower case, with one kind of dash, and without dashes in front."""
    return name.lower().replace("_", "-").lstrip("-")
