"""The top level of the experiments has commands only. tests/test_house.py has the rules that all packages share."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

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
