"""Files of records. Each measured number is a JSON object on a line, which says where the number comes from."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vars_dyn import _files
from vars_dyn.recording.provenance import command_line, now, versions

__all__ = ["append", "commit", "latest", "merge", "provenance", "read"]


@functools.cache
def commit() -> str:
    """The commit of the code at the first call, or "unknown" outside a repository.

    It ends with "+changes" if files differ from the commit.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance() -> dict[str, Any]:
    """Commit, versions, command and date of this process."""
    return {"commit": commit(), **versions(), "command": command_line(), "date": now()}


def merge(path: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Put records into a file, where they replace those of the same measurement. All others stay as they are.

    A measurement is that of one model, under one label, by one suite with its options. The field `measurement` of a
    record says which it is. The file is whole at every moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    again = {record["measurement"] for record in measured}
    found = [record for record in read([path]) if record.get("measurement") not in again] if path.exists() else []
    _files.write_bytes(path, "".join(f"{json.dumps(record)}\n" for record in [*found, *measured]).encode())


def latest(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest records of each label and seed: those of the model that was measured last.

    Of each suite only the last measurement counts. Earlier versions wrote records that do not say what they measure;
    these count as one measurement.
    """
    model = {(r["label"], r["seed"]): r.get("weights") for r in found}
    kept = [r for r in found if model[r["label"], r["seed"]] == r.get("weights")]
    last = {(r["label"], r["seed"], r["on"]): r.get("measurement") for r in kept}
    return [r for r in kept if last[r["label"], r["seed"], r["on"]] == r.get("measurement")]


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records to a file of one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The records in files. Raises a ValueError that names a line that is no record."""
    records, paths = [], list(paths)
    shown = ", ".join(map(str, paths))
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} cannot be read ({error})") from None
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{path}, line {number}, is no JSON record") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}, is no JSON record")
            records.append(record)
    for record in records:
        if not set(record) >= _FIELDS or not _is_number(record["value"]):
            raise ValueError(f"{shown} holds what is no record; {', '.join(sorted(_FIELDS))} in each are wanted")
    return records


#: What every record has.
_FIELDS = {"label", "seed", "metric", "on", "value"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
