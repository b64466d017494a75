"""Damage the files of stores. Whatever the damage, opening and resuming must give right numbers or one sentence."""

from __future__ import annotations

import json
import random
import shutil
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import vars_dyn as vd
from vars_dyn.recording import StoreError, facts, open_dataset
from vars_dyn.recording.record import record

__all__ = ["QUICK", "run"]

#: How many damaged stores `run` opens and resumes in a few seconds.
QUICK = 12

_SLOW = 20.0  # seconds of processor time; a store of a few kilobytes takes far less to open or to refuse
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf"), "", "NaN", "none", "string", "bool",
    "object", "complex128", "float32", "int8", "numcodecs.pickle", "pickle", "../..", "/", [], [0], [-1], [10**12],
    [[]], {}, {"name": "numcodecs.pickle"}, {"name": "gzip", "configuration": {"level": 5}}, "x" * 5000, "\0",
)  # fmt: skip


def run(count: int, seed: int, folder: Path) -> list[str]:
    """Damage `count` copies of a small run's stores in `folder`, open and resume each, and return the faults."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    whole = _recorded(folder / "whole.zarr", 6.0).load()
    part = _recorded(folder / "part.zarr", 3.0).load()
    outside = folder / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "thesis.tex").write_text("years of work")
    found = []
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        store = folder / f"damaged-{number}.zarr"
        shutil.copytree(folder / "part.zarr", store)
        done = [_damage(store, outside, chance) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
        began = time.process_time()
        fault = _opened(store, part) or _resumed(store, whole)
        if (outside / "thesis.tex").read_text() != "years of work" or len(list(outside.iterdir())) > 1:
            fault = "touched what is outside"
            shutil.rmtree(outside)
            outside.mkdir()
            (outside / "thesis.tex").write_text("years of work")
        if time.process_time() - began > _SLOW:
            fault = f"took {time.process_time() - began:.0f} s of processor time"
        if fault is not None:
            found.append(f"seed {seed}, store {number} ({'; '.join(done)}): {fault}")
        shutil.rmtree(store)
    return found


def _recorded(store: Path, t_max: float, *, resume: bool = False) -> xr.Dataset:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    field = vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, lam=0.3)
    times = 0.25 * torch.arange(int(4 * t_max) + 1, dtype=torch.float64)
    labels = np.array(["left", "right", "up"])
    return record(field, store, times, chunk=4, resume=resume, coordinates={"side": labels})


def _opened(store: Path, part: xr.Dataset) -> str | None:
    """The fault found by reading the store, before it is resumed."""
    return _said(lambda: _compared(open_dataset(store).load(), part, complete=False))


def _resumed(store: Path, whole: xr.Dataset) -> str | None:
    return _said(lambda: _compared(_recorded(store, 6.0, resume=True).load(), whole, complete=True))


def _said(act: Callable[[], str | None]) -> str | None:
    """The fault that `act` finds, or its traceback if it raises anything but an error of one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged provenance may name another version, which warns
            return act()
    except StoreError as error:
        return f"says more than a sentence: {error}" if "\n" in str(error) or len(str(error)) > 8000 else None
    except Exception:  # every other exception is a fault
        return traceback.format_exc()


#: Variables that a resumed run writes anew at its end, or that differ from run to run.
_OWN = ("run", "provenance", "wall_seconds", "status", "t_end", "t_max", "evaluations", "accepted", "rejected")


def _compared(seen: xr.Dataset, whole: xr.Dataset, *, complete: bool) -> str | None:
    points = seen.sizes["time"]
    if points > whole.sizes["time"] or (complete and points < whole.sizes["time"]):
        return f"{points} points were read"
    for name in set(whole.variables) - set(_OWN):
        if not complete and (name.endswith("_end") or name == "settled_at"):
            continue
        if name not in seen.variables:
            return f"{name} is not there"
        expected = whole[name].isel(time=slice(points)) if "time" in whole[name].dims else whole[name]
        if seen[name].dtype.kind != expected.dtype.kind or seen[name].dims != expected.dims:
            return f"{name} is {seen[name].dtype} over {seen[name].dims}"
        if not bool(
            (seen[name].isnull() == expected.isnull()).all() & ((seen[name] == expected) | expected.isnull()).all()
        ):
            off = float(abs(seen[name] - expected).max()) if expected.dtype.kind == "f" else "text"
            return f"{name} was read as other numbers, off by {off}"
    known, right = facts(seen), facts(whole)
    wrong = next((k for k in ("lam", "alpha", "beta", "gamma", "rtol", "atol", "method") if known[k] != right[k]), None)
    return None if wrong is None else f"{wrong} was read as {known[wrong]}"


# The ways to damage a store. Each returns a description of what it did.


def _damage(store: Path, outside: Path, chance: random.Random) -> str:
    files = sorted(path for path in store.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing is left"
    # The root's metadata gets four damages in ten, since readers trust it most.
    root = store / "zarr.json"
    path = root if chance.random() < 0.4 and root in files else chance.choice(files)
    how = chance.choice((_flip, _flip, _cut, _grow, _remove, _edit, _edit, _edit, _edit, _link, _empty, _swap))
    return f"{how.__name__[1:]} {path.relative_to(store)} {how(path, store, outside, chance)}"


def _flip(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return ""
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"at byte {at}"


def _cut(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) + 1)])
    return ""


def _grow(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 100)))
    return ""


def _remove(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    if chance.random() < 0.3 and path.parent != store:
        shutil.rmtree(path.parent)
        return "and its folder"
    path.unlink()
    return ""


def _empty(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    path.write_bytes(b"")
    return ""


def _swap(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    """Put another file of the same kind in the file's place."""
    other = chance.choice([p for p in sorted(store.rglob(path.name)) if p.is_file()])
    path.write_bytes(other.read_bytes())
    return f"for {other.relative_to(store)}"


def _link(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    """Replace a file, its unfinished twin or its folder by a link to something outside."""
    kind = chance.choice(("file", "partial", "folder"))
    if kind == "partial":
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        partial.symlink_to(outside / "thesis.tex")
    elif kind == "folder" and path.parent != store:
        shutil.rmtree(path.parent)
        path.parent.symlink_to(outside, target_is_directory=True)
    else:
        path.unlink()
        path.symlink_to(outside / "thesis.tex")
    return kind


def _edit(path: Path, store: Path, outside: Path, chance: random.Random) -> str:
    """Change one entry of a metadata file to something odd, or to another entry's value, or remove it."""
    if path.name != "zarr.json":
        path = store / "zarr.json"
    if path.is_symlink():
        return "(a link)"
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return "(no JSON any more)"
    places = list(_places(document))
    if not places:
        return ""
    holder, key = chance.choice(places)
    if chance.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
        did = f"{key} removed"
    else:
        other, at = chance.choice(places)
        holder[key] = chance.choice(_ODD) if chance.random() < 0.7 else other[at]
        did = f"{key} made {str(holder[key])[:40]!r}"
    try:
        path.write_text(json.dumps(document))
    except (ValueError, RecursionError):
        return "(circular)"
    return did


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every holder and key of a JSON document."""
    found: list[tuple[Any, Any]] = []
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    for key in keys:
        found.append((node, key))
        found.extend(_places(node[key]))
    return found
