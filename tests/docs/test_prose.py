"""The sources of the documentation wrap at the width of code, so that a diff shows which sentence changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIDTH = 120
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def too_long(text: str) -> Iterator[str]:
    """The lines of prose that are too long; tables, pictures, code and the targets of links do not count."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("```", ":::")):
            fenced = not fenced
        if fenced or line.startswith(("|", "    ", "![")):
            continue
        seen = re.sub(r"\]\([^)]*\)|^\[[^]]+\]: \S+$", "]", line)
        if len(seen) > WIDTH:
            yield f"line {number} has {len(seen)} characters"


def is_generated(page: Path) -> bool:
    return "_build" in page.parts or page.name == "table.md" or page.parent.name == "generated"


@pytest.mark.parametrize("page", [page for page in PAGES if not is_generated(page)], ids=lambda p: p.name)
def test_prose_wraps(page: Path) -> None:
    found = list(too_long(page.read_text(encoding="utf-8")))
    assert not found, f"{page.relative_to(ROOT)}: {'; '.join(found)}; at most {WIDTH} are wanted"


def test_long_prose_is_found_and_what_cannot_wrap_is_not() -> None:
    long = "word " * 30
    kept = f"| {long} |\n![{long}](a.png)\n    {long}\n```python\n{long}\n```\n[here](https://example.org/{'a' * 120})"
    assert list(too_long(kept)) == []
    assert list(too_long(f"{kept}\n{long}\n- [{long}](a.md)")) == [
        "line 8 has 150 characters",
        "line 9 has 154 characters",
    ]
