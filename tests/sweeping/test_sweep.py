"""A sweep in one process: results, failures, resuming, locks, full disks, readers, and object stores."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import vars_dyn as vd
from tests.sweeping.members import lasting, product, refused, settling
from vars_dyn._files import StoreError
from vars_dyn.sweeping import Grid, open_sweep, places
from vars_dyn.sweeping import store as stores
from vars_dyn.sweeping.designs import Crossed
from vars_dyn.sweeping.outputs import as_dataset, outputs_of


def test_each_member_is_what_the_function_returns(tmp_path: Path) -> None:
    found = vd.sweep(product, {"a": [1.0, 2.0, -1.0], "b": [0.5, 3.0]}, tmp_path / "s.zarr", block=4)
    assert found["product"].dims == ("member",)
    good = found.isel(member=slice(4))
    assert (good["product"] == good["a"] * good["b"]).all()
    assert (good["pair"].values == np.stack([good["a"], good["b"]], -1)).all()
    assert found["status"].values.tolist() == [1, 1, 1, 1, 2, 2]
    assert np.isnan(found["product"].values[4:]).all()
    # The failures name their error, and their files the parameters and the traceback.
    assert found["error"].values[4] == "ValueError: a is -1.0; a number of at least zero is wanted"
    text = (tmp_path / "s.zarr.members" / "member-000005.txt").read_text()
    assert '"b": 3.0' in text
    assert "Traceback" in text
    origin = json.loads(str(found["provenance"].values[3]))
    assert origin["parameters"] == {"a": 2.0, "b": 3.0}
    assert {"torch_version", "host", "date", "command", "torch_threads"} <= set(origin)
    # A grid can be laid out as one.
    cube = good.set_index(member=["a", "b"]).unstack("member")
    assert cube["product"].sel(a=2.0, b=3.0) == 6.0


def test_ragged_results_are_padded_and_marked(tmp_path: Path) -> None:
    design = {"lam": [0.3], "seed": [0, 1, 2, 3]}
    found = vd.sweep(settling, design, tmp_path / "s.zarr", ragged={"step": np.arange(6)})
    assert found["course"].dims == ("member", "step")
    assert found["step"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert found["step_length"].values.tolist() == [1, 2, 3, 4]
    for member, length in enumerate((1, 2, 3, 4)):
        alone = settling(0.3, member)
        own = found.isel(member=member)
        assert (own["course"].values[:length] == alone["course"].values).all()
        assert np.isnan(own["course"].values[length:]).all()
        assert (own["code"].values == alone["code"].values).all()
    # Without the largest size the first member's is fixed, and a longer one fails with the reason.
    short = vd.sweep(settling, design, tmp_path / "t.zarr")
    assert short["status"].values.tolist() == [1, 2, 2, 2]
    assert "name the dimension in `ragged`" in str(short["error"].values[2])


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    script = (
        "import sys, vars_dyn as vd\nfrom tests.sweeping.members import lasting\n"
        "vd.sweep(lasting, {'number': list(range(12))}, sys.argv[1], fixed={'folder': sys.argv[2], 'seconds': 0.3},"
        " block=3)"
    )
    store = tmp_path / "s.zarr"
    process = subprocess.Popen([sys.executable, "-c", script, str(store), str(notes)])
    while len(list(notes.iterdir())) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(StoreError, match="written by another"):  # the lock of a process that lives
        vd.sweep(lasting, {"number": list(range(12))}, store, resume=True, fixed={"folder": str(notes), "seconds": 0.3})
    process.kill()
    process.wait()
    # The dataset opens, and what it calls done is right.
    before = open_sweep(store)
    done = before["status"].values == 1
    assert 1 <= done.sum() < 12
    assert (before["value"].values[done] == before["number"].values[done]).all()
    begun = {int(note.name[:4]) for note in notes.iterdir()}
    for note in notes.iterdir():
        note.unlink()
    fixed = {"folder": str(notes), "seconds": 0.3}
    found = vd.sweep(lasting, {"number": list(range(12))}, store, resume=True, fixed=fixed)
    assert (found["status"].values == 1).all()
    assert found["value"].values.tolist() == list(range(12))
    again = {int(note.name[:4]) for note in notes.iterdir()}
    assert again == set(range(12)) - set(np.flatnonzero(done).tolist())  # nothing finished is done twice
    assert len(begun & again) <= 4  # one that was cut off, and its block's uncommitted
    assert not (tmp_path / "s.zarr.members").exists()


def test_another_sweep_is_not_resumed(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    vd.sweep(product, {"a": [1.0], "b": [1.0]}, store)
    with pytest.raises(StoreError, match="exists"):
        vd.sweep(product, {"a": [1.0], "b": [1.0]}, store)
    with pytest.raises(StoreError, match="another design"):
        vd.sweep(product, {"a": [1.0], "b": [2.0]}, store, resume=True)
    with pytest.raises(StoreError, match="another work"):
        vd.sweep(settling, {"lam": [1.0], "seed": [2]}, store, resume=True)
    (tmp_path / "other.zarr").mkdir()
    with pytest.raises(StoreError, match="no store of a sweep"):
        vd.sweep(product, {"a": [1.0], "b": [1.0]}, tmp_path / "other.zarr", resume=True)
    with pytest.raises(StoreError, match="there is nothing"):
        open_sweep(tmp_path / "nothing.zarr")


def test_refusals_of_the_system_are_tried_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    design, fixed = {"number": [0, 1, 2]}, {"folder": str(tmp_path)}
    found = vd.sweep(refused, design, tmp_path / "a.zarr", fixed=fixed, retries=2)
    assert found["status"].values.tolist() == [1, 1, 1]
    assert found["attempts"].values.tolist() == [1, 3, 1]
    for note in tmp_path.glob("1.*"):
        note.unlink()
    found = vd.sweep(refused, design, tmp_path / "b.zarr", fixed=fixed, retries=1)
    assert found["status"].values.tolist() == [1, 2, 1]
    assert found["attempts"].values.tolist() == [1, 2, 1]
    assert "trembled" in str(found["error"].values[1])
    # Resumed, the failed member has its tries anew, and the traceback goes when it is done.
    assert (tmp_path / "b.zarr.members").exists()
    found = vd.sweep(refused, design, tmp_path / "b.zarr", fixed=fixed, retries=1, resume=True)
    assert found["status"].values.tolist() == [1, 1, 1]
    assert found["error"].values.tolist() == ["", "", ""]
    assert not (tmp_path / "b.zarr.members").exists()


def test_a_full_disk_stops_the_sweep_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, full, real = tmp_path / "s.zarr", [False], places.write_bytes

    def write(path: Path, content: bytes) -> None:
        if full[0] and path.parent.name == "c" and "status" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    def member(number: int) -> float:
        full[0] = full[0] or number == 7
        return float(number)

    monkeypatch.setattr(places, "write_bytes", write)
    with pytest.raises(StoreError, match="the disk is full; what was committed before stays whole"):
        vd.sweep(member, {"number": list(range(10))}, store)
    before = open_sweep(store)
    # The last member was tried first, to see what results look like.
    assert before["status"].values.tolist() == [1] * 7 + [0, 0, 0]
    monkeypatch.undo()
    full[0] = False
    found = vd.sweep(lambda number: float(number), {"number": list(range(10))}, tmp_path / "t.zarr")
    assert (found["status"] == 1).all()


def test_a_member_that_fills_the_disk_stops_the_sweep_and_is_not_done(tmp_path: Path) -> None:
    full = [True]

    def member(number: int) -> float:
        if number == 3 and full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return float(number)

    design, store = {"number": list(range(6))}, tmp_path / "s.zarr"
    with pytest.raises(StoreError, match="the disk is full; what was committed before stays whole"):
        vd.sweep(member, design, store, block=1)
    before = open_sweep(store)
    assert before["status"].values.tolist() == [1, 1, 1, 0, 0, 0]
    assert before["error"].values.tolist() == [""] * 6
    full[0] = False
    found = vd.sweep(member, design, store, resume=True)
    assert found["value"].values.tolist() == list(range(6))


def test_a_store_is_read_while_it_is_written(tmp_path: Path) -> None:
    store, seen = tmp_path / "s.zarr", []

    def member(number: int) -> Any:
        if number > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                now = xr.open_zarr(store, chunks=None).load()
            done = now["status"].values == 1
            assert (now["value"].values[done] == now["number"].values[done]).all()
            assert np.isnan(now["value"].values[~done]).all()
            seen.append(int(done.sum()))
        return float(number)

    found = vd.sweep(member, {"number": list(range(8))}, store, block=1)
    assert found["error"].values.tolist() == [""] * 8
    assert seen
    assert seen == sorted(seen)


def test_a_commit_that_was_cut_off_is_not_called_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between results and states leaves members waiting; states first would call them done."""
    store = tmp_path / "s.zarr"
    vd.sweep(product, {"a": [1.0, 2.0], "b": [1.0]}, store, block=2)
    layout = stores.EnsembleStore.open(places.Place.of(store))
    block = stores.Block(layout, 0)
    block.put(0, {"product": -5.0, "status": 0})
    block.commit()
    written: list[str] = []
    real = places.write_bytes

    def write(path: Path, content: bytes) -> None:
        written.append(path.relative_to(store).parts[0])
        if written[-1] == "member_seconds":
            raise OSError(errno.EIO, "the process ended here")
        real(path, content)

    monkeypatch.setattr(places, "write_bytes", write)
    block.put(0, {"product": 7.0, "status": 1})
    with pytest.raises(StoreError, match="ended here"):
        block.commit()
    assert "product" in written
    assert open_sweep(store)["status"].values.tolist() == [0, 1]


def test_an_object_store_holds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the tracebacks of a store with a URL go to the working folder
    design = {"a": [1.0, -2.0, 3.0], "b": [0.5]}
    local = vd.sweep(product, design, tmp_path / "s.zarr")
    url = f"memory://{tmp_path.name}.zarr"
    place = places.Place.of(url)
    with place.claimed() as token:
        assert place.is_ours(token)
        with pytest.raises(StoreError, match="written by another sweep"):
            vd.sweep(product, design, url)
    found = vd.sweep(product, design, url)
    for name in ("product", "pair", "status", "error", "a"):
        assert found[name].values.tolist()[::2] == local[name].values.tolist()[::2]
    assert found["status"].values.tolist() == [1, 2, 1]
    # A lease that is not renewed is stale, and so is that of a process that is gone.
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    for note in ({"token": "x", "host": "elsewhere", "pid": 1, "renewed": time.time() - 61},):
        system.pipe_file(f"{path}.lease", json.dumps(note).encode())
        again = vd.sweep(product, design, url, resume=True)
        assert again["status"].values.tolist() == [1, 2, 1]
    with pytest.raises(ValueError, match="other processes cannot see"):
        vd.sweep(product, design, url, workers=2, resume=True)
    with pytest.raises(ValueError, match="cannot be opened"):
        vd.sweep(product, design, "nosuch://bucket/x.zarr")
    (tmp_path / "s.zarr.members" / "member-000001.txt").unlink()


def test_a_store_of_ten_thousand_members_opens_at_once(tmp_path: Path) -> None:
    """`python -m tests.campaigns.many_members` fills such a store, and watches the client's memory."""
    outputs = outputs_of(as_dataset({"value": 1.0, "pair": np.zeros(2)}), {})
    design = Crossed(Grid({"lam": [k / 100 for k in range(100)]}), "seed", list(range(100)))
    layout = stores.create(places.Place.of(tmp_path / "s.zarr"), design, outputs, 20, {})
    block = stores.Block(layout, 499)
    block.put(9999, {"value": 3.0, "status": 1})
    block.commit()
    began = time.perf_counter()
    found = open_sweep(tmp_path / "s.zarr")
    assert time.perf_counter() - began < 2
    assert found["value"].values[9999] == 3.0
    assert np.isnan(found["value"].values[:9999]).all()
    assert found["lam"].values[150] == 0.01
    assert found["status"].values.sum() == 1


def test_tiny_members_share_chunks_and_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files, and as many waits for the disk, are what makes tiny members slow."""
    written: list[Path] = []
    ended: list[int] = []
    real = places.write_bytes
    monkeypatch.setattr(places, "write_bytes", lambda path, content: (written.append(path), real(path, content)))
    design, store = {"number": list(range(600))}, tmp_path / "s.zarr"
    found = vd.sweep(lambda number: number / 3, design, store, block=100, progress=ended.append)
    assert ended == [100, 200, 300, 400, 500, 600]
    assert (found["value"].values == np.arange(600) / 3).all()
    assert len(list((tmp_path / "s.zarr" / "value" / "c").iterdir())) == 6
    assert sum("value" in path.parts for path in written) < 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"design": {"c": [1]}}, "takes no c"),
        ({"command_or_function": 3}, "command_or_function is a int"),
        ({"command_or_function": "magic"}, "no command 'magic'"),
        ({"workers": -1}, "workers is -1"),
        ({"retries": -1}, "retries is -1"),
        ({"block": 0}, "block is 0"),
        ({"fixed": {"a": 1}}, "fixed and in the design"),
        ({"design": {"a": [-1.0, -2.0], "b": [1]}}, "none of 2 members that were tried gave a result"),
        ({"ragged": {"nothing": 3}}, "no result has this dimension"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {"command_or_function": product, "design": {"a": [1.0], "b": [1.0]}, **arguments}
    with pytest.raises(ValueError, match=words) as caught:
        vd.sweep(store=tmp_path / "s.zarr", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("result", [None, "x" and object(), {}, {"status": 1.0}, {"x": ["a", 1]}])
def test_results_that_no_store_can_hold_are_refused(result: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted"):
        vd.sweep(lambda number: result, {"number": [1, 2]}, tmp_path / "s.zarr")
