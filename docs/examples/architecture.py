"""Draw the pictures of docs/architecture.md from the source: which package imports which, and how data flow.

Run it from the root of a clone as `python docs/examples/architecture.py`. It writes the SVG files below
docs/_static/architecture/. A way names functions, classes and modules. The source tells where each of them is defined,
and whether the two ends of an arrow import each other. A name that is not in the source raises an error, so that the
pictures cannot become outdated.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[2]
PACKAGES = ("vars_dyn", "models", "experiments")
PICTURES = ROOT / "docs" / "_static" / "architecture"

#: The order of the packages. Each imports only those before it.
ORDER = (
    "basics (vars_dyn/_*.py)",
    "images",
    "movies",
    "sounds",
    "dictionaries",
    "shapes",
    "penalties",
    "thresholds",
    "anchors",
    "units",
    "certificates",
    "raw_problems",
    "problems",
    "quadratic",
    "dynamics",
    "interventions",
    "noise",
    "integration",
    "solvers",
    "hierarchy",
    "recording",
    "attention",
    "plotting",
    "plot",
    "view",
    "export",
    "simulate",
    "learning",
    "learn",
    "models",
    "experiments",
)

INK, FAINT, LINE = "#1a1c1e", "#5b6470", "#3b6ea5"
BOX, FILE = "#eaf1f8", "#fdf3dc"
WIDTH, HEIGHT, ACROSS, DOWN = 206, 56, 104, 46


class Source:
    """The modules of the three packages: what each defines, and what it imports of the others."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.paths: dict[str, Path] = {}
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                self.paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self.trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.paths.items()}
        self.names = {name: set(_defined(tree)) for name, tree in self.trees.items()}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules that each module imports. An imported name that is a module counts as that module."""
        found: dict[str, set[str]] = {}
        for name, tree in self.trees.items():
            targets = found.setdefault(name, set())
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    targets |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    inside = {f"{node.module}.{alias.name}" for alias in node.names}
                    targets |= inside & self.paths.keys() or {node.module}
            found[name] = targets & self.paths.keys() - {name}
        return found

    def reached(self, name: str) -> set[str]:
        """All modules that a module imports, directly or through others, and the module itself."""
        seen, waiting = {name}, [name]
        while waiting:
            new = self.imports[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    def home(self, where: str, name: str) -> str:
        """The one module in `where` that defines `name`, or that has this name."""
        if where in self.paths and where.endswith(f".{name}"):
            return where
        inside = [each for each in self.paths if each == where or each.startswith(f"{where}.")]
        homes = [each for each in inside if name in self.names[each]]
        homes = homes or [each for each in inside if each.rpartition(".")[2] == name]
        if len(homes) != 1:
            raise ValueError(f"{where} defines {name} in {', '.join(homes) or 'no module'}; exactly one is wanted")
        return homes[0]

    def know(self, first: str, second: str) -> bool:
        """Whether one of two modules reaches the other by imports, or some module imports both.

        The imports of a package are those of all its modules.
        """
        firsts, seconds = (
            {name for name in self.paths if name == each or name.startswith(f"{each}.")} for each in (first, second)
        )
        if any(self.reached(name) & seconds for name in firsts) or any(self.reached(name) & firsts for name in seconds):
            return True
        return any(targets & firsts and targets & seconds for targets in self.imports.values())


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef))
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


class Stop(NamedTuple):
    """A place on the way of data, and where it is drawn. It is a name in a package, or a file if `where` is None."""

    name: str
    where: str | None
    column: int
    row: int
    does: str = ""


class Arrow(NamedTuple):
    """An arrow from one stop to another, by number, and what it carries. A word with a capital is a class of ours.

    `returned` says that the caller gets what the arrow carries and passes it on. Then the ends need not import each
    other.
    """

    start: int
    end: int
    carries: str = ""
    returned: bool = False


class Way(NamedTuple):
    """How data flow from a first stop to a last one."""

    title: str
    stops: Sequence[Stop]
    arrows: Sequence[Arrow]


SIMULATION = Way(
    "A photograph to a zarr store",
    [
        Stop("photo.jpg", None, 0, 0),
        Stop("read_signals", "vars_dyn.simulate", 1, 0, "patches and what belongs to them"),
        Stop("dictionary_of", "vars_dyn.simulate", 2, 0, "atoms"),
        Stop("field_of", "vars_dyn.simulate", 2, 1, "the neurons' equations"),
        Stop("record", "vars_dyn.recording", 1, 1, "plans the store, or resumes it"),
        Stop("stream", "vars_dyn.integration", 0, 1, "stretch by stretch, to the gap"),
        Stop("march", "vars_dyn.integration.steppers", 0, 2, "steps of controlled error"),
        Stop("Recording", "vars_dyn.recording", 1, 2, "certifies and writes chunks"),
        Stop("Writer", "vars_dyn.recording", 2, 2, "commits whole chunks"),
        Stop("run.zarr", None, 2, 3),
        Stop("open_dataset", "vars_dyn.recording", 1, 3, "checks, reads lazily"),
        Stop("summary", "vars_dyn.plotting", 0, 3, "draws run.png"),
    ],
    [
        Arrow(0, 1, "pixels"),
        Arrow(1, 2, "Signals"),
        Arrow(2, 3, "Dictionary"),
        Arrow(3, 4, "Field"),
        Arrow(4, 5, "times, state"),
        Arrow(5, 6, "Segment"),
        Arrow(6, 7, "Snapshot"),
        Arrow(7, 8, "arrays"),
        Arrow(8, 9, "commits"),
        Arrow(9, 10, ""),
        Arrow(10, 11, "Dataset"),
    ],
)

LAYER = Way(
    "Tokens through a VARS layer, and their gradients back",
    [
        Stop("tokens (B, N, C)", None, 0, 0),
        Stop("VarsAttention.forward", "vars_dyn.attention", 1, 0, "projects, and splits heads"),
        Stop("reconstruct", "vars_dyn.attention.reconstruct", 2, 0, "chooses the form"),
        Stop("triton", "vars_dyn.attention.reconstruct", 0, 1, "kernels for NVIDIA GPUs"),
        Stop("cpu_features", "vars_dyn.attention.reconstruct", 1, 1, "dictionaries made of features"),
        Stop("cpu_grid", "vars_dyn.attention.reconstruct", 2, 1, "small kernels on the token grid"),
        Stop("TokenMixer.project", "vars_dyn.attention", 1, 2, "merges heads, and projects"),
        Stop("tokens (B, N, C)", None, 2, 2),
        Stop("gradient of these tokens", None, 0, 3),
        Stop("again", "vars_dyn.attention", 1, 3, "derivatives written out"),
        Stop("gradients of x and weights", None, 2, 3),
        Stop("Ode", "vars_dyn.attention", 0, 4, 'instead, with solver="ode"'),
        Stop("through_time", "vars_dyn.integration.gradients", 1, 4, "backprop, checkpoint or adjoint"),
        Stop("Equilibrium", "vars_dyn.attention", 0, 5, 'instead, with solver="equilibrium"'),
        Stop("equilibrium", "vars_dyn.solvers", 1, 5, "implicit, on the support"),
    ],
    [
        Arrow(0, 1, "x"),
        Arrow(1, 2, "inputs, steps"),
        Arrow(2, 3),
        Arrow(2, 4),
        Arrow(2, 5),
        Arrow(3, 6, returned=True),
        Arrow(4, 6, returned=True),
        Arrow(5, 6, returned=True),
        Arrow(6, 7),
        Arrow(8, 9, "backward"),
        Arrow(9, 10),
        Arrow(11, 12, "Field"),
        Arrow(12, 10),
        Arrow(13, 14, "SparseProblem"),
        Arrow(14, 10),
    ],
)

EVALUATION = Way(
    "A checkpoint to a cell of a table",
    [
        Stop("checkpoint", None, 0, 0),
        Stop("trained", "experiments", 1, 0, "model, classes, settings"),
        Stop("Subject", "experiments", 2, 0, "what is measured"),
        Stop("evaluate_on", "experiments", 2, 1, "suite by suite"),
        Stop("Suite.tally", "experiments", 1, 1, "sums of some images"),
        Stop("Ledger.add", "experiments", 0, 1, "notes what is finished"),
        Stop("Suite.records", "experiments", 0, 2, "numbers of the whole suite"),
        Stop("merge", "experiments", 1, 2, "replaces the same measurement"),
        Stop("records.jsonl", None, 2, 2),
        Stop("Column", "experiments.report", 2, 3, "picks its records"),
        Stop("cell", "experiments", 1, 3, "mean and deviation over seeds"),
        Stop("table.md", None, 0, 3),
    ],
    [
        Arrow(0, 1, "weights"),
        Arrow(1, 2, "Trained"),
        Arrow(2, 3, "Subject"),
        Arrow(3, 4, "SuitePart"),
        Arrow(4, 5, "Tally"),
        Arrow(5, 6, "Tally"),
        Arrow(6, 7, "records", returned=True),
        Arrow(7, 8, "lines"),
        Arrow(8, 9, ""),
        Arrow(9, 10, "values"),
        Arrow(10, 11, "text"),
    ],
)

WAYS = {"simulation": SIMULATION, "layer": LAYER, "evaluation": EVALUATION}


class Canvas:
    """SVG, element by element."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" font-family="DejaVu Sans, Verdana, sans-serif">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto"><path d="M0 0 8 4 0 8Z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
        ]

    def box(self, x: float, y: float, width: float, height: float, fill: str, radius: float = 4) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{LINE}" stroke-width="1"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        colour: str = INK,
        weight: str = "normal",
        anchor: str = "middle",
    ) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{escape(words)}</text>'
        )

    def line(self, points: Sequence[tuple[float, float]]) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.4" marker-end="url(#tip)"/>'
        )

    def dot(self, x: float, y: float) -> None:
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="{LINE}"/>')

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def drawn_way(way: Way, source: Source) -> str:
    """The picture of a way; ValueError for names that are not in the source."""
    homes = [None if stop.where is None else source.home(stop.where, stop.name) for stop in way.stops]
    types = {name for names in source.names.values() for name in names}
    columns, rows = (1 + max(getattr(stop, axis) for stop in way.stops) for axis in ("column", "row"))
    canvas = Canvas(columns * WIDTH + (columns - 1) * ACROSS + 16, rows * HEIGHT + (rows - 1) * DOWN + 16, way.title)
    for stop, home in zip(way.stops, homes, strict=True):
        x, y = _corner(stop)
        canvas.box(x, y, WIDTH, HEIGHT, BOX if home else FILE, 4 if home else 14)
        middle = x + WIDTH / 2
        if home is None:
            canvas.text(middle, y + HEIGHT / 2 + 5, stop.name, 13)
            continue
        canvas.text(middle, y + 18, stop.name, 13, weight="bold")
        canvas.text(middle, y + 34, stop.does, 10.5)
        place = source.paths[home].relative_to(source.root).as_posix()
        canvas.text(middle, y + 49, place, min(10.0, 200 / (0.56 * len(place))), FAINT)
    for arrow in way.arrows:
        first, last = homes[arrow.start], homes[arrow.end]
        if first and last and not arrow.returned and not source.know(first, last):
            raise ValueError(f"{first} and {last} do not know of each other; the arrow between them is wrong")
        if arrow.carries[:1].isupper() and arrow.carries != "Dataset" and arrow.carries not in types:
            raise ValueError(f"no module defines {arrow.carries}, which an arrow of {way.title!r} carries")
        _draw_arrow(canvas, way.stops[arrow.start], way.stops[arrow.end], arrow.carries)
    return str(canvas)


def _corner(stop: Stop) -> tuple[float, float]:
    return 8 + stop.column * (WIDTH + ACROSS), 8 + stop.row * (HEIGHT + DOWN)


def _draw_arrow(canvas: Canvas, start: Stop, end: Stop, carries: str) -> None:
    (x0, y0), (x1, y1) = _corner(start), _corner(end)
    if start.row == end.row:
        y, forth = y0 + HEIGHT / 2, x1 > x0
        ends = (x0 + WIDTH, x1) if forth else (x0, x1 + WIDTH)
        canvas.line([(ends[0], y), (ends[1], y)])
        canvas.text(sum(ends) / 2, y - 6, carries, 11, LINE)
        return
    from_x, to_x = x0 + WIDTH / 2, x1 + WIDTH / 2
    if end.row < start.row:  # to the right, and up
        canvas.line([(x0 + WIDTH, y0 + HEIGHT / 2), (to_x, y0 + HEIGHT / 2), (to_x, y1 + HEIGHT)])
        return
    low, high = y0 + HEIGHT, y1
    middle = (low + high) / 2
    if start.column == end.column:
        canvas.line([(from_x, low), (to_x, high)])
    else:
        canvas.line([(from_x, low), (from_x, middle), (to_x, middle), (to_x, high)])
    canvas.text(from_x + 8, middle + 4, carries, 11, LINE, anchor="start")


def drawn_order(source: Source) -> str:
    """The picture of the imports. Each package has a row, with a dot in the column of each package that it imports.

    A dot above the diagonal is an import against the order.
    """
    graph = _packages(source)
    names = [name for name in ORDER if name in graph]
    names += sorted(graph.keys() - {*names})
    side, left, top = 24, 190, 150
    size = side * len(names)
    canvas = Canvas(left + size + 70, top + size + 16, "Who imports whom")
    for y in range(top, top + size, 2 * side):
        canvas.parts.append(f'<rect x="8" y="{y}" width="{left + size - 8}" height="{side}" fill="{BOX}"/>')
    for i, name in enumerate(names):
        y, x = top + i * side, left + i * side
        canvas.text(left - 8, y + 16, name, 12, anchor="end")
        canvas.parts.append(
            f'<text transform="translate({x + 16} {top - 8}) rotate(-60)" font-size="12" fill="{INK}">{name}</text>'
        )
        canvas.parts.append(f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="#c9d8e8"/>')
        for target in sorted(graph[name]):
            canvas.dot(left + names.index(target) * side + side / 2, y + side / 2)
    return str(canvas)


def _packages(source: Source) -> dict[str, set[str]]:
    """What each package imports. `vars_dyn/__init__.py`, which imports everything, is left out."""

    def package(module: str) -> str | None:
        parts = module.split(".")
        if parts[0] != "vars_dyn":
            return parts[0]
        if len(parts) == 1:
            return None
        return ORDER[0] if parts[1].startswith("_") else parts[1]

    graph: dict[str, set[str]] = {}
    for module, targets in source.imports.items():
        own = package(module)
        if own is not None:
            graph.setdefault(own, set()).update(name for name in map(package, targets) if name not in (own, None))
    return graph


def pictures(source: Source | None = None) -> dict[str, str]:
    """Every picture, by its file name."""
    source = source or Source()
    drawn = {f"{name}.svg": drawn_way(way, source) for name, way in WAYS.items()}
    return {"order.svg": drawn_order(source), **drawn}


def main() -> int:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, text in pictures().items():
        (PICTURES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
