"""What a suite finds for each image: kept part by part while it is measured, and then written as one labelled dataset.

A part is a file that appears whole or not at all, so an interrupted evaluation has all that its finished parts found.
The dataset of all parts is a zarr store, which xarray reads.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr

from experiments.evaluation.parts import SuitePart
from vars_dyn import _files

__all__ = ["Described", "PerImage"]

#: The entry of a part's file that says what the part is, as JSON in UTF-8.
_ABOUT = "about"

#: About how many numbers of a store are in memory while it is written, and how many a chunk has.
_AT_ONCE, _CHUNK = 1 << 22, 1 << 18


class Described(NamedTuple):
    """What a variable is: its meaning, and its dimensions after `image`."""

    meaning: str
    dims: tuple[str, ...] = ()


class PerImage:
    """Arrays of the parts of a suite, whose first axis is the image: in files of `folder`, or in memory if it is None.

    `stored` describes the arrays by name.
    """

    def __init__(self, folder: Path | None, stored: Mapping[str, Described]) -> None:
        self.folder, self.stored = folder, stored
        self._memory: dict[str, dict[str, np.ndarray]] = {}

    def add(self, part: SuitePart, found: Mapping[str, np.ndarray]) -> None:
        """Keep what was found for the images of a part."""
        if self.folder is None:
            self._memory[part.name] = dict(found)
            return
        paths = [entry[0] if isinstance(entry, tuple) else entry for entry in part.images.entries]
        about: dict[str, Any] = {"part": part.name, "images": part.digest, "first": part.first, **part.notes}
        if all(isinstance(path, Path) for path in paths):
            about["files"] = ["/".join(path.parts[-3:]) for path in paths]
        content: dict[str, Any] = {_ABOUT: np.frombuffer(json.dumps(about).encode(), dtype=np.uint8), **found}
        self.folder.mkdir(parents=True, exist_ok=True)
        written = io.BytesIO()
        np.savez(written, **content)
        _files.write_bytes(self._file(self.folder, part.name), written.getvalue())

    def holds(self, part: SuitePart) -> bool:
        """Whether all of `stored` is kept for exactly the images of a part."""
        if self.folder is None:
            return part.name in self._memory
        try:
            with self._file(self.folder, part.name).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return set(self.stored) <= set(file.files) and _about(file)["images"] == part.digest
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False

    def find(self, part: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays `names` of the part of that name."""
        if self.folder is None:
            return {name: self._memory[part][name] for name in names}
        with np.load(self._file(self.folder, part), allow_pickle=False) as file:
            return {name: file[name] for name in names}

    def together(self, parts: Sequence[str], names: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays `names` of several parts, one after the other."""
        found = [self.find(part, names) for part in parts]
        return {name: np.concatenate([each[name] for each in found]) for name in names}

    def publish(
        self,
        path: Path,
        parts: Sequence[str],
        axes: Mapping[str, Sequence[Any]],
        attributes: Mapping[str, Any],
    ) -> None:
        """Write all of some parts as one dataset to the zarr store `path`, which appears whole or not at all.

        `axes` has the labels along dimensions other than `image`. A store of the same parts is left as it is.
        """
        if self.folder is None:
            return
        about = {**attributes, "parts": list(parts), "variables": list(self.stored)}
        if _attributes(path) == json.loads(json.dumps(about)):
            return
        texts = {name: _labels(labels) for name, labels in axes.items()}
        with warnings.catch_warnings(), _files.replacing_folder(path) as partial:
            # With consolidated metadata no reader is warned. zarr warns of it, and of texts, because its format has no
            # final word on them yet.
            warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
            for number, some in enumerate(self._batches(self.folder, parts)):
                part = some.assign_coords({name: each for name, each in texts.items() if name in some.dims})
                if number:
                    part.drop_vars(texts, errors="ignore").to_zarr(
                        partial, mode="a", append_dim="image", consolidated=False
                    )
                    continue
                chunks = {
                    name: {"chunks": (max(1, _CHUNK // max(1, each[0].size)), *each.shape[1:])}
                    for name, each in part.variables.items()
                    if each.dims[:1] == ("image",)
                }
                part.assign_attrs(about).to_zarr(partial, mode="w", zarr_format=3, consolidated=False, encoding=chunks)
            zarr.consolidate_metadata(partial)

    def _batches(self, folder: Path, parts: Sequence[str]) -> Iterator[xr.Dataset]:
        """The parts as datasets of a bounded size, each of one part or more."""
        columns: dict[str, list[np.ndarray]] = {}
        for part in parts:
            with np.load(self._file(folder, part), allow_pickle=False) as file:
                arrays = {name: file[name] for name in self.stored}
                own = {**arrays, **_coordinates(_about(file), len(next(iter(arrays.values()))))}
            for name, values in own.items():
                columns.setdefault(name, []).append(values)
            if sum(values.size for same in columns.values() for values in same) > _AT_ONCE:
                yield self._labelled(columns)
                columns = {}
        if columns:
            yield self._labelled(columns)

    def _labelled(self, columns: Mapping[str, Sequence[np.ndarray]]) -> xr.Dataset:
        joined = {name: np.concatenate(values) for name, values in columns.items()}
        found = {
            name: (("image", *each.dims), joined.pop(name), {"long_name": each.meaning})
            for name, each in self.stored.items()
        }
        return xr.Dataset(found, {name: ("image", values) for name, values in joined.items()})

    @staticmethod
    def _file(folder: Path, part: str) -> Path:
        return folder / f"{part.replace('/', '-')}.npz"


def _about(file: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(file[_ABOUT].tobytes())


def _coordinates(about: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """The number of each image in its set as `image`, its file if it has one, and what is the same in the part."""
    found: dict[str, np.ndarray] = {"image": np.arange(about["first"], about["first"] + count)}
    if "files" in about:
        found["file"] = np.array(about["files"], dtype=object)
    for name, value in about.items():
        if name not in ("images", "first", "files"):
            found[name] = np.full(count, value, dtype=object if isinstance(value, str) else None)
    return found


def _labels(values: Sequence[Any]) -> np.ndarray:
    return np.array(list(values), dtype=object if isinstance(values[0], str) else None)


def _attributes(path: Path) -> Any:
    try:
        return json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError):
        return None
