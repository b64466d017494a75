"""Stores among other files and other runs: what a run touches, keeps and refuses, and what joined runs say."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import vars_dyn as vd
from tests.recording.helpers import assert_same_bits, even, small_field
from vars_dyn._files import Workplace, is_our_picture, locks, replacing, tidy
from vars_dyn.recording import StoreError, facts, is_store, open_dataset, to_dataset
from vars_dyn.recording.record import record

LAMS = (0.2, 0.4, 0.6)


@pytest.fixture(autouse=True, scope="module")
def without_waiting_for_the_disk() -> Iterator[None]:
    """Turn fsync off, since no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_behind(target: Path, note: str | None = None) -> Path:
    """Leave a workplace that nobody holds beside `target`, as a killed process does."""
    work = Workplace.begin(target)
    assert work._lock is not None
    os.close(work._lock)
    if note is not None:
        (work.folder / ".vars_dyn.json").write_text(note)
    return work.folder


# Joined runs


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("opened", ["record", "xarray", "memory"])
def test_joined_runs_keep_each_ones_parameters(opened: str, announced: bool, tmp_path: Path) -> None:
    """Join runs with xarray's present defaults, and with those that it has announced."""
    runs = []
    for number, lam in enumerate(LAMS):
        field, store, rtol = small_field(lam=lam), tmp_path / f"{number}.zarr", 10.0 ** -(3 + number)
        if opened == "memory":
            made = vd.integrate(field, field.initial_state(), even(1.0))
            runs.append(to_dataset(field, made, attributes={"seed": number}))
            continue
        run = record(field, store, even(1.0 + number), rtol=rtol, attributes={"seed": number})
        runs.append((run if opened == "record" else xr.open_zarr(store)).isel(time=slice(5)))
    with xr.set_options(use_new_combine_kwarg_defaults=announced):
        joined = xr.concat(runs, "run_number").set_coords("lam")
    assert joined.lam.dims == ("run_number", "signal")
    np.testing.assert_array_equal(joined.lam.isel(signal=0), LAMS)
    np.testing.assert_array_equal(joined.seed, [0, 1, 2])
    assert len(set(joined.run.values.tolist())) == 3
    if opened != "memory":
        np.testing.assert_array_equal(joined.rtol, [1e-3, 1e-4, 1e-5])
        np.testing.assert_array_equal(joined.t_end, [1.0, 2.0, 3.0])
    claimed = json.dumps(joined.attrs)
    assert not {"lam", "seed", "rtol", "status", "t_end", "options", "provenance"} & set(joined.attrs), claimed
    with pytest.raises(StoreError, match="holds 3 runs"):
        facts(joined)
    assert [facts(joined.isel(run_number=k))["lam"] for k in range(3)] == list(LAMS)


@settings(max_examples=5)
@given(lams=st.lists(st.lists(st.floats(0.01, 3.0), min_size=3, max_size=3), min_size=2, max_size=3))
def test_joined_runs_keep_a_lam_per_signal(lams: list[list[float]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, base = tmp_path_factory.mktemp("joined"), small_field((3,))
    runs = []
    for number, lam in enumerate(lams):
        field = vd.SparseRecurrent(base.dictionary, base.x, lam=torch.tensor(lam, dtype=torch.float64))
        runs.append(record(field, folder / f"{number}.zarr", even(0.5)))
    np.testing.assert_array_equal(xr.concat(runs, "run_number").lam, lams)


def test_a_run_selected_by_its_parameter(tmp_path: Path) -> None:
    runs = [record(small_field(), tmp_path / f"{k}.zarr", even(1.0), rtol=10.0**-k) for k in (3, 5)]
    joined = xr.concat(runs, "run_number").set_coords("rtol").swap_dims(run_number="rtol")
    np.testing.assert_array_equal(joined.z.sel(rtol=1e-5), runs[1].z)


# Overwritten under an open dataset


def test_an_open_dataset_never_reads_another_run(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    before = record(small_field(), store, even(4.0), chunk=4)
    first = before.z[0].to_numpy()
    after = record(small_field(lam=0.1), store, even(4.0), chunk=4, overwrite=True)
    assert facts(before)["lam"] == 0.4
    for name in ("z", "u", "signals", "lam", "code_end"):
        with pytest.raises(StoreError, match="another run"):
            before[name].load()
    np.testing.assert_array_equal(after.z[0], first)  # both runs start with z = x
    longer = record(small_field(lam=0.1), store, even(6.0), chunk=4, resume=True)
    np.testing.assert_array_equal(after.z, longer.z[:17])  # the open dataset sees the run that goes on
    shutil.rmtree(store)
    with pytest.raises(StoreError, match="another run"):
        after.u.load()


# Foreign files


FOREIGN = [
    ".run.zarr.123.new",
    ".run.zarr.0123456789abcdef.old",
    ".run.zarr.0123456789abcdef.part",
    ".run.zarr.0123456789ABCDEF.part",
    ".run.zarr.b.0123456789abcdef.part",
    ".run.0123456789abcdef.part",
    ".runxzarr.0123456789abcdef.part",
    "run.zarr.partial",
    ".run.zarr.partial",
]


def test_what_others_made_beside_a_store_is_not_touched(tmp_path: Path) -> None:
    for number, name in enumerate(FOREIGN):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text(str(number))
    store = tmp_path / "run.zarr"
    for options in ({}, {"overwrite": True}, {"resume": True}):
        record(small_field(), store, even(1.0), **options)  # type: ignore[arg-type]
    assert names_in(tmp_path) == sorted([*FOREIGN, "run.zarr"])
    for number, name in enumerate(FOREIGN):
        assert (tmp_path / name / "thesis.tex").read_text() == str(number)


NAMES = st.text(st.sampled_from("ab.*?[]!-"), min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))


@settings(max_examples=40)
@given(name=NAMES, other=NAMES)
def test_only_the_very_targets_workplaces_are_removed(
    name: str, other: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """This holds for all names, shell patterns among them."""
    folder = tmp_path_factory.mktemp("names")
    mine, others = left_behind(folder / name), left_behind(folder / other)
    tidy(folder / name)
    assert not mine.exists() or mine == others
    assert others.exists() == (name != other)


def test_a_workplace_for_another_target_or_of_a_live_process_stays(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    renamed = left_behind(store, json.dumps({"target": "other.zarr"}))
    garbled = left_behind(store, "no JSON")
    with Workplace.begin(store) as live:
        tidy(store)
        assert live.folder.exists()
        assert renamed.exists()
        assert garbled.exists()
    assert not live.folder.exists()
    link = tmp_path / ".run.zarr.0123456789abcdef.part"
    link.symlink_to(renamed, target_is_directory=True)
    tidy(store)
    assert link.is_symlink()


def test_where_there_are_no_locks_the_process_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    store = tmp_path / "run.zarr"
    with Workplace.begin(store) as live:
        note = json.loads((live.folder / ".vars_dyn.json").read_text())
        tidy(store)
        assert live.folder.exists()
        for change, stays in (({"host": "elsewhere"}, True), ({"started": "1"}, False)):
            if note["started"] is None and not stays:
                continue
            gone = Workplace.begin(tmp_path / "x").folder
            moved = gone.with_name(".run.zarr.00000000000000aa.part")
            gone.rename(moved)
            (moved / ".vars_dyn.json").write_text(json.dumps(note | change))
            tidy(store)
            assert moved.exists() == stays
            shutil.rmtree(moved, ignore_errors=True)


def test_a_store_with_something_else_in_it_is_not_overwritten(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    before = record(small_field(), store, even(1.0)).load()
    for place in (store / "notes.txt", store / "z" / "notes.txt", store / "figures" / "notes.txt"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("mine")
        with pytest.raises(StoreError, match=r"it holds .*, which no simulation put there"):
            record(small_field(), store, even(1.0), overwrite=True)
        assert place.read_text() == "mine"
        assert_same_bits(open_dataset(store), before)
        place.unlink()
        if place.parent.name == "figures":
            place.parent.rmdir()
    record(small_field(), store, even(1.0), overwrite=True)


def test_other_stores_with_our_version_are_no_recordings(tmp_path: Path) -> None:
    """Records of experiments say which version made them, as recordings do."""
    store = tmp_path / "ablation.zarr"
    xr.Dataset({"value": ("x", [1.0])}, attrs={"vars_dyn_version": "0.1.0"}).to_zarr(
        store, zarr_format=3, consolidated=False
    )
    assert not is_store(store)
    with pytest.raises(StoreError, match="never overwritten"):
        record(small_field(), store, even(1.0), overwrite=True)
    assert float(xr.open_zarr(store, consolidated=False).value[0]) == 1.0


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_no_place_for_a_store(dangling: bool, tmp_path: Path) -> None:
    store, link = tmp_path / "real.zarr", tmp_path / "link.zarr"
    if not dangling:
        before = record(small_field(), store, even(1.0)).load()
    link.symlink_to(store)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StoreError, match="symbolic link"):
            record(small_field(), link, even(1.0), **options)  # type: ignore[arg-type]
    assert link.is_symlink()
    if not dangling:
        assert_same_bits(open_dataset(store), before)


def test_inside_another_store_is_no_place_for_a_store(tmp_path: Path) -> None:
    outer = tmp_path / "outer.zarr"
    record(small_field(), outer, even(1.0))
    for place in (outer / "run.zarr", outer / "z" / "deep" / "run.zarr"):
        with pytest.raises(StoreError, match="inside the zarr store"):
            record(small_field(), place, even(1.0))
    assert not (outer / "z" / "deep").exists()


def test_pictures_of_ours_are_known(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    for suffix, key in ((".png", "Software"), (".pdf", "Creator"), (".svg", "Creator")):
        for mark in ("vars_dyn 0.1.0", "somebody else"):
            picture = tmp_path / f"{mark[0]}{suffix}"
            figure = Figure()
            figure.add_subplot().set_title("vars_dyn 0.1.0")
            figure.savefig(picture, metadata={key: mark})
            assert is_our_picture(picture) == mark.startswith("vars_dyn")
    (tmp_path / "link.png").symlink_to(tmp_path / "v.png")
    assert not is_our_picture(tmp_path / "link.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "v.png").read_bytes()[:30])
    assert not is_our_picture(tmp_path / "torn.png")


def test_a_file_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "report.md"
    place.write_text("old")

    def fail() -> None:
        with replacing(place) as file:
            file.write_text("ne")
            file.with_name("n" * 300).write_text("w")

    with pytest.raises(OSError, match="File name too long"):
        fail()
    assert place.read_text() == "old"
    with replacing(place) as file:
        file.write_text("new")
    assert (place.read_text(), names_in(tmp_path)) == ("new", ["report.md"])


# Two writers


def _record_when_told(store: Path, gate: object, said: object, options: dict[str, bool]) -> None:
    gate.wait()  # type: ignore[attr-defined]
    try:
        record(small_field(), store, even(20.0), chunk=2, **options)  # type: ignore[arg-type]
        said.put("done")  # type: ignore[attr-defined]
    except StoreError as error:
        said.put(str(error))  # type: ignore[attr-defined]
    except BaseException as error:  # the loser must end with a sentence instead
        said.put(f"traceback: {error!r}")  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_of_two_writers_the_loser_says_so(options: dict[str, bool], tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    if options:
        record(small_field(), store, even(2.0), chunk=2)
    context = multiprocessing.get_context("fork")
    gate, said = context.Barrier(3), context.Queue()
    writers = [context.Process(target=_record_when_told, args=(store, gate, said, options)) for _ in range(3)]
    for writer in writers:
        writer.start()
    answers = sorted(said.get(timeout=120) for _ in writers)
    for writer in writers:
        writer.join()
    assert "done" in answers
    for answer in answers:
        assert answer == "done" or re.search(r"another process|run\.zarr exists", answer), answer
    assert names_in(tmp_path) == ["run.zarr"]
    assert open_dataset(store).status == "reached t_max"


# What can be stored


def test_text_dates_and_arrays(tmp_path: Path) -> None:
    days = np.array(["2020-02-29", "2020-03-01", "1969-12-31", "2021-01-01"], dtype="datetime64[D]")
    given = {
        "animal": np.array(["mouse", "ratte", "maus", "größer"]),
        "day": days,
        "moment": days.astype("datetime64[ns]") + np.arange(4) * np.timedelta64(1, "ns"),
        "trial": np.arange(4, dtype=np.int16),
    }
    about = {"places": np.arange(3), "rate": np.float32(0.5), "on": np.datetime64("2020-01-01"), "nest": {"a": [1]}}
    run = record(small_field(), tmp_path / "run.zarr", even(1.0), coordinates=given, attributes=about)
    for seen in (run, xr.open_zarr(tmp_path / "run.zarr"), xr.open_zarr(tmp_path / "run.zarr", consolidated=False)):
        assert set(given) <= set(seen.coords)
        for name, values in given.items():
            assert bool((seen[name].to_numpy() == values).all())
        assert seen.day.dtype.kind == "M"
        assert seen.attrs["places"] == [0, 1, 2]
        assert seen.attrs["rate"] == 0.5
    for path in (tmp_path / "run.zarr").rglob("zarr.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    again = record(small_field(), tmp_path / "run.zarr", even(2.0), coordinates=given, attributes=about, resume=True)
    assert again.sizes["time"] == 9
    field = small_field()
    memory = to_dataset(field, vd.integrate(field, field.initial_state(), even(1.0)), coordinates=given)
    for name in given:
        np.testing.assert_array_equal(memory[name].to_numpy().astype(object), run[name].to_numpy().astype(object))
    run.drop_attrs(deep=False).drop_vars("moment").to_netcdf(tmp_path / "run.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "run.nc", engine="scipy") as copy:
        np.testing.assert_array_equal(copy.z, run.z)
        np.testing.assert_array_equal(copy.day, run.day)
        assert copy.status.item() == "reached t_max"


def test_a_plain_run_becomes_netcdf(tmp_path: Path) -> None:
    run = record(small_field(), tmp_path / "run.zarr", even(1.0), gap=1e-9, attributes={"subject": "m7"})
    run.to_netcdf(tmp_path / "run.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "run.nc", engine="scipy") as copy:
        assert (copy.attrs["subject"], copy.alpha.item(), facts(copy)["lam"]) == ("m7", 1.0, 0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attributes": {"rate": float("nan")}}, "attribute rate holds nan"),
        ({"attributes": {"rates": np.array([1.0, np.inf])}}, "attribute rates holds inf"),
        ({"attributes": {"deep": {"er": [float("nan")]}}}, "attribute deep.er holds nan"),
        ({"attributes": {"film": np.zeros(2**21)}}, "attribute film has 2097152 entries"),
        ({"attributes": {"coordinates": "z"}}, "another name is wanted"),
        ({"coordinates": {"when": np.array(["NaT"] * 4, dtype="datetime64[s]")}}, "the coordinate when holds NaT"),
        ({"coordinates": {"what": np.array([1j] * 4)}}, "the coordinate what is of dtype complex128"),
        ({"coordinates": {"what": np.array([b"a"] * 4)}}, "the coordinate what is of dtype"),
        ({"coordinates": {"what": np.array([{}] * 4)}}, "the coordinate what is of dtype object"),
        ({"coordinates": {"z": np.arange(4)}}, "the coordinate z has a name"),
        ({"coordinates": {"alpha": np.arange(4)}}, "the coordinate alpha has a name"),
        ({"coordinates": {"../x": np.arange(4)}}, "a coordinate has the name"),
        ({"times": torch.arange(20_000_000, dtype=torch.float64), "chunk": 1}, "chunk is 1: .* make 160000000 files"),
    ],
)
def test_what_cannot_be_stored_is_refused(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        record(small_field(), tmp_path / "run.zarr", **{"times": even(1.0), **arguments})  # type: ignore[arg-type]
    assert not names_in(tmp_path)


# Old and damaged stores


def test_a_store_of_the_first_version_opens_and_goes_on(tmp_path: Path) -> None:
    """Resume a store of the first version, whose run was killed after one commit. Its facts are attributes."""
    with zipfile.ZipFile(Path(__file__).parents[1] / "data" / "store_without_facts.zip") as packed:
        packed.extractall(tmp_path)
    old = open_dataset(tmp_path / "run.zarr")
    assert (old.attrs["status"], facts(old)["lam"], old.sizes["time"]) == ("running", 0.4, 4)
    begun, field = old.load(), small_field((2,))
    arguments = {"chunk": 4, "rtol": 1e-6, "atol": 1e-8, "attributes": {"seed": 3}}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        record(field, tmp_path / "run.zarr", even(4.0), resume=True, **arguments)  # type: ignore[arg-type]
    # The run's tolerance was absolute. It goes on with one that is relative to each signal's size, and warns once.
    assert sum("from t = 0.75 on, atol 1e-08 is relative to each signal's size" in str(w.message) for w in said) == 1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        resumed = record(field, tmp_path / "run.zarr", even(5.0), resume=True, **arguments)  # type: ignore[arg-type]
    assert not any("atol" in str(warning.message) for warning in said)
    assert resumed.attrs["status"] == "reached t_max"
    assert "atol_relative_to" not in facts(resumed)
    entries = facts(resumed)["resumed"]
    assert [(entry["from_time"], "atol_relative_to" in entry) for entry in entries] == [(0.75, True), (4.0, True)]
    for name in ("time", "z", "u", "gap"):
        np.testing.assert_array_equal(resumed[name][:4], begun[name])
    # The resumed run follows the solution from the first version's last state, up to the tolerances. The state itself
    # keeps the error that it had. The whole run takes other steps from t = 0 on, so it cannot be the reference.
    state = (torch.from_numpy(begun.z[-1].to_numpy()), torch.from_numpy(begun.u[-1].to_numpy()))
    exact = vd.integrate(field, state, even(5.0)[3:], rtol=1e-11, atol=1e-13)
    whole = record(field, tmp_path / "whole.zarr", even(5.0), **arguments)  # type: ignore[arg-type]
    for k, name in enumerate(("z", "u")):
        np.testing.assert_allclose(resumed[name][3:], exact.states[k], rtol=0, atol=2e-5)
        np.testing.assert_allclose(resumed[name], whole[name], rtol=0, atol=2e-5)
    record(small_field((2,)), tmp_path / "run.zarr", even(1.0), overwrite=True)
    with pytest.raises(StoreError, match="another run"):
        resumed.z.load()


@pytest.mark.parametrize("name", ["z/c.1.0.0", "signals/c.0.0"])
def test_a_missing_or_changed_chunk_is_not_read(name: str, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    record(small_field(), store, even(4.0), chunk=4)
    lazy = open_dataset(store)
    chunk = store / name
    data = bytearray(chunk.read_bytes())
    data[-9] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        lazy[name.partition("/")[0]].load()
    chunk.unlink()
    with pytest.raises(StoreError, match="missing"):
        lazy[name.partition("/")[0]].load()
