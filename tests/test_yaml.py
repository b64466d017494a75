"""The reader of YAML files reads what PyYAML writes, and refuses what could hang it or run code."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vars_dyn._yaml import load, value_of


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


#: PyYAML, which writes YAML 1.1, leaves texts such as 0E0 without quotes. YAML 1.2 takes them for numbers.
TEXTS = st.text().filter(lambda text: not is_number(text))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXTS, each, max_size=4), max_leaves=8
)


@settings(max_examples=50)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_others_write_is_read_back(document: dict[str, Any]) -> None:
    # PyYAML would write an anchor for an object that occurs twice, so anchors are off.
    dumper = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    assert load(yaml.dump(document, Dumper=dumper)) == document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-.5e3", -500.0),
        ("0x1F", 31),
        ("0o17", 15),
        ("no", False),
        ("~", None),
        # YAML 1.1 reads these as 8, 90, a date and 10, but writers of options mean the texts.
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        ("'5'", "5"),
        ("!!str 5", "5"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = load(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)
    assert value_of(text) == value


#: Ten lists, each with ten references to the one before. Half a kilobyte stands for 10^10 entries.
BOMB = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11))

REFUSED = {
    "an alias bomb": (BOMB, "anchor or alias in line 1"),
    "an alias": ("a: &x 1\nb: *x", "anchor or alias in line 1"),
    "a merge key": ("a: 1\n<<: {b: 1}", "merge key << in line 2"),
    "a key twice": ("lam: 1\ntau: 2\nlam: 3", "the key 'lam' twice, the second time in line 3"),
    "a key twice, further in": ("a: {b: 1, b: 1}", "the key 'b' twice"),
    "a key twice, spelt in two ways": ("a: 1\n'a': 2", "the key 'a' twice"),
    "a number as a key": ("1: 2", "'1' as a key in line 1"),
    "a list as a key": ("? [a]\n: 2", "a collection as a key"),
    "deep lists": ("a: " + "[" * 21 + "]" * 21, "nested deeper than 20"),
    "very deep lists": ("[" * 500_000, "nest"),
    "very deep blocks": ("- " * 200_000, "nested deeper than 20"),
    "code": ("a: !!python/object/apply:os.system [touch ran]", "the tag tag:yaml.org,2002:python/object/apply"),
    "a set": ("a: !!set {b}", "the tag tag:yaml.org,2002:set"),
    "a number by tag": ("a: !!int ''", "the tag tag:yaml.org,2002:int"),
    "another's tag": ("%TAG ! tag:x\n---\na: !y 1", "the tag tag:xy"),
    "a long number": ("a: " + "9" * 6000, "a number that is too long"),
    "a long text": ("a: " + "b" * 70_000, "a value of 70000 characters"),
    "much": ("a: 1\n" * 300_000, "more than 1048576 bytes"),
    "a list": ("- 1", "holds a list"),
    "a number": ("3", "holds a int"),
    "two documents": ("a: 1\n---\nb: 1", "is no YAML"),
    "no end": ("a: [1", "is no YAML"),
    "a zero byte": ("a: \x00", "is no YAML"),
    "half a character": ("a: \ud800", "is no YAML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, expected = REFUSED[case]
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r".") as caught:
        load(text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - began < 5
    assert not any(tmp_path.iterdir())


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\n")
    assert load(good) == {"a": "é"}
    (tmp_path / "empty.yaml").touch()
    assert load(tmp_path / "empty.yaml") == {}
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2")
    for name, expected in {
        "pipe": "no regular file",
        "/dev/zero": "no regular file",
        ".": "is a folder",
        "none.yaml": "cannot be read: No such file",
        "good.yaml/x": "cannot be read: Not a directory",
        "latin.yaml": "not UTF-8",
        "bad.yaml": "bad.yaml has the key 'a' twice",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(ValueError, match=expected):
            load(tmp_path / name)
