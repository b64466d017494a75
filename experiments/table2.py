"""`python -m experiments.table2 --models [LABEL=CHECKPOINT,timm:NAME=WEIGHTS] --data ROOT`: the paper's Table 2.

For any list of models the table has parameters, GFLOPs, accuracy on ImageNet's validation images (clean and attacked),
mCE on ImageNet-C, and accuracy on ImageNet-A, -R and -Sketch. It is written as table2.md, table2.tex and table2.json.
Every cell links to the line of the records that it comes from. Where there is no data set, or none that fits the model,
the cell is a dash, and the JSON gives the reason. If the command is stopped, the same command goes on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from experiments import cli
from experiments.evaluation.opening import evaluation_of
from experiments.evaluation.run import Evaluation, measure
from experiments.evaluation.suites import SUITES
from experiments.evaluation.trained import Trained, labelled_source, trained
from experiments.report import records, tables
from experiments.report.published import Published, published_for
from experiments.report.summaries import ALL_COLUMNS
from models.cost import cost_of

__all__ = ["COLUMNS", "Row", "TableCell", "main", "measure_row", "write"]

#: The columns of the paper's table, by their titles there.
COLUMNS = {
    "Clean": ALL_COLUMNS["clean"],
    "FGSM": ALL_COLUMNS["FGSM"],
    "PGD": ALL_COLUMNS["PGD"],
    "IN-C (mCE, lower is better)": ALL_COLUMNS["IN-C (mCE)"],
    "IN-A": ALL_COLUMNS["IN-A"],
    "IN-R": ALL_COLUMNS["IN-R"],
    "IN-SK": ALL_COLUMNS["IN-SK"],
}


@dataclass(frozen=True)
class TableCell:
    """A number, or the reason why there is none.

    Attributes:
        value: the number, in per cent.
        record: where its record is, as FILE#LNUMBER relative to the table.
        missing: the reason for a dash.
        broken: whether the data set was there but could not be used.
    """

    value: float | None = None
    record: str | None = None
    missing: str | None = None
    broken: bool = False

    @property
    def entry(self) -> tables.Entry:
        """The number, linked to its record, as a table shows it."""
        return None if self.value is None or self.record is None else tables.Link(f"{self.value:.1f}", self.record)


@dataclass(frozen=True)
class Row:
    """A model: millions of parameters, GFLOPs (multiply-accumulates of one image), and its cells by column.

    `published` is the paper's row of the same model, if it has one.
    """

    label: str
    parameters: float
    gflops: float
    cells: dict[str, TableCell]
    published: Published | None = None


def measure_row(label: str, source: str, how: Evaluation, out: Path, root: Path | None, data: dict[str, Any]) -> Row:
    """Measure a model on the data sets that there are. Its records go to `out`/LABEL/records.jsonl."""
    found, missing = _model(source, root, data)
    folder = re.sub(r"[^\w.-]+", "-", label)
    (out / folder / "records.jsonl").unlink(missing_ok=True)
    cells = {}
    lines = 0
    for title, column in COLUMNS.items():
        needs = SUITES[column.on].needs
        if needs is None and missing is not None:
            cells[title] = TableCell(missing=missing)
            continue
        if needs is not None and (root is None or not (root / needs).is_dir()):
            cells[title] = TableCell(missing=f"there is no folder {needs}")
            continue
        try:
            own = measure(found, replace(how, on=(column.on,)), out / folder, root, label)
        except ValueError as error:
            cells[title] = TableCell(missing=" ".join(str(error).split()), broken=True)
            continue
        at = [i for i, record in enumerate(own) if column.picks(record)]
        if at:
            line = lines + at[0] + 1
            cells[title] = TableCell(column.scale * own[at[0]]["value"], f"{folder}/records.jsonl#L{line}")
        else:
            cells[title] = TableCell(missing=f"{column.on} was measured in part, which gives no {column.metric}")
        lines += len(own)
    cost = cost_of(found.model.network, found.settings.data.image_size)
    model = found.settings.model
    return Row(label, cost.parameters, cost.gflops, cells, published_for(model.name, model.attention.kind))


def _model(source: str, root: Path | None, data: dict[str, Any]) -> tuple[Trained, str | None]:
    """The model with its validation images. If it has none, the second value says why."""
    try:
        return trained(source, validation=data, root=root), None
    except ValueError as error:
        found = trained(source, validation=data, with_images=False, root=root)
        return found, " ".join(str(error).split())


def write(rows: Sequence[Row], out: Path, published: bool = False) -> None:
    """Write the table as Markdown, LaTeX and JSON. With `published` the paper's row follows each model that it has."""
    out.mkdir(parents=True, exist_ok=True)
    titles = ["model", "parameters (M)", "GFLOPs", *COLUMNS]
    shown: list[list[tables.Entry]] = []
    for row in rows:
        cells = [cell.entry for cell in row.cells.values()]
        shown.append([row.label, _short(row.parameters), _short(row.gflops), *cells])
        if published and row.published is not None:
            shown.append(_from_paper(row.published))
    (out / "table2.md").write_text(tables.markdown(titles, shown, left=1))
    (out / "table2.tex").write_text(tables.latex(titles, shown))
    content = {
        "columns": list(COLUMNS),
        "rows": [_plain(row) for row in rows],
        **records.provenance(),
    }
    (out / "table2.json").write_text(json.dumps(content, indent=1) + "\n")


def _plain(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    cells = {name: vars(cell) for name, cell in row.cells.items()}
    paper = None
    if row.published is not None:
        values = {name: row.published.value(column.on, column.metric) for name, column in COLUMNS.items()}
        shown = {name: COLUMNS[name].scale * value for name, value in values.items() if value is not None}
        label, cost = row.published.label, {"parameters": row.published.parameters, "gflops": row.published.gflops}
        paper = {"label": label, **cost, "cells": shown}
    return {**vars(row), "cells": cells, "published": paper}


def _from_paper(paper: Published) -> list[tables.Entry]:
    values = [paper.value(column.on, column.metric) for column in COLUMNS.values()]
    scales = [column.scale for column in COLUMNS.values()]
    cells = [None if value is None else f"{scale * value:.1f}" for value, scale in zip(values, scales, strict=True)]
    return [f"paper: {paper.label}", f"{paper.parameters:.1f}", f"{paper.gflops:.1f}", *cells]


def _short(value: float) -> str:
    """A number with one decimal, or with two digits if it is small."""
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, which is 1 if some data could not be used."""
    parser = cli.parser_for("table2", "Measure models on all of Table 2; given again, it goes on.")
    parser.add_option("models", list[str], required=True, help="MODEL or LABEL=MODEL: checkpoints, timm:NAME=FILE")
    cli.add_data(parser)
    parser.add_flag("published", "show the paper's row under each model that it has")
    parser.add_option("out", str, default="runs/table2", help="folder of the table and its records")
    parser.add_class_arguments(Evaluation, None, skip={"on"})

    def command(values: Namespace) -> int:
        values = parser.instantiate(values)
        root = None if values.data is None else Path(values.data)
        if root is not None and not root.is_dir():
            raise ValueError(f"data is {values.data!r}; the folder that has imagenet, imagenet-c, ... is wanted")
        sources = [labelled_source(each) for each in values.models]
        names = [label for label, _ in sources]
        if len(set(names)) < len(names) or not names:
            raise ValueError(
                f"models are called {', '.join(names) or 'nothing'}; one or more different labels are wanted"
            )
        out = Path(values.out)
        rows = []
        for label, source in sources:
            rows.append(measure_row(label, source, evaluation_of(values, ()), out, root, values.validation))
            write(rows, out, values.published)  # a stopped command leaves a table of what is done
        print((out / "table2.md").read_text())
        broken = [(row.label, name, cell) for row in rows for name, cell in row.cells.items() if cell.broken]
        for label, name, cell in broken:
            print(f"{label}, {name}: {cell.missing}", file=sys.stderr)
        return 1 if broken else 0

    return cli.run(parser, command, arguments)


if __name__ == "__main__":
    sys.exit(main())
