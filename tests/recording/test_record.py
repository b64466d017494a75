"""A recording stores what it should, is whole at every moment, and gives the same bits when it is resumed."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import vars_dyn as vd
from tests.recording.helpers import PASSING, assert_same_bits, even, record_to_the_end, small_field
from vars_dyn._files import Workplace
from vars_dyn.integration import IntegrationError
from vars_dyn.recording import StoreError, facts, open_dataset, to_dataset
from vars_dyn.recording.integrity import contents, read_attributes
from vars_dyn.recording.record import record
from vars_dyn.recording.store import Writer

VARIABLES = ["z", "u", "code", "lyapunov", "gap", "relative_gap", "active"]


@pytest.fixture(autouse=True, scope="module")
def without_waiting_for_the_disk() -> Iterator[None]:
    """Turn off fsync, which may take long. A killed process's files stay without it, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Crash(BaseException):
    """The process ends. No code may catch this and tidy up."""


def crashing_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process 'die' in the middle of a write or commit, after `writes` others."""
    left = [writes]

    def counted(name: str) -> None:
        original = getattr(Writer, name)

        def wrapper(self: Writer, *args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Writer, name, wrapper)

    counted("write")
    counted("commit")


# What is stored


def test_states_are_those_of_integrate(tmp_path: Path) -> None:
    field, times = small_field(), even(10.0)
    run = record(field, tmp_path / "run.zarr", times, rtol=1e-9, atol=1e-11)
    trajectory = vd.integrate(field, field.initial_state(), times, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(run.z, trajectory.states[0], atol=1e-7)
    np.testing.assert_allclose(run.u, trajectory.states[1], atol=1e-7)
    np.testing.assert_array_equal(run.time, times)
    np.testing.assert_array_equal(run.z[0], field.x)  # the first recorded state is the start
    assert run.status == "reached t_max"


def test_variables_say_what_the_core_says(tmp_path: Path) -> None:
    field = small_field()
    problem = field.problem()
    run = record(field, tmp_path / "run.zarr", even(5.0))
    for k in (0, 7, 20):
        state = (torch.from_numpy(run.z[k].to_numpy()), torch.from_numpy(run.u[k].to_numpy()))
        code = field.code(state)
        np.testing.assert_array_equal(run.code[k], code)
        np.testing.assert_array_equal(run.lyapunov[k], field.lyapunov(state))
        np.testing.assert_array_equal(run.gap[k], problem.gap(code))
        np.testing.assert_array_equal(run.relative_gap[k], problem.relative_gap(code))
        np.testing.assert_array_equal(run.active[k], (code != 0).sum(-1))
    gap, kkt = problem.certificate(torch.from_numpy(run.code_end.to_numpy()))
    np.testing.assert_array_equal(run.relative_gap_end, gap)
    np.testing.assert_array_equal(run.kkt_residual_end, kkt)
    np.testing.assert_array_equal(run.z_end, run.z[-1])


def test_a_dataset_in_memory_is_like_a_stored_one(tmp_path: Path) -> None:
    field, times = small_field((2, 3)), even(4.0)
    stored = record(field, tmp_path / "run.zarr", times, every=2, neurons=[1, 4], chunk=100)
    trajectory = vd.integrate(field, field.initial_state(), times)
    memory = to_dataset(field, trajectory, every=2, neurons=[1, 4])
    asked = {"method", "rtol", "atol", "stop_gap", "step", "cap_steps", "check_every", "t_max"}
    ended = {"settled_at", "status", "equilibrium", "wall_seconds"}
    assert set(memory.variables) == set(stored.variables) - asked - ended
    for name in memory.variables:
        assert memory[name].dims == stored[name].dims
        assert memory[name].attrs == stored[name].attrs
        assert memory[name].dtype.kind == stored[name].dtype.kind
        if memory[name].dtype.kind == "U" or name == "evaluations":
            continue
        np.testing.assert_allclose(memory[name], stored[name], atol=1e-12)
    assert memory.attrs == stored.attrs
    one, other = facts(memory), facts(stored)
    assert {k: v for k, v in one.items() if k in other and k not in (*PASSING, "evaluations")} == {
        k: v for k, v in other.items() if k in one and k not in (*PASSING, "evaluations")
    }


def test_every_variable_has_units_and_a_long_name(tmp_path: Path) -> None:
    run = record(small_field(), tmp_path / "run.zarr", even(1.0), neurons=[0], atoms=[1, 2])
    for name, variable in run.variables.items():
        assert variable.attrs["units"] in ("1", "tau", "s"), name
        assert len(variable.attrs["long_name"]) > 3, name
    assert run.time.attrs["units"] == "tau"


@pytest.mark.parametrize(
    ("field", "variables"),
    [
        (vd.Reduced, VARIABLES),
        (vd.FeedForward, ["z", "lyapunov", "gap", "relative_gap"]),
        (vd.Recurrent, ["z", "lyapunov", "gap", "relative_gap"]),
        (vd.EncoderDecoder, VARIABLES),
    ],
)
def test_every_field_is_recorded(field: type, variables: list[str], tmp_path: Path) -> None:
    weight = 0.6 * torch.eye(3, 4, dtype=torch.float64)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    made = (
        vd.FeedForward(x)
        if field is vd.FeedForward
        else (
            field(vd.DenseDictionary(weight), x, 0.05) if field is vd.Reduced else field(vd.DenseDictionary(weight), x)
        )
    )
    run = record(made, tmp_path / "run.zarr", even(80.0, 1.0), gap=1e-8)
    assert facts(run)["variables"] == variables
    assert run.field == field.__name__
    assert run.equilibrium
    assert float(run.relative_gap[-1].max()) <= 1e-8


def test_images_keep_their_dimensions(tmp_path: Path) -> None:
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 5
    dictionary = vd.ConvDictionary(weight, (3, 8, 7), padding=1)
    x = torch.rand(2, 3, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    field = vd.SparseRecurrent(dictionary, x, lam=0.2)
    run = record(field, tmp_path / "run.zarr", even(2.0))
    assert run.z.dims == ("time", "signal", "colour", "row", "column")
    assert run.u.dims == run.code.dims == ("time", "signal", "channel", "y", "x")
    assert dict(run.sizes) | {"time": 9} == dict(run.sizes)
    some = record(field, tmp_path / "some.zarr", even(2.0), neurons=[0, 100], atoms=[279])
    assert some.z.dims == ("time", "signal", "neuron")
    np.testing.assert_array_equal(some.z[..., 1], run.z[:, :, 1, 6, 2])  # 100 = 1 * 56 + 6 * 7 + 2
    assert [int(some[f"neuron_{name}"][1]) for name in ("colour", "row", "column")] == [1, 6, 2]
    np.testing.assert_array_equal(some.u[..., 0], run.u[:, :, -1, -1, -1])
    assert some.signals.dims == ("signal", "colour", "row", "column")


def test_a_batched_dictionary_and_a_bare_signal(tmp_path: Path) -> None:
    weight = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    run = record(vd.SparseRecurrent(vd.DenseDictionary(weight), x, lam=0.5), tmp_path / "batched.zarr", even(3.0))
    assert run.z.shape == (13, 8, 3)
    assert facts(run)["signal_batch"] == [2, 4]
    alone = vd.SparseRecurrent(vd.DenseDictionary(weight[1]), x[1], lam=0.5)
    np.testing.assert_allclose(run.u[-1, 4:], record(alone, tmp_path / "alone.zarr", even(3.0)).u[-1], atol=1e-5)
    bare = record(small_field(()), tmp_path / "bare.zarr", even(3.0))
    assert bare.z.shape == (13, 1, 6)


@settings(max_examples=6)
@given(every=st.integers(1, 7), chunk=st.integers(2, 5), points=st.integers(1, 20))
def test_every_kth_time_from_the_first_on(
    every: int, chunk: int, points: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("every")
    field, times = small_field((2,)), even(30.0)[:points]
    thin = record(
        field, folder / "thin.zarr", times, every=every, chunk=chunk, neurons=[5, 0], atoms=[2], variables=["u", "z"]
    )
    full = record(field, folder / "full.zarr", times, chunk=chunk * every)
    np.testing.assert_array_equal(thin.time, times[::every])
    np.testing.assert_array_equal(thin.z, full.z[::every, :, [5, 0]])
    np.testing.assert_array_equal(thin.u, full.u[::every, :, [2]])
    assert set(thin.data_vars) & {"code", "lyapunov", "gap", "relative_gap", "active"} == set()
    np.testing.assert_array_equal(thin.z_end, full.z_end)


def test_the_store_explains_itself(tmp_path: Path) -> None:
    field = small_field()
    run = record(
        field,
        tmp_path / "run.zarr",
        even(2.0),
        method="bosh3",
        rtol=1e-4,
        attributes={"seed": 7, "alpha": "not what the user says"},
        coordinates={"patch_row": np.array([3, 1, 4, 1])},
    )
    expected = {"alpha": 1.0, "beta": 2.0, "gamma": 2.0, "tau_z": 1.0, "tau_u": 1.0, "threshold": "soft", "lam": 0.4}
    expected |= {"method": "bosh3", "rtol": 1e-4, "atol": 1e-8, "stop_gap": "none", "seed": 7, "t_max": 2.0}
    expected |= {
        "dtype": "float64",
        "device": "cpu",
        "torch_version": torch.__version__,
        "numpy_version": np.__version__,
    }
    known = facts(run)
    assert {name: known[name] for name in expected} == expected
    for name in ("alpha", "beta", "gamma", "tau_z", "tau_u", "threshold", "method", "rtol", "atol", "seed", "t_max"):
        assert run[name].item() == expected[name]
        assert name not in run.attrs
    for name in ("vars_dyn_version", "python_version", "torchdiffeq_version", "command", "date", "dictionary_sha256"):
        assert known[name]
    assert "LASSO" in known["problem"]
    np.testing.assert_array_equal(run.signals, field.x)
    np.testing.assert_array_equal(run.dictionary, field.dictionary.weight)
    np.testing.assert_array_equal(run.lam, field.lam)
    assert list(run.patch_row.to_numpy()) == [3, 1, 4, 1]
    assert "patch_row" in run.coords
    json.dumps(run.attrs)  # other readers understand plain values only


def test_hashes_tell_inputs_apart(tmp_path: Path) -> None:
    field = small_field()
    other = vd.SparseRecurrent(field.dictionary, field.x.roll(1, 0), lam=0.4)
    one, two = (record(f, tmp_path / f"{k}.zarr", even(0.5)) for k, f in enumerate((field, other)))
    assert facts(one)["dictionary_sha256"] == facts(two)["dictionary_sha256"]
    assert facts(one)["signals_sha256"] != facts(two)["signals_sha256"]


def test_it_ends_when_all_have_settled(tmp_path: Path) -> None:
    run = record(small_field(), tmp_path / "run.zarr", even(500.0, 0.5), gap=1e-7)
    assert run.status == "settled"
    assert run.equilibrium
    assert run.t_end < 499
    assert float(run.relative_gap[-1].max()) <= 1e-7
    assert float(run.relative_gap_end.max()) <= 1e-7
    assert float(run.settled_at.max()) <= run.t_end


def test_the_settled_state_is_recorded_however_sparse_the_times(tmp_path: Path) -> None:
    run = record(small_field(), tmp_path / "run.zarr", even(2000.0, 400.0), gap=1e-7, chunk=1)
    assert run.status == "settled"
    assert run.sizes["time"] < 6
    assert float(run.relative_gap[-1].max()) <= 1e-7


def test_a_gap_that_is_not_reached_is_said(tmp_path: Path) -> None:
    run = record(small_field(), tmp_path / "run.zarr", even(2.0), gap=1e-9)
    assert run.status == "reached t_max"
    assert not run.equilibrium


@pytest.mark.parametrize(
    "case", ["zero signals", "lam above critical", "duplicate atoms", "fewer atoms", "one signal", "one time"]
)
def test_edge_cases_work(case: str, tmp_path: Path) -> None:
    field, times = small_field(), even(400.0, 1.0)
    if case == "zero signals":
        field = vd.SparseRecurrent(field.dictionary, torch.zeros_like(field.x), lam=0.4)
    elif case == "lam above critical":
        field = small_field(lam=100.0)
    elif case == "duplicate atoms":
        weight = field.dictionary.weight
        field = vd.SparseRecurrent(vd.DenseDictionary(torch.cat([weight, weight], 1)), field.x, lam=0.4)
    elif case == "fewer atoms":
        field = vd.SparseRecurrent(vd.DenseDictionary(field.dictionary.weight[:, :2]), field.x, lam=0.4)
    elif case == "one signal":
        field = small_field((1,))
    else:
        times = times[:1]
    run = record(field, tmp_path / "run.zarr", times, gap=1e-6)
    if case == "one time":
        assert run.sizes["time"] == 1
        assert run.t_end == 0.0
        return
    assert run.equilibrium
    if case in ("zero signals", "lam above critical"):
        assert not run.code_end.any()
    rested = vd.solve(field.problem())
    np.testing.assert_allclose(run.reconstruction_end, field.dictionary.decode(rested.code), atol=1e-2)


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": [0.0, 1.0, 1.0]}, "increas"),
        ({"times": [0.0, float("nan")]}, "finite"),
        ({"times": []}, "at least one"),
        ({"variables": ["z", "energy"]}, "energy"),
        ({"variables": []}, "names of"),
        ({"every": 0}, "every"),
        ({"chunk": 0}, "chunk"),
        ({"neurons": [6]}, "neurons holds 6"),
        ({"neurons": [-1]}, "neurons holds -1"),
        ({"atoms": [1, 1]}, "atoms names one twice"),
        ({"atoms": []}, "atoms is empty"),
        ({"method": "dopri6"}, "method"),
        ({"rtol": -1.0}, "rtol"),
        ({"gap": 0.0}, "gap"),
        ({"tolerance": 1.0}, "tolerance is no option"),
        ({"coordinates": {"row": np.zeros(3)}}, "coordinate row"),
    ],
)
def test_bad_arguments_leave_everything_as_it_was(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    before = record(small_field(), store, even(1.0)).load()
    with pytest.raises(ValueError, match=message):
        record(small_field(), store, **{"times": even(1.0), "overwrite": True, **arguments})  # type: ignore[arg-type]
    assert_same_bits(open_dataset(store), before)
    assert names_in(tmp_path) == ["run.zarr"]


def test_what_a_field_lacks_cannot_be_recorded(tmp_path: Path) -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="FeedForward has no encoding neurons"):
        record(vd.FeedForward(x), tmp_path / "run.zarr", even(1.0), variables=["code"])
    unstable = vd.Recurrent(2 * torch.eye(3, dtype=torch.float64), x)
    with pytest.raises(ValueError, match=r"gap cannot be recorded: .*no stable equilibrium"):
        record(unstable, tmp_path / "run.zarr", even(1.0), variables=["gap"])
    assert not list(tmp_path.iterdir())


def test_a_store_is_not_overwritten_unasked(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    before = record(small_field(), store, even(1.0)).load()
    with pytest.raises(StoreError, match=r"run\.zarr exists"):
        record(small_field(lam=0.2), store, even(1.0))
    assert_same_bits(open_dataset(store), before)
    assert float(record(small_field(lam=0.2), store, even(1.0), overwrite=True).lam[0]) == 0.2
    assert names_in(tmp_path) == ["run.zarr"]


def test_only_stores_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for place in (tmp_path / "thesis", tmp_path / "thesis" / "chapter.tex"):
        with pytest.raises(StoreError, match="never overwritten"):
            record(small_field(), place, even(1.0), overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_process_killed_while_overwriting_gives_the_old_store_back(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    before = record(small_field(), store, even(1.0)).load()
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise Crash
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr(Workplace, "close", lambda work: os.close(work._lock))  # a process that dies tidies nothing up
        with pytest.raises(Crash):
            record(small_field(lam=0.2), store, even(1.0), overwrite=True)
    assert not store.exists()
    with pytest.raises(StoreError, match="exists"):
        record(small_field(), store, even(2.0))
    assert_same_bits(open_dataset(store), before)
    assert names_in(tmp_path) == ["run.zarr"]


def test_two_processes_do_not_write_to_one_store(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    record(small_field(), store, even(1.0))
    with Writer.open(store, contents), pytest.raises(StoreError, match="another process"):
        record(small_field(), store, even(2.0), resume=True)
    assert record(small_field(), store, even(2.0), resume=True).t_end == 2.0


# Resuming


@pytest.mark.parametrize("method", ["dopri5", "rk4", "rkc", "auto"])
@settings(max_examples=4)
@given(first=st.integers(1, 12), then=st.integers(0, 12), chunk=st.integers(1, 5), every=st.integers(1, 3))
def test_a_raised_t_max_gives_what_the_longer_run_gives(
    method: str, first: int, then: int, chunk: int, every: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("raise")
    field, times = small_field((3,)), even(40.0, 1.0)[: first + then]
    options = {"method": method, "gap": 1e-2, "chunk": chunk, "every": every}
    whole = record(field, folder / "whole.zarr", times, **options)
    record(field, folder / "parts.zarr", times[:first], **options)
    assert_same_bits(record(field, folder / "parts.zarr", times, resume=True, **options), whole)


def test_t_max_off_the_grid_can_be_raised(tmp_path: Path) -> None:
    field = small_field()
    odd = torch.cat([even(3.5), torch.tensor([3.6], dtype=torch.float64)])  # 16 times fill whole chunks of 4
    record(field, tmp_path / "parts.zarr", odd, chunk=4)
    whole = record(field, tmp_path / "whole.zarr", even(9.0), chunk=4)
    assert_same_bits(record(field, tmp_path / "parts.zarr", even(9.0), chunk=4, resume=True), whole)


def test_resuming_what_is_done_changes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    before = record(small_field(), store, even(3.0), gap=1e-9).load()
    root = (store / "zarr.json").read_bytes()
    assert_same_bits(record(small_field(), store, even(3.0), gap=1e-9, resume=True), before)
    assert (store / "zarr.json").read_bytes() == root


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lam": 0.5}, "another lam: it has 0.4, this run has 0.5"),
        ({"beta": 2.5}, "another beta: it has 2.0, this run has 2.5"),
        ({"threshold": "nonnegative"}, "another threshold: it has soft, this run has nonnegative"),
        ({"x": 1}, "another signals_sha256"),
        ({"dictionary": 1}, "another dictionary_sha256"),
        ({"rtol": 1e-4}, "another rtol: it has 1e-06, this run has 0.0001"),
        ({"method": "bosh3"}, "another method: it has dopri5, this run has bosh3"),
        ({"gap": 1e-3}, "another stop_gap: it has none, this run has 0.001"),
        ({"every": 2}, "another every: it has 1, this run has 2"),
        ({"variables": ["z"]}, "another variables"),
        ({"neurons": [1]}, "another neurons: it has all"),
        ({"chunk": 8}, "another chunk: it has 4, this run has 8"),
        ({"times": even(2.0)}, "smaller t_max: it has 5.0, this run has 2.0"),
        ({"times": even(6.0, 0.2)}, "other times"),
    ],
)
def test_resuming_with_other_parameters_names_them(change: dict[str, object], named: str, tmp_path: Path) -> None:
    field, store = small_field(), tmp_path / "run.zarr"
    before = record(field, store, even(5.0), chunk=4).load()
    x = field.x + 1 if change.pop("x", None) else field.x
    weight = 2 * field.dictionary.weight if change.pop("dictionary", None) else field.dictionary.weight
    parameters = {name: change.pop(name) for name in ("lam", "beta", "threshold") if name in change}
    other = vd.SparseRecurrent(vd.DenseDictionary(weight), x, **{"lam": 0.4, **parameters})  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=re.escape(named)):
        record(other, store, **{"times": even(6.0), "chunk": 4, "resume": True, **change})  # type: ignore[arg-type]
    assert_same_bits(open_dataset(store), before)


def test_what_is_no_store_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        record(small_field(), tmp_path / "none.zarr", even(1.0), resume=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="no store"):
        record(small_field(), tmp_path / "folder", even(1.0), resume=True)
    with pytest.raises(StoreError, match="no store"):
        open_dataset(tmp_path / "folder")


def test_other_versions_are_warned_of(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    record(small_field(), store, even(1.0))
    root = json.loads((store / "zarr.json").read_text())
    provenance = root["consolidated_metadata"]["metadata"]["provenance"]
    provenance["fill_value"] = json.dumps(json.loads(provenance["fill_value"]) | {"torch_version": "1.0"})
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.warns(UserWarning, match="torch_version 1.0"):
        record(small_field(), store, even(2.0), resume=True)


# Whole at every moment


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return record(small_field(), tmp_path_factory.mktemp("whole") / "run.zarr", even(4.5), chunk=4).load()


@settings(max_examples=12)
@given(writes=st.integers(0, 120), again=st.integers(0, 50))
def test_a_crash_between_any_two_writes_leaves_a_whole_store(
    writes: int, again: int, uninterrupted: xr.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("crash") / "run.zarr"
    for number, count in enumerate((writes, again)):
        with pytest.MonkeyPatch.context() as patch:
            crashing_after(count, patch)
            with contextlib.suppress(Crash):
                record(small_field(), store, even(4.5), chunk=4, resume=number > 0 and store.exists())
        if store.exists():
            with xr.open_zarr(store) as seen:
                assert seen.sizes["time"] >= 1
                expected = uninterrupted.isel(time=slice(seen.sizes["time"]))
                for name in ("time", *VARIABLES):
                    np.testing.assert_array_equal(seen[name], expected[name])
            with xr.open_zarr(store, consolidated=False) as plain:
                assert plain.sizes["time"] >= seen.sizes["time"]
    assert_same_bits(record(small_field(), store, even(4.5), chunk=4, resume=store.exists()), uninterrupted)
    assert names_in(store.parent) == ["run.zarr"]


def test_torn_and_stray_files_are_mended(uninterrupted: xr.Dataset, tmp_path: Path) -> None:
    """A kill leaves half-written partial files and uncommitted chunks beside the commit."""
    store = tmp_path / "run.zarr"
    with pytest.MonkeyPatch.context() as patch:
        crashing_after(75, patch)
        with pytest.raises(Crash):
            record(small_field(), store, even(4.5), chunk=4)
    (store / "zarr.json.partial").write_text('{"attributes": {"sta')
    (store / "z" / "c.4.0.0").write_bytes(b"torn")
    assert xr.open_zarr(store).sizes["time"] > 1
    assert_same_bits(record(small_field(), store, even(4.5), chunk=4, resume=True), uninterrupted)
    assert not list(store.rglob("*.partial"))


def test_every_commit_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    store, seen = tmp_path / "run.zarr", []

    def look(_: object) -> None:
        with xr.open_zarr(store) as run:
            assert run.status == "running"
            assert np.isfinite(run.z.to_numpy()).all()
            seen.append(run.sizes["time"])

    record(small_field(), store, even(10.0), chunk=8, progress=look)
    assert seen == [8, 16, 24, 32, 40, 40]


def test_the_arrays_own_metadata_agree_at_the_end(tmp_path: Path) -> None:
    run = record(small_field(), tmp_path / "run.zarr", even(100.0), gap=1e-4, chunk=16)
    plain = xr.open_zarr(tmp_path / "run.zarr", consolidated=False)
    assert dict(plain.sizes) == dict(run.sizes)
    tree = xr.open_datatree(tmp_path / "run.zarr", engine="zarr")
    assert set(tree["snapshot"].children) == {"0", "1"}


@pytest.mark.parametrize(("max_steps", "chunk"), [(2, 4), (60, 4), (60, 1), (60, 100)])
def test_a_failed_integration_keeps_the_trajectory(max_steps: int, chunk: int, tmp_path: Path) -> None:
    field = small_field()
    with pytest.raises(IntegrationError, match="steps"):
        record(field, tmp_path / "run.zarr", even(12.0), chunk=chunk, max_steps=max_steps)
    failed = xr.open_zarr(tmp_path / "run.zarr")
    assert failed.status.item().startswith("failed: ")
    assert not failed.equilibrium
    assert failed.sizes["time"] > (1 if max_steps > 2 else 0)
    assert failed.t_end == float(failed.time[-1])
    whole = record(field, tmp_path / "whole.zarr", even(12.0), chunk=chunk)
    np.testing.assert_array_equal(failed.z, whole.z[: failed.sizes["time"]])
    np.testing.assert_array_equal(failed.z_end, failed.z[-1])
    assert_same_bits(
        record(field, tmp_path / "run.zarr", even(12.0), chunk=chunk, resume=True).drop_attrs(),
        whole.drop_attrs(),
    )


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, field = tmp_path / "run.zarr", small_field()
    whole = record(field, tmp_path / "whole.zarr", even(6.0), chunk=4)
    original, left = Writer.write, [75]

    def write(self: Writer, *args: object, **kwargs: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "write", write)
    with pytest.raises(StoreError, match=r"run\.zarr cannot be written: the disk is full"):
        record(field, store, even(6.0), chunk=4)
    with pytest.raises(StoreError, match="the disk is full"):
        record(field, tmp_path / "new.zarr", even(6.0), chunk=4)
    monkeypatch.undo()
    assert names_in(tmp_path) == ["run.zarr", "whole.zarr"]
    assert xr.open_zarr(store).sizes["time"] > 0
    assert_same_bits(record(field, store, even(6.0), chunk=4, resume=True), whole)


_ON_A_SMALL_DISK = """
import sys; from pathlib import Path
sys.path.insert(0, {root!r})
from tests.recording.helpers import small_field, even
from vars_dyn.recording import open_dataset, StoreError; from vars_dyn.recording.record import record
field, store = small_field((50,)), Path({disk!r}) / "run.zarr"
try:
    record(field, store, even(4000.0), chunk=16, variables=["z"])
except StoreError as error:
    assert "the disk is full" in str(error), error
    assert open_dataset(store).z.load().shape[0] > 1
    print("said")
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """Run on a file system of a few megabytes, if the machine lets users mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = tmp_path / "script.py"
    script.write_text(_ON_A_SMALL_DISK.format(root=str(Path.cwd()), disk=str(disk)))
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk} && exec {sys.executable} {script}"
    command = ["unshare", "-Urm", "sh", "-c", mount]
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "said\n", done.stderr


def test_an_unwritable_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        record(small_field(), tmp_path / "file" / "run.zarr", even(1.0))


# Killed


@pytest.fixture(scope="module")
def server() -> Iterator[multiprocessing.context.BaseContext]:
    """A server of processes that have imported all modules already, so that kills hit the run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.recording.helpers"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield context


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_killed_at_random_moments_and_resumed_it_gives_the_same_bits(
    method: str, server: multiprocessing.context.BaseContext, tmp_path: Path
) -> None:
    whole, store, moments = tmp_path / "whole.zarr", tmp_path / "run.zarr", random.Random(method)
    record_to_the_end(whole, method, resume=False)
    expected = xr.open_zarr(whole).load()
    # The first kill comes near the start. Each other one comes soon after a commit that is drawn at random.
    for target in [None, *sorted(moments.sample(range(1, 100), 3))]:
        process = server.Process(target=record_to_the_end, args=(store, method, store.exists()))  # type: ignore[attr-defined]
        process.start()
        while target is not None and process.is_alive() and read_attributes(store).get("snapshot_index", 0) < target:
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.06 if target else 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if store.exists():
            with xr.open_zarr(store) as seen:
                assert seen.sizes["time"] < expected.sizes["time"]
                for name in ("time", "z", "u", "relative_gap"):
                    np.testing.assert_array_equal(seen[name], expected[name][: seen.sizes["time"]])
    record_to_the_end(store, method, resume=True)
    assert_same_bits(xr.open_zarr(store), expected)
