from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from experiments import train as command
from experiments.options.plain_data import as_plain
from experiments.settings import Attention, Augmentation, Model, Optimization, Settings
from experiments.training import checkpoints, loop
from experiments.training.logs import read_log
from experiments.training.loop import train
from experiments.training.probe import open_trajectories

Make = Callable[..., Settings]
EVERYTHING = {
    "augmentation": Augmentation(crop="padded", color_jitter=0.3, erasing=0.5, mixup=0.4, cutmix=0.5, smoothing=0.1),
    "optimization": Optimization(batch_size=8, lr=3e-3, ema=0.8, drop_path=0.3, warmup_epochs=1),
    "model": Model("vars_rvt_micro", Attention("vars_d"), {"base_dims": [8], "heads": [2], "depth": [1]}),
}


def _same(first: Path, second: Path) -> None:
    assert first != second
    for name in ("model", "ema", "optimizer"):
        one, two = (load_file(path / f"{name}.safetensors") for path in (first, second))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    one, two = (json.loads((path / "state.json").read_text()) for path in (first, second))
    for state in (one, two):
        state["config"].update(out="", resume=False, stop_after=None)
    assert one == two


def _losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run) if line["event"] == "epoch"]


def test_four_epochs_are_two_and_two_bit_for_bit(settings: Make, tmp_path: Path) -> None:
    """Train with every part that has a state: moving average, mixing, random erasing, stochastic depth, batch norm."""
    whole = train(settings(**EVERYTHING, epochs=4, out=str(tmp_path / "whole")))
    parts = {**EVERYTHING, "epochs": 4, "out": str(tmp_path / "parts")}
    half = train(settings(**parts, stop_after=2))
    assert half.name == "epoch-0002"
    _same(whole, train(settings(**parts, resume=True)))
    epochs = [
        [line["loss"] for line in read_log(tmp_path / out) if line["event"] == "epoch"] for out in ("whole", "parts")
    ]
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 4


def test_killed_in_a_checkpoint_it_resumes_to_the_same_end(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(settings(epochs=3, out=str(tmp_path / "whole"), optimization=EVERYTHING["optimization"]))

    class Killed(BaseException):
        pass

    real, calls = checkpoints.save_file, 0

    def save(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # the fifth file written is the second of the second checkpoint's three
            Path(arguments[1]).write_bytes(b"half of it")
            raise Killed
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", save)
        with pytest.raises(Killed):
            train(settings(epochs=3, optimization=EVERYTHING["optimization"]))
    again = settings(epochs=3, optimization=EVERYTHING["optimization"], resume=True)
    left = checkpoints.last(Path(again.out))
    assert left is not None
    assert left.name == "epoch-0001"
    _same(whole, train(again))


def test_loader_workers_change_nothing(settings: Make, tmp_path: Path) -> None:
    made = settings(epochs=1)
    alone = train(made)
    made.data.workers, made.out = 1, str(tmp_path / "workers")
    one, two = (load_file(path / "model.safetensors") for path in (alone, train(made)))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_two_processes_equal_one_with_the_same_global_batch(settings: Make, tmp_path: Path) -> None:
    made = settings(epochs=2)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(as_plain(made)))
    alone = train(made)
    command = [sys.executable, "-m", "experiments.train", "--config", str(file), "--devices", "2"]
    finished = subprocess.run(
        [*command, "--out", str(tmp_path / "two")], capture_output=True, text=True, timeout=240, check=False
    )
    assert finished.returncode == 0, finished.stderr
    together = checkpoints.last(tmp_path / "two")
    assert together is not None
    one, two = (checkpoints.read(path) for path in (alone, together))
    assert len(two.state["random"]) == 2
    for name, value in one.model.items():
        assert torch.allclose(value, two.model[name], atol=2e-4, rtol=1e-3), name
    moved = loop.build_model(made.model, 6, 16)
    assert any((value - one.model[name]).abs().max() > 0.01 for name, value in moved.state_dict().items())
    losses = [
        [line["loss"] for line in read_log(Path(out)) if line["event"] == "epoch"]
        for out in (made.out, tmp_path / "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(
    settings: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings(epochs=3)
    good = train(settings(epochs=3, stop_after=1))
    before = {file.name: file.read_bytes() for file in good.iterdir()}

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    real = loop.build_model

    def build(*arguments: Any) -> nn.Module:
        model = real(*arguments)
        model.norm = nn.Sequential(model.norm, Broken())
        model.norm.load_state_dict = lambda *_a, **_k: None  # type: ignore[method-assign]
        return model

    monkeypatch.setattr(loop, "build_model", build)
    monkeypatch.setattr(checkpoints, "load_weights", lambda *_a, **_k: [])
    made.resume = True
    with pytest.raises(FloatingPointError, match=rf"the loss is nan in epoch 2.*{good.name}"):
        train(made)
    assert {file.name: file.read_bytes() for file in good.iterdir()} == before


def test_weights_that_are_not_finite_are_never_a_checkpoint(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of an epoch spoils the weights. No training loss shows this, because no batch follows."""
    real = loop._epoch

    def epoch(run: Any, *arguments: Any) -> dict[str, float]:
        figures = real(run, *arguments)
        if run.epoch == 1:
            torch.nn.init.constant_(run.network.head.bias, float("nan"))
        return figures

    monkeypatch.setattr(loop, "_epoch", epoch)
    made = settings(epochs=3)
    with pytest.raises(FloatingPointError, match=r"validation loss is nan after epoch 2.*epoch-0001"):
        train(made)
    last = checkpoints.last(Path(made.out))
    assert last is not None
    assert last.name == "epoch-0001"


def test_released_static_attention_keeps_its_stored_bound(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_BOUND_EVERY", 1)
    sizes = {"base_dims": [8], "heads": [2], "depth": [1]}
    made = settings(epochs=1, model=Model("vars_rvt_micro", Attention("vars_s", variant="released"), sizes))
    torch.manual_seed(made.seed)
    before = loop.build_model(made.model, 6, 16).state_dict()
    after = load_file(train(made) / "model.safetensors")
    name = next(name for name in after if name.endswith("attn.L"))
    assert not torch.equal(before[name], after[name])
    monkeypatch.setattr(loop, "_BOUND_EVERY", 1000)
    made.out += "-rarely"
    rarely = load_file(train(made) / "model.safetensors")
    assert not torch.equal(rarely[name], after[name])


def test_training_learns_and_logs(settings: Make) -> None:
    made = settings(epochs=20, optimization=Optimization(batch_size=8, lr=1e-2), augmentation=Augmentation(crop="none"))
    train(made)
    lines = read_log(Path(made.out))
    assert lines[0]["event"] == "start"
    assert lines[0]["torch_version"] == torch.__version__
    epochs = lines[1:]
    assert [line["epoch"] for line in epochs] == list(range(1, 21))
    assert epochs[-1]["loss"] < 0.75 * epochs[0]["loss"]
    assert epochs[-1]["accuracy"] > 2 / 6
    assert epochs[-1]["lr"] < 0.01 * epochs[0]["lr"]
    assert epochs[-1]["best"] == max(line["accuracy"] for line in epochs)
    assert all(line["images_per_second"] > 0 for line in epochs)


def test_every_epochs_trajectories_of_the_probe_images(settings: Make, tmp_path: Path) -> None:
    made = settings(
        probe_images=5, model=Model("vars_rvt_micro", Attention("vars_sd", num_steps=4), EVERYTHING["model"].sizes)
    )
    made.data.image_size = 32
    train(made)
    layer = open_trajectories(Path(made.out), "transformers_0_blocks_0_attn")
    assert dict(layer.sizes)["epoch"] == 2
    assert (layer.sizes["iteration"], layer.sizes["image"], layer.sizes["head"]) == (5, 5, 2)
    assert set(layer.data_vars) == {"code", "sparsity", "relative_gap", "lyapunov"}
    energy = layer["lyapunov"].values
    assert (energy[:, 1:] <= energy[:, :-1] + 1e-5).all()  # ISTA never raises the energy
    assert ((layer["code"] == 0).mean("atom") - layer["sparsity"]).max() < 1e-6
    assert (layer["relative_gap"] >= -1e-5).all()
    with pytest.raises(ValueError, match="no trajectories"):
        open_trajectories(tmp_path, "x")


def test_finetuning_keeps_the_weights_and_draws_a_new_head(settings: Make, images: Path, tmp_path: Path) -> None:
    source = train(settings(epochs=1, out=str(tmp_path / "source")))
    few = tmp_path / "few"
    for split in ("train", "val"):
        (few / split).mkdir(parents=True)
        for shape in ("disc", "ring"):
            (few / split / shape).symlink_to(images / split / shape)
    made = settings(finetune=str(source), epochs=1, optimization=Optimization(batch_size=8, lr=0.0, weight_decay=0.0))
    made.data.root = str(few)
    one, two = (load_file(path / "model.safetensors") for path in (source, train(made)))
    assert two["head.weight"].shape[0] == 2
    assert all(torch.equal(two[key], one[key]) for key in one if not key.startswith("head."))
    made.out, made.model.sizes = str(tmp_path / "other"), {**made.model.sizes, "embed_dim": 32}
    with pytest.raises(ValueError, match="checkpoint of another model"):
        train(made)


def test_a_run_is_not_overwritten_and_is_resumed_as_it_was_begun(settings: Make) -> None:
    train(settings(epochs=1))
    with pytest.raises(ValueError, match="has a run already"):
        train(settings(epochs=1))
    with pytest.raises(ValueError, match=r"seed is 3, but the run in .* has 0; a run is resumed as it was begun"):
        train(settings(epochs=1, resume=True, seed=3))
    assert train(settings(epochs=1, resume=True)).name == "epoch-0001"


def test_tensorboard_on_request(settings: Make) -> None:
    pytest.importorskip("tensorboard")
    made = settings(epochs=1, tensorboard=True)
    train(made)
    assert list((Path(made.out) / "tensorboard").glob("events*"))


def test_two_runs_in_one_folder_and_a_killed_one(settings: Make, tmp_path: Path) -> None:
    """While the first run is alive, the second ends with one sentence. After a kill it continues the first."""
    made = settings(epochs=3, stop_after=1)
    path = train(made)
    hold = (
        "import sys, time; from pathlib import Path; from experiments.training.guards import alone\n"
        "with alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, made.out], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        before = sorted(file.name for file in Path(made.out).rglob("*"))
        with pytest.raises(ValueError, match="another process trains into"):
            train(settings(epochs=3, resume=True))
        assert sorted(file.name for file in Path(made.out).rglob("*")) == before
        first.kill()
    assert train(settings(epochs=3, resume=True)).name == "epoch-0003"
    assert not path.exists() or path.name == "epoch-0001"


def test_a_full_disk_says_what_stays(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = checkpoints.save_file, 0

    def save(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(28, "No space left on device", str(arguments[1]))
        real(*arguments)

    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(as_plain(settings(epochs=3))))
    monkeypatch.setattr(checkpoints, "save_file", save)
    assert command.main(["--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert "the last whole checkpoint is" in line
    assert "epoch-0001" in line
    monkeypatch.setattr(checkpoints, "save_file", real)
    assert command.main(["--config", str(file), "--resume"]) == 0
    assert [e["epoch"] for e in read_log(Path(settings().out)) if e["event"] == "epoch"] == [1, 2, 3]


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_prints_the_command_that_goes_on(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: str, status: int,
) -> None:  # fmt: skip
    file = tmp_path / "set tings.yaml"
    file.write_text(yaml.safe_dump(as_plain(settings(epochs=2))))
    real = loop._validate

    def validate(run: Any) -> Any:
        if run.epoch == 2:
            signal.raise_signal(getattr(signal, number))
        return real(run)

    monkeypatch.setattr(loop, "_validate", validate)
    assert command.main(["--config", str(file)]) == status
    (line,) = capsys.readouterr().err.splitlines()
    words = shlex.split(line.partition("to go on: ")[2])
    assert words == ["python", "-m", "experiments.train", "--config", str(file), "--resume=true"]
    monkeypatch.setattr(loop, "_validate", real)
    assert command.main(words[3:]) == 0
    last = checkpoints.last(Path(settings().out))
    assert last is not None
    assert last.name == "epoch-0002"


def test_a_log_that_is_no_log_stays(settings: Make) -> None:
    made = settings(epochs=1)
    Path(made.out).mkdir()
    (Path(made.out) / "log.jsonl").write_text("my notes\nof two lines\n")
    with pytest.raises(ValueError, match="is no log of a training run"):
        train(made)
    assert (Path(made.out) / "log.jsonl").read_text() == "my notes\nof two lines\n"


def test_folders_that_cannot_be_written_get_a_sentence(
    settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(as_plain(settings(epochs=1))))
    for out in (tmp_path / "file" / "run", tmp_path / "file", "/proc/run", ""):
        capsys.readouterr()
        assert command.main(["--config", str(file), "--out", str(out)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    os.mkfifo(tmp_path / "train")
    assert command.main(["--config", str(file), "--data.root", str(tmp_path)]) == 2
    assert "is no folder" in capsys.readouterr().err
