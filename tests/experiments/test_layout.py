"""How the experiments' modules may import each other, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "experiments").rglob("*.py")
}
TOP = {"__init__", "cli", "settings"}
COMMANDS = {name.split(".")[1] for name in FILES if name.count(".") == 1 and FILES[name].name != "__init__.py"} - TOP


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of `experiments` that a source imports, wherever the import stands."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:n]) for n in (len(parts), len(parts) - 1) if ".".join(parts[:n]) in FILES)


def test_the_top_level_has_commands_that_import_no_command() -> None:
    for name in COMMANDS:
        assert 'if __name__ == "__main__":' in FILES[f"experiments.{name}"].read_text(), f"{name} is no command"
    for name, path in FILES.items():
        found = {each.split(".")[1] for each in imported(ast.parse(path.read_text())) if "." in each}
        assert not found & COMMANDS, f"{name} imports the command {found & COMMANDS}"


def test_no_module_imports_what_imports_it() -> None:
    """Imports for types alone, and those inside functions, count as well."""
    # Python always loads the packages above a file first, so imports of those are no circle.
    graph = {
        name: {each for each in imported(ast.parse(path.read_text())) if not f"{name}.".startswith(f"{each}.")}
        for name, path in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_an_import_inside_a_function_says_what_it_defers() -> None:
    for name, path in FILES.items():
        lines = path.read_text().splitlines()
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        assert "# deferred" in lines[node.lineno - 1], f"{name}, line {node.lineno}"


def test_no_file_is_long() -> None:
    assert not [name for name, path in FILES.items() if len(path.read_text().splitlines()) > 350]
