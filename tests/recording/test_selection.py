"""A selection is one value, and later versions read and resume stores of today's form."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import vars_dyn as vd
from tests.recording.helpers import assert_same_bits, even, small_field
from vars_dyn.recording import Selection, facts, open_dataset, to_dataset
from vars_dyn.recording.plan import plan_recording
from vars_dyn.recording.record import record, record_plan


@pytest.fixture(autouse=True, scope="module")
def without_waiting_for_the_disk() -> Iterator[None]:
    """Turn fsync off, since no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@settings(max_examples=4)
@given(
    variables=st.none() | st.lists(st.sampled_from(["z", "u", "active"]), min_size=1, unique=True),
    every=st.integers(1, 4),
    neurons=st.none() | st.lists(st.integers(0, 5), min_size=1, unique=True),
    atoms=st.none() | st.lists(st.integers(0, 9), min_size=1, unique=True),
    chunk=st.none() | st.integers(1, 5),
)
def test_a_selection_records_what_its_keywords_record(
    variables: list[str] | None,
    every: int,
    neurons: list[int] | None,
    atoms: list[int] | None,
    chunk: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A plan takes a selection as a value, and `record` as keywords. `to_dataset` keeps the same of a trajectory."""
    folder, field, times = tmp_path_factory.mktemp("selection"), small_field((2,)), even(2.0)
    selection = Selection(variables, every, neurons, atoms, chunk)
    planned = record_plan(plan_recording(field, times, None, selection, {}), folder / "planned.zarr")
    kept = {"variables": variables, "every": every, "neurons": neurons, "atoms": atoms}
    assert_same_bits(record(field, folder / "keywords.zarr", times, chunk=chunk, **kept), planned)  # type: ignore[arg-type]
    memory = to_dataset(field, vd.integrate(field, field.initial_state(), times), **kept)  # type: ignore[arg-type]
    assert dict(memory.sizes) == dict(planned.sizes)
    assert set(planned.data_vars) >= set(memory.data_vars)
    full = record(field, folder / "full.zarr", times, chunk=selection.chunk_for(field.initial_state()) * every)
    for name, entries in (("z", neurons), ("u", atoms)):
        if variables is None or name in variables:
            chosen = full[name][::every] if entries is None else full[name][::every, :, entries]
            np.testing.assert_array_equal(planned[name], chosen)


@pytest.mark.parametrize("name", ["every", "chunk"])
def test_a_selection_that_selects_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; an integer of at least 1 is wanted"):
        Selection(**{name: 0})  # type: ignore[arg-type]


def test_attributes_of_a_user_are_kept_in_memory_as_in_a_store(tmp_path: Path) -> None:
    field, times = small_field(), even(1.0)
    given = {"subject": "m7", "problem": "the user's own", "places": np.arange(2)}
    stored = record(field, tmp_path / "run.zarr", times, attributes=given)
    trajectory = vd.integrate(field, field.initial_state(), times)
    assert to_dataset(field, trajectory, attributes=given).attrs == stored.attrs
    with pytest.raises(ValueError, match="another name is wanted"):
        to_dataset(field, trajectory, attributes={"coordinates": "z"})


def test_a_store_written_earlier_goes_on_as_a_new_one_does(tmp_path: Path) -> None:
    """Resume a store whose run was killed after two recorded times. Its facts are variables, as in all later stores.

    A store that the test writes itself cannot show that a name has changed, since reader and writer change together.
    """
    with zipfile.ZipFile(Path(__file__).parents[1] / "data" / "store_with_facts.zip") as packed:
        packed.extractall(tmp_path)
    old = open_dataset(tmp_path / "run.zarr").load()
    assert (old.status.item(), old.subject, old.seed.item(), old.sizes["time"]) == ("running", "m7", 3, 2)
    assert [str(side) for side in old.side.values] == ["left", "right"]
    arguments = {
        "gap": 1e-9,
        "chunk": 2,
        "every": 2,
        "neurons": [1, 4],
        "atoms": [0, 3],
        "variables": ["z", "u", "active"],
        "coordinates": {"side": np.array(["left", "right"])},
        "attributes": {"subject": "m7"},
        "origin": {"seed": 3, "input": ["x.npy"]},
    }
    field, times = small_field((2,)), even(6.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* goes on with .*: the last bits may differ")
        warnings.filterwarnings("error", message=".*atol")
        resumed = record(field, tmp_path / "run.zarr", times, resume=True, **arguments)  # type: ignore[arg-type]
    whole = record(field, tmp_path / "whole.zarr", times, **arguments)  # type: ignore[arg-type]
    assert set(resumed.variables) == set(whole.variables)
    # Stores of that time say nothing of interventions and noise, which there were none of.
    assert set(facts(resumed)) == {*facts(whole), "resumed"} - {"interventions", "noise"}
    for name in whole.variables:
        assert (resumed[name].dims, resumed[name].attrs) == (whole[name].dims, whole[name].attrs), name
    for name in ("time", "z", "u", "active", "z_end", "code_end", "settled_at"):
        np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-9, atol=1e-11)
    assert isinstance(xr.open_zarr(tmp_path / "run.zarr").provenance.item(), str)
