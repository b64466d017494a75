"""Short inventories of other projects, for links to their names where their sites cannot be reached.

`torch`, `xarray` and the others publish whole inventories, and Sphinx takes those where there is a network. timm's site
has none.
"""

from __future__ import annotations

import zlib
from pathlib import Path

#: Name, kind and place below the project's address; `$` stands for the name.
NAMES = {
    "numpy": (
        ("numpy.ndarray", "class", "reference/generated/$.html#$"),
        ("numpy.floating", "class", "reference/arrays.scalars.html#$"),
    ),
    "python": (
        ("ValueError", "exception", "library/exceptions.html#$"),
        ("pathlib.Path", "class", "library/pathlib.html#$"),
        ("collections.abc.Callable", "class", "library/collections.abc.html#$"),
        ("collections.abc.Iterable", "class", "library/collections.abc.html#$"),
        ("collections.abc.Iterator", "class", "library/collections.abc.html#$"),
        ("collections.abc.Mapping", "class", "library/collections.abc.html#$"),
        ("collections.abc.Sequence", "class", "library/collections.abc.html#$"),
    ),
    "timm": (("timm.create_model", "function", "reference/models#$"),),
    "torch": (
        ("torch.Tensor", "class", "tensors.html#$"),
        ("torch.dtype", "class", "tensor_attributes.html#$"),
        ("torch.device", "class", "tensor_attributes.html#$"),
        ("torch.nn.Module", "class", "generated/torch.nn.Module.html#$"),
        ("torch.optim.Optimizer", "class", "optim.html#$"),
    ),
    "xarray": (
        ("xarray.Dataset", "class", "generated/xarray.Dataset.html#$"),
        ("xarray.DataArray", "class", "generated/xarray.DataArray.html#$"),
        ("xarray.open_zarr", "function", "generated/xarray.open_zarr.html#$"),
    ),
}


def write(folder: Path) -> None:
    """Write `folder`/PROJECT.inv for every project, in the second format of Sphinx."""
    folder.mkdir(parents=True, exist_ok=True)
    for project, names in NAMES.items():
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        head += "# The remainder of this file is compressed using zlib.\n"
        lines = "".join(f"{name} py:{kind} 1 {place} -\n" for name, kind, place in names)
        (folder / f"{project}.inv").write_bytes(head.encode() + zlib.compress(lines.encode()))
