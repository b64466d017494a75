"""The house rules that a program can check. docs/architecture.md, "The order of knowledge", explains them.

Every check reads only the source, and gives one sentence for each place that breaks its rule. The tests below the
checks give each of them a small wrong tree, which it must refuse, and a right one, which it must accept.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

#: Which of the three packages each of them may import.
ALLOWED = {
    "vars_dyn": {"vars_dyn"},
    "models": {"models", "vars_dyn"},
    "experiments": {"experiments", "models", "vars_dyn"},
}

#: The order of knowledge inside the library: a module imports its own line and the lines above it.
#: The longest prefix decides. Packages on one line with different names must not import each other.
ORDER = (
    ("vars_dyn._",),
    ("vars_dyn.images", "vars_dyn.movies", "vars_dyn.sounds"),
    ("vars_dyn.dictionaries",),
    ("vars_dyn.shapes",),
    ("vars_dyn.penalties", "vars_dyn.thresholds"),
    ("vars_dyn.anchors",),
    ("vars_dyn.problems", "vars_dyn.quadratic", "vars_dyn.raw_problems", "vars_dyn.certificates", "vars_dyn.units"),
    ("vars_dyn.stimuli",),
    ("vars_dyn.dynamics",),
    ("vars_dyn.interventions", "vars_dyn.noise"),
    ("vars_dyn.integration",),
    ("vars_dyn.solvers",),
    ("vars_dyn.hierarchy",),
    ("vars_dyn.recording",),
    ("vars_dyn.sweeping",),
    ("vars_dyn.attention", "vars_dyn.plotting", "vars_dyn.spiking"),
    ("vars_dyn.export", "vars_dyn.plot", "vars_dyn.view"),
    ("vars_dyn.simulate",),
    ("vars_dyn.learning",),
    ("vars_dyn.learn",),
)
#: Lines of ORDER whose modules may import one another.
TOGETHER = (
    {"vars_dyn.penalties", "vars_dyn.thresholds"},
    {"vars_dyn.problems", "vars_dyn.quadratic", "vars_dyn.raw_problems", "vars_dyn.certificates", "vars_dyn.units"},
    {"vars_dyn.images", "vars_dyn.movies", "vars_dyn.sounds"},
)

#: The order inside the integration package. A module that is missing here may stand anywhere, but its imports count for
#: the modules that import it.
INTEGRATION = (
    ("results",),
    ("steppers",),
    ("plan",),  # a plan holds its stepper
    ("segment",),
    ("gradients",),
    ("integrate",),
)

#: The longest file of the three packages, in lines.
LINES = 350

#: The most parameters of a function, `self` left out, and the functions that may have more.
PARAMETERS = 12
MANY_PARAMETERS = {
    "vars_dyn.attention.vars.VarsAttention.__init__": "a layer's constructor",
    "models.gfnet.GlobalFilterNetwork.__init__": "a layer's constructor, with timm's names",
    "models.rvt.RobustVisionTransformer.__init__": "a layer's constructor, with timm's names",
    "vars_dyn.integration.integrate.integrate": "a public call: a field, a method and what happens on the way",
    "vars_dyn.integration.streaming.stream": "its keywords are those of `integrate`",
    "vars_dyn.recording.record.record": "a public call whose keywords are those of `integrate` and its own",
}

#: Modules that carry the name of a public function of their package, since users type `python -m vars_dyn.NAME` for the
#: command and `vars_dyn.NAME` for the function. An import of such a module gives the function: its last line must be
#: `sys.modules[__name__] = NAME`.
COMMANDS = {"vars_dyn.learn"}

#: Methods that CONTRIBUTING asks of subclasses. Callers that have checked their arguments may call them directly.
HOOKS = {"_encode", "_decode", "_derivative", "_largest", "_scaled", "_rounding"}


class Import(NamedTuple):
    """One imported name: its module, the name (None if the module itself is imported), and the place of the import."""

    target: str
    name: str | None
    bound: str
    line: int
    inside_function: bool


class Module:
    """A source file."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.is_package = path.name == "__init__.py"
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.syntax = ast.parse("\n".join(self.lines))

    def at(self, line: int) -> str:
        return f"{self.name}, line {line}"

    @cached_property
    def functions(self) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        """Every function with its full name, including those in classes and functions."""

        def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{prefix}.{child.name}", child
                named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                yield from walk(child, f"{prefix}.{child.name}" if named else prefix)

        return list(walk(self.syntax, self.name))

    @cached_property
    def methods(self) -> set[str]:
        """The names of all functions in classes."""
        return {
            child.name
            for node in ast.walk(self.syntax)
            if isinstance(node, ast.ClassDef)
            for child in node.body
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        }

    @cached_property
    def own_names(self) -> set[str]:
        """What the file defines or sets anywhere: functions, classes, variables and attributes."""
        found: set[str] = set()
        for node in ast.walk(self.syntax):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
        return found


class Tree:
    """The source of the packages below a folder."""

    def __init__(self, root: Path) -> None:
        self.modules: dict[str, Module] = {}
        for top in ALLOWED:
            for path in sorted((root / top).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                self.modules[name] = Module(name, path)

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """Every import of one of our modules, anywhere in a file. Imports for the type checker count."""
        return {name: list(self._imports_of(module)) for name, module in self.modules.items()}

    def _imports_of(self, module: Module) -> Iterator[Import]:
        inside = {
            id(node)
            for _, function in module.functions
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        for node in ast.walk(module.syntax):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] in ALLOWED:
                        yield Import(alias.name, None, alias.asname or alias.name, node.lineno, id(node) in inside)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                if base.split(".")[0] not in ALLOWED:
                    continue
                for alias in node.names:
                    within = f"{base}.{alias.name}"
                    target, name = (within, None) if within in self.modules else (base, alias.name)
                    yield Import(target, name, alias.asname or alias.name, node.lineno, id(node) in inside)

    @staticmethod
    def _base(module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.name.split(".")
        kept = len(parts) - node.level + (1 if module.is_package else 0)
        return ".".join([*parts[:kept], *([node.module] if node.module else [])])

    @cached_property
    def graph(self) -> dict[str, set[str]]:
        """Which modules each module imports."""
        return {
            name: {found.target for found in imports if found.target in self.modules}
            for name, imports in self.imports.items()
        }

    def reached(self, start: str) -> dict[str, list[str]]:
        """Every module that `start` imports, directly or through others, with the chain of imports to it."""
        ways = {start: [start]}
        waiting = [start]
        while waiting:
            name = waiting.pop(0)
            for target in sorted(self.graph[name] - ways.keys()):
                ways[target] = [*ways[name], target]
                waiting.append(target)
        del ways[start]
        return ways


def place(name: str) -> tuple[int, str] | None:
    """The line of ORDER that a module stands on, with the entry that names it."""
    best: tuple[int, str] | None = None
    for rank, entries in enumerate(ORDER):
        for entry in entries:
            named = name.startswith(entry) if entry.endswith("_") else (name + ".").startswith(entry + ".")
            if named and (best is None or len(entry) > len(best[1])):
                best = rank, entry
    return best


def layering(tree: Tree) -> list[str]:
    """Experiments know models, models know vars_dyn, and never the other way."""
    return [
        f"{tree.modules[name].at(found.line)}: imports {found.target}; {name.split('.')[0]} may know only "
        + " and ".join(sorted(ALLOWED[name.split(".")[0]]))
        for name, imports in tree.imports.items()
        for found in imports
        if found.target.split(".")[0] not in ALLOWED[name.split(".")[0]]
    ]


def order_of_the_library(tree: Tree) -> list[str]:
    """A package of the library imports only what stands before it in ORDER."""
    wrong = []
    for name, imports in tree.imports.items():
        if not name.startswith("vars_dyn."):
            continue
        here = place(name)
        if here is None:
            wrong.append(f"{name}: has no place in the order of knowledge; add it to ORDER in tests/test_house.py")
            continue
        for found in imports:
            there = place(found.target)
            if there is None or here[1] == there[1]:
                continue
            if there[0] < here[0] or any({here[1], there[1]} <= group for group in TOGETHER):
                continue
            wrong.append(
                f"{tree.modules[name].at(found.line)}: imports {found.target}, but {there[1]} does not come before "
                f"{here[1]} in the order of knowledge"
            )
    return wrong


def order_of_integration(tree: Tree) -> list[str]:
    """Modules of the integration package import only what stands before them, directly and through others."""
    prefix = "vars_dyn.integration."

    def rank(name: str) -> int | None:
        part = name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else ""
        return next((i for i, parts in enumerate(INTEGRATION) if part in parts), None)

    wrong = []
    for name in tree.modules:
        here = rank(name)
        if here is None:
            continue
        for target, way in tree.reached(name).items():
            there = rank(target)
            if there is not None and there > here:
                wrong.append(f"{name}: reaches {target}, which comes after it, by " + " -> ".join(way))
    return wrong


def circles(tree: Tree) -> list[str]:
    """No module reaches itself through its imports; imports for the type checker count."""
    wrong: list[str] = []
    told: set[str] = set()
    for name in tree.modules:
        ways = tree.reached(name)
        back = [[*way, name] for target, way in ways.items() if name in tree.graph[target]]
        if name in tree.graph[name]:
            back.append([name, name])
        if back and name not in told:
            told |= {target for target in ways if name in tree.reached(target)}
            wrong.append("a circle of imports: " + " -> ".join(min(back, key=len)))
    return wrong


def imports_in_functions(tree: Tree) -> list[str]:
    """An import inside a function defers something heavy or optional, and a comment says so."""
    wrong = []
    for module in tree.modules.values():
        lines = {
            node.lineno
            for _, function in module.functions
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        unexplained = [n for n in sorted(lines) if "# deferred: " not in "".join(module.lines[max(n - 2, 0) : n])]
        wrong += [
            f"{module.at(line)}: imports inside a function without `# deferred: reason` on its line or the line above; "
            "import at the top of the file unless the package is heavy or optional"
            for line in unexplained
        ]
    return wrong


def face(tree: Tree) -> list[str]:
    """No module of the library imports `vars_dyn` itself, which is for users."""
    return [
        f"{tree.modules[name].at(found.line)}: imports {found.name or 'the package'} from vars_dyn itself; "
        "import it from the module that defines it (the version is in vars_dyn/_version.py)"
        for name, imports in tree.imports.items()
        if name.startswith("vars_dyn.")
        for found in imports
        if found.target == "vars_dyn"
    ]


def lengths(tree: Tree) -> list[str]:
    """No file is longer than a reader can keep in mind."""
    return [
        f"{module.name}: has {len(module.lines)} lines, at most {LINES} are wanted; split it along its ideas"
        for module in tree.modules.values()
        if len(module.lines) > LINES
    ]


def parameters(tree: Tree) -> list[str]:
    """No function has too many parameters, except those that are named here and Triton's kernels."""
    wrong = []
    for module in tree.modules.values():
        for full_name, function in module.functions:
            given = function.args
            count = len([a for a in given.posonlyargs + given.args if a.arg not in ("self", "cls")])
            count += len(given.kwonlyargs)
            if count > PARAMETERS and full_name not in MANY_PARAMETERS and not is_kernel(function):
                wrong.append(
                    f"{module.at(function.lineno)}: {function.name} takes {count} parameters, at most {PARAMETERS} are "
                    "wanted; make one value of those that belong together"
                )
    return wrong


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether Triton compiles the function. Such functions take pointers, strides and sizes one by one."""
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def shadows(tree: Tree) -> list[str]:
    """A package does not bind the name of one of its modules to something else."""
    wrong = []
    for module in tree.modules.values():
        if not module.is_package:
            continue
        bound = {found.bound: found.line for found in tree.imports[module.name] if found.name is not None}
        for node in module.syntax.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                bound[node.name] = node.lineno
            elif isinstance(node, ast.Assign):
                bound |= {name.id: node.lineno for name in node.targets if isinstance(name, ast.Name)}
        wrong += [
            f"{module.at(line)}: binds {name}, and hides its own module {module.name}.{name}; "
            "rename the module, or let users import the name from the module"
            for name, line in bound.items()
            if f"{module.name}.{name}" in tree.modules and not gives_its_function(tree.modules[f"{module.name}.{name}"])
        ]
    return wrong


def gives_its_function(module: Module) -> bool:
    """Whether a module is one of COMMANDS, and puts the function of its name in its own place when it is imported."""
    last = ast.unparse(module.syntax.body[-1]) if module.syntax.body else ""
    return module.name in COMMANDS and last == f"sys.modules[__name__] = {module.name.rpartition('.')[2]}"


def underscores(tree: Tree) -> list[str]:
    """A name with an underscore stays in its file."""
    methods = {name: module.methods for name, module in tree.modules.items()}
    wrong = []
    for module in tree.modules.values():
        ours = {found.bound: found for found in tree.imports[module.name]}
        wrong += [
            f"{module.at(found.line)}: imports {found.name} of {found.target}; give it a public name"
            for found in ours.values()
            if found.name is not None and is_private(found.name)
        ]
        for node in ast.walk(module.syntax):
            if not isinstance(node, ast.Attribute) or not is_private(node.attr) or node.attr in HOOKS:
                continue
            owner = ast.unparse(node.value)
            where = module.at(node.lineno)
            if owner in ours:
                source = ours[owner]
                if f"{source.target}.{node.attr}" not in tree.modules:
                    wrong.append(f"{where}: takes {node.attr} of {source.name or source.target}; give it a public name")
            elif node.attr not in module.own_names and not of_own_class(node.value):
                homes = " and ".join(sorted(name for name, found in methods.items() if node.attr in found))
                if homes:
                    wrong.append(f"{where}: {owner}.{node.attr} reaches into {homes}; give it a public name there")
    return wrong


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in ("_replace", "_asdict", "_fields", "_make")


def of_own_class(owner: ast.expr) -> bool:
    """Whether the attribute is one of `self`, `cls` or `super()`, since a subclass may use what its base gives it."""
    if isinstance(owner, ast.Call):
        return isinstance(owner.func, ast.Name) and owner.func.id == "super"
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


CHECKS: tuple[Callable[[Tree], list[str]], ...] = (
    layering,
    order_of_the_library,
    order_of_integration,
    circles,
    imports_in_functions,
    face,
    lengths,
    parameters,
    shadows,
    underscores,
)


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_is_in_order(check: Callable[[Tree], list[str]], tree: Tree) -> None:
    wrong = check(tree)
    assert not wrong, f"{check.__doc__}\n" + "\n".join(wrong)


def test_the_named_exceptions_exist(tree: Tree) -> None:
    names = {name for module in tree.modules.values() for name, _ in module.functions} | tree.modules.keys()
    gone = sorted(MANY_PARAMETERS.keys() - names)
    assert not gone, f"MANY_PARAMETERS names what is no longer there: {', '.join(gone)}"


# What each check must refuse: the files of a small tree, and a part of the sentence that the check must give.
WRONG: tuple[tuple[Callable[[Tree], list[str]], Mapping[str, str], str], ...] = (
    (layering, {"vars_dyn/a.py": "import models.b"}, "vars_dyn may know only vars_dyn"),
    (layering, {"models/a.py": "def f():\n    from experiments import b"}, "models may know only models and vars_dyn"),
    (
        order_of_the_library,
        {"vars_dyn/dictionaries/a.py": "from vars_dyn.solvers import b"},
        "vars_dyn.solvers does not",
    ),
    (order_of_the_library, {"vars_dyn/_a.py": "import vars_dyn.dictionaries.dense"}, "before vars_dyn._ in"),
    (
        order_of_the_library,
        {
            "vars_dyn/plotting.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from vars_dyn.attention.base import B"
        },
        "vars_dyn.attention does not come before vars_dyn.plotting",
    ),
    (order_of_the_library, {"vars_dyn/strange.py": ""}, "has no place"),
    (
        order_of_integration,
        {"vars_dyn/integration/plan.py": "from .segment import S", "vars_dyn/integration/segment.py": ""},
        "reaches vars_dyn.integration.segment",
    ),
    (
        order_of_integration,
        {
            "vars_dyn/integration/steppers/rkc.py": "from vars_dyn.integration.new import n",
            "vars_dyn/integration/new.py": "from vars_dyn.integration import integrate",
            "vars_dyn/integration/integrate.py": "",
        },
        "by vars_dyn.integration.steppers.rkc -> vars_dyn.integration.new -> vars_dyn.integration.integrate",
    ),
    (circles, {"vars_dyn/a.py": "from vars_dyn import b", "vars_dyn/b.py": "import vars_dyn.a"}, "a -> vars_dyn.b"),
    (
        circles,
        {
            "models/a.py": "from models.b import B",
            "models/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from models.a import A",
        },
        "models.a -> models.b -> models.a",
    ),
    (circles, {"models/__init__.py": "from models.a import A", "models/a.py": "from models import B"}, "models.a"),
    (imports_in_functions, {"models/a.py": "def f():\n    import json"}, "models.a, line 2"),
    (
        imports_in_functions,
        {"models/a.py": "class A:\n    def f(self):\n        # deferred\n        import json"},
        "line 4",
    ),
    (face, {"vars_dyn/__init__.py": "", "vars_dyn/a.py": "import vars_dyn"}, "imports the package from vars_dyn"),
    (face, {"vars_dyn/__init__.py": "", "vars_dyn/a.py": "from vars_dyn import Field"}, "imports Field from vars_dyn"),
    (face, {"vars_dyn/__init__.py": "", "vars_dyn/b/c.py": "from .. import Field"}, "imports Field from vars_dyn"),
    (lengths, {"experiments/a.py": "\n" * LINES}, "has 351 lines"),
    (parameters, {"models/a.py": f"def f({', '.join(f'a{i}' for i in range(PARAMETERS))}, *, b=1): ..."}, "takes 13"),
    (shadows, {"models/__init__.py": "from models.solve import solve", "models/solve.py": ""}, "binds solve"),
    (shadows, {"models/__init__.py": "def solve(): ...", "models/solve/__init__.py": ""}, "binds solve"),
    (
        shadows,
        {"models/__init__.py": "from models.a import b as solve", "models/solve.py": "", "models/a.py": ""},
        "solve",
    ),
    (
        shadows,
        {
            "vars_dyn/__init__.py": "from vars_dyn.learning import learn",
            "vars_dyn/learn.py": "",
            "vars_dyn/learning.py": "",
        },
        "binds learn",
    ),
    (underscores, {"models/a.py": "from models import b\nb._c()", "models/b.py": ""}, "takes _c of models.b"),
    (underscores, {"models/a.py": "from models.b import _c", "models/b.py": ""}, "imports _c of models.b"),
    (underscores, {"models/a.py": "from models.b import C\nC._d", "models/b.py": ""}, "takes _d of C"),
    (
        underscores,
        {"models/a.py": "def f(x): return x._part()", "models/b.py": "class B:\n    def _part(self): ..."},
        "x._part reaches into models.b",
    ),
)

# A small tree that keeps every rule, but resembles what the checks refuse.
RIGHT = {
    "vars_dyn/__init__.py": "from vars_dyn.solvers.solve import solve\nfrom vars_dyn._version import __version__\n"
    "from vars_dyn.learning import learn",
    "vars_dyn/learning.py": "def learn(): ...",
    "vars_dyn/learn.py": "import sys\nfrom vars_dyn.learning import learn\nsys.modules[__name__] = learn",
    "vars_dyn/_version.py": "__version__ = '1'",
    "vars_dyn/problems.py": "from vars_dyn import _version\nfrom vars_dyn.units import u\nv = _version.__version__",
    "vars_dyn/units.py": "from vars_dyn._version import __version__",
    "vars_dyn/integration/__init__.py": "from vars_dyn.integration.results import Trajectory",
    "vars_dyn/integration/results.py": "class Trajectory:\n    def _part(self): return self._part()",
    "vars_dyn/integration/steppers/rkc.py": "from vars_dyn.integration.new import n",
    "vars_dyn/integration/new.py": "from vars_dyn.integration.results import Trajectory",
    "vars_dyn/integration/integrate.py": "from .steppers import rkc\nfrom . import new",
    "vars_dyn/solvers/__init__.py": "",
    "vars_dyn/solvers/solve.py": "def solve(P):\n    import json  # deferred: heavy\n    return P._encode(json)",
    "vars_dyn/plotting.py": "from vars_dyn.images import tile\ndef f():\n    # deferred: optional\n    import json",
    "vars_dyn/images.py": "\n" * (LINES - 1) + "tile = 1",
    "models/__init__.py": f"def f(self, {', '.join(f'a{i}' for i in range(PARAMETERS))}): ...",
    "experiments/a.py": "import vars_dyn as vd\nimport models\nvd.solve(1)._replace(a=1)",
    "models/kernel.py": f"@triton.jit\ndef f({', '.join(f'a{i}' for i in range(20))}): ...",
}


def planted(folder: Path, files: Mapping[str, str]) -> Tree:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return Tree(folder)


@pytest.mark.parametrize(("check", "files", "sentence"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_a_check_refuses_a_wrong_tree(
    check: Callable[[Tree], list[str]], files: Mapping[str, str], sentence: str, tmp_path: Path
) -> None:
    wrong = check(planted(tmp_path, files))
    assert len(wrong) == 1
    assert sentence in wrong[0]


def test_every_check_is_shown_a_wrong_tree() -> None:
    assert {check for check, _, _ in WRONG} == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_accepts_a_right_tree(check: Callable[[Tree], list[str]], tmp_path: Path) -> None:
    assert check(planted(tmp_path, RIGHT)) == []
