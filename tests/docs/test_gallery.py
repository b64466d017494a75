"""The gallery's page, pictures and sources agree; and its own pictures show what their pages say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load(name: str, folder: Path = DOCS / "examples") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_script() -> None:
    gallery = load("gallery")
    assert (DOCS / "gallery.md").read_text() == gallery.page(), "run python docs/examples/gallery.py"
    assert len(gallery.ENTRIES) >= 12
    assert len({entry.name for entry in gallery.ENTRIES}) == len(gallery.ENTRIES)
    for entry in gallery.ENTRIES:
        for path in (entry.picture, entry.page, f"gallery/thumb-{entry.name}.png", f"../{entry.source}"):
            assert (DOCS / path).is_file(), f"{entry.title}: there is no {path}"
        assert (
            not entry.commands
            or any(entry.picture in command for command in entry.commands)
            or ("concepts.py" in entry.source)
        ), f"{entry.title}: no command writes {entry.picture}"


def test_the_animation_of_the_readme_is_small() -> None:
    picture = re.search(r"!\[.*?\]\((.*?\.gif)\)", (ROOT / "README.md").read_text())
    assert picture is not None
    assert (ROOT / picture[1]).stat().st_size < 1_500_000


def test_two_bounds_meet() -> None:
    concepts = load("concepts")
    field, run = concepts.simulate(end=10.0, points=11)
    above, below = concepts.bounds(field, run)
    assert (np.diff(below) >= 0).all()
    assert (above >= below).all()
    assert above[-1] - below[-1] < 0.1 * (above[0] - below[0])


def test_competition_sharpens_tuning() -> None:
    tuning = load("tuning")
    linear, response = tuning.respond()
    assert np.median(tuning.selectivity(response)) > 0.1 + np.median(tuning.selectivity(linear))


def test_others_take_over_after_a_lesion() -> None:
    lesion = load("lesion")
    field, run, removed = lesion.simulate()
    codes = torch.stack([field.code(tuple(part[k] for part in run.states)) for k in range(len(run.times))])
    before, after = codes[run.times < lesion.START][-1].abs(), codes[-1].abs()
    others = torch.arange(len(before)) != removed
    assert before.argmax() == removed or before.max() == pytest.approx(float(before[removed]), rel=1e-3)
    assert (after - before)[others].max() > 0.1 * before[removed]


def test_mathjax_is_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = load("offline_math", DOCS)
    kept = tmp_path / f"mathjax-{offline.VERSION}.js"
    monkeypatch.setattr(offline.shutil, "which", lambda name: None)
    assert offline.bundled(tmp_path) is None
    kept.write_text("another file")
    assert offline.bundled(tmp_path) is None
    monkeypatch.setattr(offline, "SHA256", offline.hashlib.sha256(b"another file").hexdigest())
    assert offline.bundled(tmp_path) == kept
