"""A process that compiles gives the bits of those that load what it compiled."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vars_dyn

ROOT = Path(vars_dyn.__file__).parent
#: The files whose functions numba compiles, by the marks of functions that Python calls.
FILES = {
    **{path: {"compiled"} for path in (ROOT / "solvers" / "compiled").glob("*.py")},
    ROOT / "learning" / "compiled.py": {"compiled"},
    ROOT / "attention" / "reconstruct" / "compiled" / "loops.py": {"_compiled"},
}


def marked(path: Path, marks: set[str]) -> list[ast.FunctionDef]:
    """The functions of a file with one of these decorators."""
    found = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [f for f in found if any(isinstance(d, ast.Name) and d.id in marks for d in f.decorator_list)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_compiled_function_calls_another(path: Path) -> None:
    """If one did, processes would run different copies of it, which round differently."""
    own = {f.name for other, marks in FILES.items() for f in marked(other, marks)}
    for function in marked(path, FILES[path]):
        called = {n.func.id for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not called & own, f"{function.name} calls {called & own}"
