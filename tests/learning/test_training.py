"""Whole training runs: planted atoms are found, a killed run resumes with the same bits, sources are flat in memory."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import vars_dyn as vd
from vars_dyn.learning import (
    Atoms,
    Equilibrium,
    Gradient,
    Hebbian,
    OlshausenField,
    Online,
    Patches,
    Rows,
    StoreOptions,
    Stream,
    load_dictionary,
    random_dictionary,
)

REAL: dict[str, Any] = {"dtype": torch.float64}


def planted(seed: int, d: int = 16, m: int = 24, count: int = 2000, active: int = 2) -> tuple[Tensor, Tensor]:
    """Atoms (d, m) of norm 1, and signals of `active` of them each."""
    generator = torch.Generator().manual_seed(seed)
    weight = F.normalize(torch.randn(d, m, generator=generator, **REAL), dim=0)
    places = torch.rand(count, m, generator=generator).argsort(-1)[:, :active]
    values = torch.randn(count, active, generator=generator, **REAL).sign()
    values = values * (0.5 + torch.rand(count, active, generator=generator, **REAL))
    return weight, torch.zeros(count, m, **REAL).scatter(1, places, values) @ weight.mT


def recovered(found: Tensor, wanted: Tensor) -> float:
    return float((F.normalize(found, dim=0).mT @ wanted).abs().amax(0).gt(0.98).double().mean())


@pytest.mark.parametrize("method", [Online(forgetting=5.0), Hebbian(rate=0.2, decay=None)])
def test_planted_atoms_are_found(method: Any) -> None:
    weight, x = planted(0)
    start = random_dictionary(vd.DenseDictionary(weight), 50)
    learned = vd.learn(start, x, 0.3, method=method, steps=150, batch_size=128, atoms=Atoms(patience=1000))
    assert recovered(start.tensors()[0], weight) < 0.2
    assert recovered(learned.dictionary.tensors()[0], weight) >= 0.9
    objective = learned.history["objective"]
    assert float(objective[-20:].mean()) < 0.8 * float(objective[:5].mean())
    assert float(learned.history["relative_gap"].max()) <= 1e-4
    assert learned.history.attrs["seed"] == 0
    assert learned.history.sizes["step"] == 150


RULES = {
    "online": (Online(), "solve"),
    "hebbian": (Hebbian(), "solve"),
    "gradient": (Gradient(schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)), Equilibrium()),
    "sgd": (Gradient(lambda t: torch.optim.SGD(t, 0.1, momentum=0.9)), "solve"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_resumed_run_has_the_same_bits(name: str, tmp_path: Path) -> None:
    weight, x = planted(1)
    method, codes = RULES[name]
    start = random_dictionary(vd.DenseDictionary(weight), 3)

    def run(steps: int, store: Path | None, *, resume: bool = False) -> vd.Learned:
        place = None if store is None else StoreOptions(store, every=3)
        atoms = Atoms(patience=50)
        return vd.learn(start, x, 0.3, method=method, codes=codes, steps=steps, batch_size=16,
                        atoms=atoms, store=place, resume=resume)  # fmt: skip

    whole = run(12, None)
    run(5, tmp_path / "run")
    again = run(12, tmp_path / "run", resume=True)
    assert torch.equal(whole.dictionary.tensors()[0], again.dictionary.tensors()[0])
    xr.testing.assert_equal(whole.history, again.history)
    stored = xr.open_zarr(tmp_path / "run" / "history.zarr", consolidated=False)
    xr.testing.assert_equal(stored.load(), again.history)
    assert torch.equal(load_dictionary(tmp_path / "run" / "dictionary.safetensors").tensors()[0], stored_atoms(again))


def stored_atoms(learned: vd.Learned) -> Tensor:
    return learned.dictionary.tensors()[0]


def test_a_run_is_not_resumed_with_other_settings(tmp_path: Path) -> None:
    weight, x = planted(2)
    start = random_dictionary(vd.DenseDictionary(weight), 3)
    store = tmp_path / "run"
    vd.learn(start, x, 0.3, steps=2, batch_size=8, store=store)
    with pytest.raises(ValueError, match=r"cannot be resumed with another lam: it has 0.3, this run has 0.4"):
        vd.learn(start, x, 0.4, steps=4, batch_size=8, store=store, resume=True)
    with pytest.raises(ValueError, match=r"another forgetting: it has 5.0, this run has 1.0"):
        vd.learn(start, x, 0.3, method=Online(1.0), steps=4, batch_size=8, store=store, resume=True)
    with pytest.raises(ValueError, match="another start_sha256"):
        vd.learn(random_dictionary(start, 4), x, 0.3, steps=4, batch_size=8, store=store, resume=True)
    with pytest.raises(ValueError, match="exists"):
        vd.learn(start, x, 0.3, steps=4, batch_size=8, store=store)
    with pytest.raises(ValueError, match="nothing to resume"):
        vd.learn(start, x, 0.3, steps=4, store=tmp_path / "none", resume=True)


KILLED = """
import sys, torch, vars_dyn as vd
from pathlib import Path
from vars_dyn.learning import Atoms, StoreOptions, random_dictionary
torch.set_num_threads(1)
x = torch.randn(400, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
start = random_dictionary(vd.DenseDictionary(torch.ones(10, 20, dtype=torch.float64)), 0)
store = Path(sys.argv[1])
learned = vd.learn(start, x, 0.5, steps=int(sys.argv[2]), batch_size=8, atoms=Atoms(patience=100),
                   store=StoreOptions(store, every=1), resume=(store / "checkpoint.safetensors").exists())
"""


def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED]
    steps, chance = "120", random.Random(5)
    subprocess.run([*command, str(tmp_path / "whole"), steps], check=True)
    killed = 0
    for _ in range(2):
        process = subprocess.Popen([*command, str(tmp_path / "broken"), steps])
        deadline = time.monotonic() + 60
        while not (tmp_path / "broken" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 1
    subprocess.run([*command, str(tmp_path / "broken"), steps], check=True)
    whole, broken = (load_dictionary(tmp_path / name / "dictionary.safetensors") for name in ("whole", "broken"))
    assert torch.equal(whole.tensors()[0], broken.tensors()[0])
    courses = [xr.open_zarr(tmp_path / name / "history.zarr", consolidated=False) for name in ("whole", "broken")]
    xr.testing.assert_equal(*courses)


def test_convolutional_and_fourier_dictionaries_learn_and_are_read_again(tmp_path: Path) -> None:
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0), **REAL)
    conv = vd.ConvDictionary(torch.ones(4, 1, 3, 3, **REAL), (1, 8, 8), padding=1)
    fourier = vd.FourierDictionary(torch.ones(2, 1, 8, 8, **REAL))
    for name, start, method in (("conv", conv, "online"), ("fourier", fourier, "hebbian")):
        learned = vd.learn(
            random_dictionary(start, 1), x, 0.5, method=method, steps=6, batch_size=8, store=tmp_path / name
        )
        again = load_dictionary(tmp_path / name / "dictionary.safetensors")
        assert type(again) is type(start)
        code = torch.randn(2, *start.code_shape, **REAL)
        torch.testing.assert_close(again.decode(code), learned.dictionary.decode(code))
        assert float(learned.history["objective"][-1]) < float(learned.history["objective"][0])


def test_batches_depend_on_seed_and_step_only() -> None:
    values = np.arange(60.0).reshape(20, 3)
    sources = [Rows(values), Patches([np.random.default_rng(0).normal(size=(1, 9, 11))], 4)]
    for source in sources:
        first = source.batch(3, 5, 7)
        source.batch(4, 5, 7)
        np.testing.assert_array_equal(source.batch(3, 5, 7), first)
        assert not np.array_equal(source.batch(3, 5, 8), first)
        assert not np.array_equal(source.batch(4, 5, 7), first)


def test_a_stream_is_skipped_to_where_it_was_and_may_end() -> None:
    stream = Stream(lambda: (np.full((2, 3), k) for k in range(10)), (3,))
    found = stream.batch(2, 4, 0)
    assert found is not None
    assert found[:, 0].tolist() == [4, 4, 5, 5]
    assert stream.batch(5, 4, 0) is None
    weight = torch.eye(3, **REAL)
    with pytest.warns(UserWarning, match="ended after 5 of 9 batches"):
        learned = vd.learn(vd.DenseDictionary(weight), stream, 0.1, steps=9, batch_size=4)
    assert learned.history.sizes["step"] == 5


def test_rows_of_a_zarr_array_are_drawn_evenly(tmp_path: Path) -> None:
    array = zarr.open(tmp_path / "x.zarr", mode="w", shape=(50, 2), chunks=(8, 2), dtype="f4")
    array[...] = np.repeat(np.arange(50.0)[:, None], 2, 1)
    counts = np.zeros(50)
    for step in range(400):
        batch = Rows(array).batch(step, 16, 0)
        np.add.at(counts, batch[:, 0].astype(int), 1)
    # Each row is drawn 128 times on average; draws of one chunk are not independent.
    assert counts.min() > 60
    assert counts.max() < 220


def test_a_larger_corpus_needs_no_more_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        noise = np.random.default_rng(0).integers(0, 255, (96, 96), dtype=np.uint8)
        for number in range(count):
            Image.fromarray(noise).save(folder / f"{number:03d}.png")
        source = Patches([folder], 8, image_steps=[OlshausenField()], pool=4, visits=1)
        source.batch(0, 32, 0)
        tracemalloc.start()
        for step in range(1, 12):
            source.batch(step, 32, 0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(80) < 1.2 * peak(8)


def test_a_bad_image_is_named_and_skipped_or_refused(tmp_path: Path) -> None:
    good = np.random.default_rng(0).integers(0, 255, (20, 20), dtype=np.uint8)
    Image.fromarray(good).save(tmp_path / "a.png")
    Image.fromarray(np.full((20, 20), np.nan, np.float32)).save(tmp_path / "b.tif")
    (tmp_path / "c.png").write_text("no image")
    Image.fromarray(good[:4]).save(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r"b\.tif holds NaN"):
        Patches([tmp_path], 8).batch(0, 4, 0)
    with pytest.warns(UserWarning, match="skipped: ") as told:
        batch = Patches([tmp_path], 8, on_bad="skip").batch(0, 4, 0)
    names = [str(each.message) for each in told]
    assert all(any(name in text for text in names) for name in ("b.tif", "c.png", "d.png"))
    assert np.isfinite(batch).all()
    rows = np.ones((50, 3))
    rows[::2, 1] = np.nan
    with pytest.raises(ValueError, match=r"signal \d+ holds NaN"):
        Rows(rows).batch(0, 20, 0)
    with pytest.warns(UserWarning, match="is skipped"):
        assert np.isfinite(Rows(rows, "skip").batch(0, 20, 0)).all()
