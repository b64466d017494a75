"""The pictures of docs/architecture.md agree with the source, and the names on the page exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PICTURES = ROOT / "docs" / "_static" / "architecture"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "examples" / "architecture.py"), run_name="example")


@pytest.fixture(scope="module")
def source(example: dict[str, Any]) -> Any:
    return example["Source"](ROOT)


def test_the_pictures_are_those_of_the_source(example: dict[str, Any], source: Any) -> None:
    for name, text in example["pictures"](source).items():
        ET.fromstring(text)
        assert (PICTURES / name).read_text(encoding="utf-8") == text, (
            f"{name} shows an older source; run python docs/examples/architecture.py"
        )
        assert f"_static/architecture/{name}" in PAGE.read_text()
    assert {path.name for path in PICTURES.iterdir()} == example["pictures"](source).keys()


@pytest.mark.parametrize(
    ("stops", "arrow", "words"),
    [
        ((("solve", "vars_dyn.solvers"), ("nowhere", "vars_dyn")), "", "vars_dyn defines nowhere in no module"),
        ((("solve", "vars_dyn.solvers"), ("record", "vars_dyn.recording")), "Riddle", "no module defines Riddle"),
        ((("Rkc", "vars_dyn"), ("GaborBank", "vars_dyn")), "", "do not know of each other"),
    ],
)
def test_what_the_source_has_not_is_not_drawn(
    example: dict[str, Any], source: Any, stops: tuple[tuple[str, str], ...], arrow: str, words: str
) -> None:
    drawn = [example["Stop"](*stop, column, 0) for column, stop in enumerate(stops)]
    way = example["Way"]("a way", drawn, [example["Arrow"](0, 1, arrow)])
    with pytest.raises(ValueError, match=words):
        example["drawn_way"](way, source)


def test_the_page_names_files_that_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:vars_dyn|models|experiments|tests|docs)/[\w./]*)`", text)
    assert len(named) > 30
    missing = [name for name in named if not (ROOT / name).exists() and "NAME" not in name]
    assert not missing, f"docs/architecture.md names {', '.join(missing)}, which is not there"


def test_the_page_names_what_the_files_define() -> None:
    """Where the page says `NAME` of `FILE` or `NAME` in `FILE`, the file has the name."""
    pairs = re.findall(r"`(\w+)` (?:of|in) `([\w./]+\.py)`", PAGE.read_text(encoding="utf-8"))
    assert len(pairs) > 8
    for name, file in pairs:
        if file.startswith(("vars_dyn", "experiments", "tests")):
            assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), f"{file} has no {name}"
