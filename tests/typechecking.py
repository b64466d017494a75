"""The run-time type checker of the tests, which is beartype without the hints that it cannot resolve."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import beartype

# PEP 484: an int is taken where a float is annotated.
_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype.beartype` without hints of `Self`. It takes them on classes only, and jaxtyping passes it functions."""
    hints = getattr(function, "__annotations__", {})
    if isinstance(function, type) or not any(re.search(r"\bSelf\b", str(hint)) for hint in hints.values()):
        return _beartype(function)
    function.__annotations__ = {name: hint for name, hint in hints.items() if not re.search(r"\bSelf\b", str(hint))}
    return _beartype(function)
