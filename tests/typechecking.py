"""The run-time type checker of the tests: beartype, less what it cannot resolve."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype.beartype`, without hints of `Self`, which it takes on classes only; jaxtyping hands it functions."""
    hints = getattr(function, "__annotations__", {})
    if isinstance(function, type) or not any(re.search(r"\bSelf\b", str(hint)) for hint in hints.values()):
        return beartype.beartype(function)
    function.__annotations__ = {name: hint for name, hint in hints.items() if not re.search(r"\bSelf\b", str(hint))}
    return beartype.beartype(function)
