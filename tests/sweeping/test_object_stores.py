"""Sweeps into an object store: an S3 server of this machine, which is there if moto, Flask and s3fs are installed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import xarray as xr

import vars_dyn as vd
from tests.sweeping.members import product
from tests.sweeping.servers import s3_bucket
from vars_dyn._files import StoreError
from vars_dyn.sweeping import open_sweep
from vars_dyn.sweeping.places import Place

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("flask_cors", reason="moto's server is not installed")
pytest.importorskip("moto.server", reason="moto is not installed")
pytest.importorskip("distributed", reason="the extra cluster is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*loop.*", "ignore:.*utcnow.*")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a server on the loopback interface."""
    monkeypatch.chdir(tmp_path)  # tracebacks go to the working folder
    with s3_bucket() as url:
        yield url


def test_workers_write_to_an_object_store(bucket: str, tmp_path: Path) -> None:
    design = {"a": [1.0, 2.0, -1.0], "b": [0.5, 3.0]}
    local, url = vd.sweep(product, design, tmp_path / "s.zarr", block=2), f"{bucket}/some/s.zarr"
    found = vd.sweep(product, design, url, workers=2, block=2)
    for name in ("product", "pair", "status", "error", "a", "b"):
        assert found[name].values.tolist()[:4] == local[name].values.tolist()[:4], name
    assert found["status"].values.tolist() == [1, 1, 1, 1, 2, 2]
    assert found["product"].equals(xr.open_zarr(url, chunks=None)["product"])
    # The lease is gone, and another sweep's is heeded until it is stale.
    place, system = Place.of(url), fsspec.filesystem("s3")
    assert not system.exists("laboratory/some/s.zarr.lease")
    with pytest.raises(StoreError, match="exists"):
        vd.sweep(product, design, url)
    with place.claimed():
        note = json.loads(system.cat_file("laboratory/some/s.zarr.lease"))
        assert note["pid"] == os.getpid()
        with pytest.raises(StoreError, match="written by another sweep"):
            vd.sweep(product, design, url, resume=True)
    again = vd.sweep(product, design, url, resume=True)
    assert again["status"].values.tolist() == [1, 1, 1, 1, 2, 2]
    assert again["attempts"].values.tolist() == [1, 1, 1, 1, 2, 2]  # done is done; what failed is tried again
    with pytest.raises(StoreError, match="there is nothing"):
        open_sweep(f"{bucket}/nothing.zarr")
