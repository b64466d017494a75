"""The public interface: every name has a docstring that names its arguments, and bad input gets one sentence."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vars_dyn as vd

PUBLIC = [name for name in vd.__all__ if callable(getattr(vd, name))]


def methods(owner: type) -> Iterator[tuple[str, object]]:
    for name, member in inspect.getmembers(owner):
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def test_all_is_sorted_and_there() -> None:
    assert list(vd.__all__) == sorted(vd.__all__)
    assert all(hasattr(vd, name) for name in vd.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", vd.__version__)


def test_each_name_is_the_one_that_type_checkers_see() -> None:
    """`vars_dyn/__init__.py` names every object twice: for type checkers, and for the import on first use."""
    seen = {}
    for block in ast.parse(Path(vd.__file__).read_text()).body:
        if isinstance(block, ast.If):
            seen = {each.name: node.module for node in block.body if isinstance(node, ast.ImportFrom)
                    for each in node.names}  # fmt: skip
    assert set(seen) == {*vd.__all__, "plot", "stimuli"}
    for name in vd.__all__:
        assert getattr(vd, name) is getattr(importlib.import_module(seen[name]), name)
    assert set(dir(vd)) >= set(seen)
    with pytest.raises(AttributeError, match="has no attribute 'slove'"):
        _ = vd.slove


def test_a_name_imports_only_what_it_needs() -> None:
    program = """
import json, sys
import vars_dyn as vd
first = [*sys.modules]
vd.solve, vd.DenseDictionary, vd.stimuli.Grating, vd.dynamics.Field, vd.equilibrium, vd.integrate, vd.Noise
print(json.dumps([first, [*sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, then = map(set, json.loads(done.stdout))
    assert "torch" not in first
    assert "torch" in then
    assert not {"timm", "xarray", "zarr", "matplotlib", "scipy", "dask"} & then


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(vd, name)
    text = inspect.getdoc(thing) or ""
    assert len(text.split()) >= 5, f"{name} has no docstring"
    assert thing.__doc__, f"{name} has its base's docstring only"
    parameters = [p for p in inspect.signature(thing).parameters.values() if p.kind is not p.VAR_KEYWORD]
    # A base class, or a class that the docstring refers to, may describe an argument.
    near = text + "".join(inspect.getdoc(base) or "" for base in getattr(thing, "__mro__", ()))
    near += "".join(getattr(vd, other).__doc__ or "" for other in PUBLIC if f"`{other}`" in near)
    if inspect.isabstract(thing) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        parameters = []  # users do not call these
    missing = [p.name for p in parameters if not re.search(rf"\b{re.escape(p.name)}\b", near)]
    assert not missing, f"{name} does not say what {', '.join(missing)} are"
    if inspect.isclass(thing):
        for method, member in methods(thing):
            if thing.__module__.startswith("vars_dyn") and method not in ("count", "index"):
                assert inspect.getdoc(member), f"{name}.{method} has no docstring"


@pytest.mark.parametrize(
    "name", ["DenseDictionary", "ConvDictionary", "FourierDictionary", "SparseProblem", "solve", "integrate"]
)
def test_docstrings_say_what_is_raised_and_the_shapes(name: str) -> None:
    text = inspect.getdoc(getattr(vd, name)) or ""
    assert "ValueError" in text
    assert re.search(r"shape|\(\*any", text)


#: Arguments of wrong types. The tests' checks of annotations would catch them first, so they are off here.
REFUSED = {
    "vd.SoftThreshold('big')": "theta is 'big'; a number is wanted",
    "vd.SoftThreshold(True)": "theta is True; a number is wanted",
    "vd.DenseDictionary([[1.0, 'a']])": "weight is a list; numbers in equal rows, or a tensor of them, are wanted",
    "vd.DenseDictionary(torch.ones(3))": "weight has shape (3,); (*batch, d, d') with d, d' >= 1 is wanted",
    "vd.DenseDictionary(torch.ones(3, 2, dtype=torch.int64))": "weight is a int64 tensor of shape (3, 2)",
    "vd.DenseDictionary(torch.ones(3, 2, dtype=torch.complex64))": "weight is a complex64 tensor",
    "vd.ConvDictionary(torch.ones(2, 3, 3), (1, 8, 8))": "signal_shape is (1, 8, 8) for a weight of shape (2, 3, 3)",
    "vd.ConvDictionary(torch.ones(3, 3), (1, 8))": "weight has shape (3, 3); (M, C / groups, *k)",
    "vd.ConvDictionary(torch.ones(2, 1, 3), (1, 8), stride='2')": "stride is '2'; an integer",
    "vd.ConvDictionary(torch.ones(2, 1, 3, 3), (8, 8))": "signal_shape is (8, 8)",
    "vd.ConvDictionary(torch.ones(2, 1, 3, 3), (1, 8, 8), stride=1.5)": "stride is 1.5; an integer",
    "vd.FourierDictionary(torch.ones(3, 3))": "weight has shape (3, 3)",
    "vd.RandomFeatureDictionary(torch.ones(4), torch.ones(3, 2))": "tokens have shape (4,)",
    "vd.RandomFeatureDictionary(torch.ones(4, 2), torch.ones(3, 5))": "tokens have shape (4, 2) and projection (3, 5)",
    "vd.SparseProblem(P, x, 'some')": "lam is 'some'; a number is wanted",
    "vd.SparseProblem(P, None, 0.1)": "x is a NoneType; a torch.Tensor, or an array of numbers, is wanted",
    "vd.solve(vd.SparseProblem(P, x, 0.1), max_iterations=2.5)": "max_iterations is 2.5; an integer",
    "vd.solve(field)": "problem is a SparseRecurrent; a SparseProblem is wanted (for a field call "
    "vars_dyn.equilibrium(field) or vars_dyn.solve(field.problem()))",
    "vd.solve(vd.SparseProblem(P, x, 0.1), method=None)": "method is None; one of",
    "vd.Recurrent(torch.ones(3, 2), x)": "feedback has shape (3, 2); a square matrix (d, d) is wanted",
    "vd.Attention(x, x)": "dictionary is a Tensor; a Dictionary is wanted",
    "vd.SparseRecurrent(P, x, alpha='one')": "alpha is 'one'; a number is wanted",
    "vd.integrate(field, field.initial_state(), 1.0)": "times are 1.0; a one-dimensional tensor",
    "vd.integrate(field, list(field.initial_state()), t)": "the state is a list; a tuple (z, u) is wanted",
    "vd.integrate(field, field.initial_state(), t, rtol='tight')": "rtol is 'tight'; a number is wanted",
    "vd.integrate(field, field.initial_state(), t, gradient=None)": "gradient is None; one of",
}  # fmt: skip


def test_arguments_of_the_wrong_type_are_one_clear_sentence() -> None:
    program = f"""
import torch, vars_dyn as vd
P, x, t = vd.DenseDictionary(torch.ones(3, 2)), torch.ones(4, 3), torch.tensor([0.0, 1.0])
field = vd.SparseRecurrent(P, x)
for call in {list(REFUSED)!r}:
    try:
        eval(call)
    except ValueError as error:
        print(str(error).replace(chr(10), ' / '))
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print('nothing was raised')
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == len(REFUSED)
    wrong = {
        call: line for (call, wanted), line in zip(REFUSED.items(), said, strict=True) if not line.startswith(wanted)
    }
    assert not wrong
