"""Open stores as lazy datasets. Reading one gives the numbers of the run that was opened, or raises StoreError."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from vars_dyn._files import StoreError
from vars_dyn.recording.chunks import check_chunk
from vars_dyn.recording.integrity import Contents, contents
from vars_dyn.recording.store import is_carried

__all__ = ["open_dataset"]


def open_dataset(store: str | os.PathLike[str]) -> xr.Dataset:
    """The dataset of a store, read lazily.

    Args:
        store: folder of the store.

    Returns:
        The dataset. Its numbers are read when they are used. Reading raises StoreError if another run has taken the
            place of the one that was opened, or if a chunk is missing or damaged. (`xarray.open_zarr` opens a store
            too, without these checks.)

    Raises:
        StoreError: (a ValueError) if there is no store, or a damaged one.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> field = vd.SparseRecurrent(P, x, lam=0.5)
        >>> _ = vd.record(field, "opened.zarr", torch.linspace(0, 10, 6, dtype=torch.float64))
        >>> run = vd.open_dataset("opened.zarr")
        >>> run.z.dims, run.z.shape
        (('time', 'signal', 'neuron'), (6, 1, 3))
    """
    path = Path(store)
    found = contents(path)
    with _damage_said(path, "it"):
        lazy = xr.open_zarr(_OneRun(path, found), chunks=None, consolidated=True)
    variables = {str(name): _checked(path, str(name), variable) for name, variable in lazy.variables.items()}
    coordinates = {name: variables[name] for name in lazy.coords if name in variables}
    data = {name: variable for name, variable in variables.items() if name not in coordinates}
    dataset = xr.Dataset(data, coordinates, lazy.attrs)
    dataset.encoding["source"] = str(path.resolve())
    return dataset


def _checked(path: Path, name: str, variable: xr.Variable) -> xr.Variable:
    """The variable, made to raise StoreError with one sentence if reading fails. One in memory stays as it is."""
    if variable.dtype.kind in "TUO":
        # xarray 2025.10 reads text as objects, but would write it as NumPy's strings, which netCDF 3 has not.
        variable.encoding.pop("dtype", None)
    if isinstance(variable, xr.IndexVariable):
        return variable
    if not variable.ndim and variable.dtype.kind in "TUO":
        return xr.Variable((), np.asarray(str(variable.to_numpy().item())), variable.attrs)
    if not variable.ndim:
        return variable.load()
    lazy = indexing.LazilyIndexedArray(_Checked(path, name, variable))
    return xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding)


class _Checked(BackendArray):
    """A variable of a store, as one of xarray's lazy arrays."""

    def __init__(self, path: Path, name: str, variable: xr.Variable) -> None:
        self.path, self.name, self.variable = path, name, variable
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        with _damage_said(self.path, f"its array {self.name}"):
            return self.variable[key].to_numpy()


class _OneRun(LocalStore):
    """A folder of zarr files that serves the chunks of one run only, and only chunks that fit the metadata."""

    def __init__(self, root: Path, found: Contents | None = None, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=True)
        self._arrays: Mapping[str, Mapping[str, Any]] = {} if found is None else found.arrays
        self._identity = self._run()

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        array, _, file = key.rpartition("/")
        metadata = self._arrays.get(array)
        if metadata is None or file == "zarr.json":
            return await super().get(key, prototype, byte_range)
        if is_carried(metadata):
            return None  # the metadata hold its value, so no file in its folder counts
        path = self.root / key
        if path.is_symlink():
            raise StoreError(f"{path} is a symbolic link, where a chunk's file is wanted")
        value = await super().get(key, prototype, byte_range)
        if self._run() != self._identity:
            raise StoreError(f"{self.root} holds another run than the one that was opened; open it again")
        if value is None:
            raise StoreError(f"{path} is missing: the store is damaged")
        check_chunk(path, value.as_numpy_array()[:64].tobytes(), metadata)
        return value

    def _run(self) -> object:
        """What distinguishes this run from another at the same place: its identity, or the folder if it has none."""
        try:
            if "run" in self._arrays:
                return (self.root / "run" / "zarr.json").read_bytes()
            status = self.root.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


@contextmanager
def _damage_said(path: Path, what: str) -> Iterator[None]:
    """Turn the errors that zarr and its codecs raise for damaged files into a StoreError of one sentence."""
    try:
        yield
    except StoreError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{path} is damaged: {what} cannot be read: {said}") from error
