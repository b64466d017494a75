from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from experiments import ablate as command
from experiments.evaluation.suites.classification import Clean
from experiments.evaluation.trained import load
from experiments.evaluation.varied import LayerSettings, layers_of, varied
from experiments.settings import Attention, Ode, Settings
from experiments.sweeps import runs
from experiments.training.loop import train
from experiments.training.networks import build_model
from vars_dyn.attention import Variant, VarsAttention


@pytest.fixture
def run(settings: Callable[..., Settings]) -> Settings:
    made = settings(epochs=1)
    train(made)
    return made


def test_layers_become_what_they_would_be_if_built_so(run: Settings) -> None:
    model, settings, state = load(run.out)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        plain = model.eval()(images)
        for solver, options in (("fista", {}), ("ode", {"ode": Ode(horizon=3)}), ("equilibrium", {})):
            attention = Attention("vars_d", lam=0.1, num_steps=2, solver=solver, **options)
            built = build_model(replace(settings.model, attention=attention), len(state["classes"]), 16)
            built.load_state_dict(model.network.state_dict())
            model_built = type(model)(built, settings.data.mean, settings.data.std).eval()
            with varied(model, LayerSettings("soft", solver, 2, 0.1), Ode(horizon=3)):
                found = model(images)
            assert torch.allclose(found, model_built(images), atol=1e-5)
            assert not torch.allclose(found, plain, atol=1e-4)
            assert torch.equal(model(images), plain)  # `varied` has restored the model
        (layer,) = layers_of(model)
        tokens = torch.randn(1, 16, 16)
        gelu = VarsAttention(16, 2, qkv_bias=True, num_steps=2, lam=0.1, variant=Variant(threshold="gelu"))
        gelu.load_state_dict(layer.state_dict())
        with varied(model, LayerSettings("gelu", "ista", 2, 0.1)):
            assert torch.allclose(layer(tokens), gelu(tokens), atol=1e-6)
    with (
        pytest.raises(ValueError, match="no VARS attention"),
        varied(torch.nn.Flatten(), LayerSettings("soft", "ista", 1, 0)),
    ):
        pass


def sent(work: Any) -> Any:
    """What a worker process gets of the work."""
    assert pickle.dumps(work)
    there = copy.copy(work)  # by the same state that a pickle has
    assert there.found is None
    return there


def test_the_dataset_and_its_figure(run: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    arguments = [run.out, "--on", "clean,fgsm", "--num_steps", "[1, 3]", "--lam", "[0.3, 50]", "--progress", "false"]
    arguments += ["--solver", "[ista, ode]", "--threshold", "[soft, gelu]", "--out", str(out)]
    arguments += ["--ode.horizon", "1"]
    assert command.main(arguments) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a store without consolidated metadata would warn, for example
        found = xr.open_zarr(out / "ablation.zarr").load()
    assert found.value.dims == ("measure", "threshold", "solver", "num_steps", "lam")
    assert dict(found.sizes) == {"measure": 4, "threshold": 2, "solver": 2, "num_steps": 2, "lam": 2}
    values = found.value.sel(measure="clean")
    assert np.isnan(values.sel(threshold="gelu", solver="ode")).all()  # no ODE leads to this gate's code
    rest = values.sel(threshold="soft", solver="ode")
    assert (rest.sel(num_steps=1) == rest.sel(num_steps=3)).all()
    assert int(np.isnan(values).sum()) == 2 * 2
    # The cell with the model's own settings equals an evaluation, and so does a cell whose lam silences attention.
    from experiments.data.images import labelled
    from experiments.evaluation.run import Evaluation, evaluate

    model, settings, _ = load(run.out)
    for lam in (0.3, 50.0):
        with varied(model, LayerSettings("soft", "ista", 3, lam)):
            how = Evaluation(on=("clean",), progress=False)
            record, *_ = evaluate(model, labelled(settings.data, train=False), settings.data, how)
        assert values.sel(threshold="soft", solver="ista", num_steps=3, lam=lam) == record["value"]
    assert found.attrs["checkpoint"].endswith("epoch-0001")
    assert (out / "ablation.png").stat().st_size > 10_000
    # What is sent to a worker process opens the model again there, and measures the same.
    few = [run.out, "--on", "clean", "--num_steps", "[1, 3]", "--lam", "[0.3]", "--progress", "false"]
    real = runs.vd.sweep
    with monkeypatch.context() as patched:
        patched.setattr(runs.vd, "sweep", lambda work, *given, **more: real(sent(work), *given, **more))
        assert command.main([*few, "--out", str(tmp_path / "few")]) == 0
    own = xr.open_zarr(tmp_path / "few" / "ablation.zarr").value.load().sel(measure="clean")
    assert (own == values.sel(threshold=["soft"], solver=["ista"], lam=[0.3])).all()
    assert not (tmp_path / "few" / "sweep.zarr").exists()
    monkeypatch.setattr(Clean, "tally", lambda self, part: pytest.fail("measured again"))
    assert command.main(arguments) == 0
    xr.testing.assert_equal(xr.open_zarr(out / "ablation.zarr", consolidated=False).load(), found)


def test_cells_that_are_trained_anew(run: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [run.out, "--on", "clean", "--num_steps", "[]", "--lam", "[0.1, 0.5]", "--retrain", "true"]
    arguments += ["--progress", "false", "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    for lam in (0.1, 0.5):
        _, settings, state = load(tmp_path / "out" / "runs" / f"ista-3-{lam:g}")
        assert (settings.model.attention.lam, settings.model.attention.num_steps, state["epoch"]) == (lam, 3, 1)
    capsys.readouterr()
    for wrong, words in (
        (["--threshold", "[gelu]"], "threshold cannot be varied with --retrain"),
        (["--solver", "[newton]"], "solver has 'newton'"),
        (["--num_steps", "[0]"], "num_steps has 0"),
    ):
        assert command.main([*arguments, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
