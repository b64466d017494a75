"""Every public object shows an example that runs, and its docstring says what is raised."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest
import torch

import models
import vars_dyn as vd
import vars_dyn.attention as va

#: Results, which users do not make, and classes of dictionaries by name.
RAISES_NOTHING = {"Solution", "Trajectory", "Learned", "IntegrationError", "LayerView", "Replacement", "KINDS"}
#: Its subclasses have the examples.
NO_EXAMPLE = {"Field", "KINDS"}
#: Functions whose arguments the type checker knows, and that refuse nothing.
TAKES_ALL = {"follow_grid", "upsampled", "Equilibrium", "Ode", "GlobalFilter"}


def public() -> dict[str, object]:
    found = {}
    for space in (vd, va, models):
        for name in space.__all__:
            thing = getattr(space, name)
            if not inspect.ismodule(thing) and all(thing is not other for other in found.values()):
                found[f"{space.__name__}.{name}"] = thing
    return found


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.rpartition(".")[2] in NO_EXAMPLE:
        return
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"torch": torch, "vd": vd, "va": va, "models": models}
    text = inspect.getdoc(PUBLIC[name]) or ""
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert test.examples, f"{name} shows no example"
    assert any(example.want for example in test.examples), f"the example of {name} shows no result"
    said: list[str] = []
    doctest.DocTestRunner().run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_docstring_says_what_is_raised(name: str) -> None:
    if name.rpartition(".")[2] in RAISES_NOTHING | TAKES_ALL:
        return
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert "Error" in text, f"{name} does not say what it raises"
