from __future__ import annotations

import errno
import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from experiments.training import checkpoints
from experiments.training.checkpoints import Checkpoint
from tests.experiments.digests import without_digests


def _checkpoint(epoch: int, value: float = 0.0) -> Checkpoint:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    optimizer = torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"epoch": epoch, "best": {"epoch": 1, "accuracy": 0.5}, "random": [checkpoints.get_random_state()]}
    return Checkpoint(model.state_dict(), state, {"weight": torch.ones(2)}, optimizer.state_dict())


def test_round_trip_without_a_pickle(tmp_path: Path) -> None:
    written = _checkpoint(1)
    path = checkpoints.write(tmp_path, written)
    assert {file.name for file in path.iterdir()} == {
        "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"
    }  # fmt: skip
    read = checkpoints.read(path)
    assert read.state == written.state
    assert all(torch.equal(read.model[name], value) for name, value in written.model.items())
    assert read.weights is read.ema
    assert read.optimizer["param_groups"] == [
        {**group, "betas": list(group["betas"])} for group in written.optimizer["param_groups"]
    ]
    for index, state in written.optimizer["state"].items():
        assert all(torch.equal(read.optimizer["state"][index][name], value) for name, value in state.items())
    model = nn.Linear(2, 2)
    groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias]}]
    torch.optim.AdamW(groups).load_state_dict(read.optimizer)


@settings(max_examples=30)
@given(st.sampled_from(["model", "ema", "optimizer"]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_one_flipped_bit_of_a_tensor_file_is_found(name: str, place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoints.write(Path(folder), _checkpoint(1))
        checkpoints.read(path)
        file = path / f"{name}.safetensors"
        data = bytearray(file.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf"no readable checkpoint \({name}\.safetensors differs from its"):
            checkpoints.read(path)
        if name == "optimizer":
            checkpoints.read(path, weights_only=True)


def test_a_lost_average_is_found_and_no_other_weights_are_taken_for_it(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, _checkpoint(1))
    (path / "ema.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is no readable checkpoint .*ema\.safetensors is no regular file"):
        checkpoints.read(path, weights_only=True)


def test_a_file_that_the_digests_do_not_name_is_refused(tmp_path: Path) -> None:
    written = _checkpoint(1)
    written.ema = None
    path = checkpoints.write(tmp_path, written)
    assert checkpoints.read(path).ema is None
    (path / "ema.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"ema\.safetensors differs"):
        checkpoints.read(path)


def test_a_checkpoint_of_a_version_without_digests_is_read(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, _checkpoint(1))
    digests = json.loads((path / "state.json").read_text())["sha256"]
    for name, digest in digests.items():
        assert digest == hashlib.sha256((path / name).read_bytes()).hexdigest()
    assert set(digests) == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
    whole = checkpoints.read(path)
    without_digests(path)
    earlier = checkpoints.read(path)
    assert earlier.state == whole.state
    assert all(torch.equal(earlier.model[name], value) for name, value in whole.model.items())


def test_random_state_comes_back() -> None:
    state = json.loads(json.dumps(checkpoints.get_random_state()))
    drawn = [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002
    checkpoints.set_random_state(state)
    assert drawn == [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002


def test_older_checkpoints_go_but_the_best(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        checkpoints.write(tmp_path / "checkpoints", _checkpoint(epoch), keep=(1,))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["epoch-0001", "epoch-0003"]
    last = checkpoints.last(tmp_path)
    assert last is not None
    assert last.name == "epoch-0003"
    assert checkpoints.find(tmp_path).name == "epoch-0001"


def test_only_checkpoints_are_removed_and_the_last_is_by_number(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("epoch-0001-of-mine", "epoch-final", ".epoch-notes", "epoch-9999", "epoch-10000"):
        (folder / name).mkdir(parents=True)
        (folder / name / "state.json").write_text("{}")
    (folder / "epoch-0005").write_text("a file")
    last = checkpoints.last(tmp_path)
    assert last is not None
    assert last.name == "epoch-10000"
    checkpoints.write(folder, _checkpoint(10001))
    kept = {"epoch-0001-of-mine", "epoch-final", ".epoch-notes", "epoch-0005", "epoch-10001"}
    assert {path.name for path in folder.iterdir()} == kept


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_last_whole_checkpoint_and_no_rest(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    checkpoints.write(run / "checkpoints", _checkpoint(1))

    def full(*_: Any) -> None:
        raise OSError(code, "No space left on device")

    for name in ("save_file", "_flush"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, name, full)
            with pytest.raises(OSError, match="No space"):
                checkpoints.write(run / "checkpoints", _checkpoint(2))
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["epoch-0001"]


class Killed(BaseException):
    """An exception that no handler of errors catches."""


def test_killed_at_any_moment_the_last_complete_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End the process before its first operation on the file system, then before its second, and so on."""
    moments = survived = 0
    while True:
        run = tmp_path / str(moments)
        checkpoints.write(run / "checkpoints", _checkpoint(1, value=1.0))
        with monkeypatch.context() as patch:
            left = moments

            def dying(function: Any) -> Any:
                def die(*arguments: Any, **keywords: Any) -> Any:
                    nonlocal left
                    if left == 0:
                        raise Killed
                    left -= 1
                    return function(*arguments, **keywords)

                return die

            patch.setattr(checkpoints, "save_file", dying(checkpoints.save_file))
            patch.setattr(checkpoints, "_flush", dying(checkpoints._flush))
            patch.setattr(checkpoints.shutil, "rmtree", dying(checkpoints.shutil.rmtree))
            for name in ("mkdir", "write_text", "rename"):
                patch.setattr(Path, name, dying(getattr(Path, name)))
            try:
                checkpoints.write(run / "checkpoints", _checkpoint(2, value=2.0))
            except Killed:
                pass
            else:
                break
        last = checkpoints.last(run)
        assert last is not None
        read = checkpoints.read(last)
        assert read.state["epoch"] in (1, 2)
        assert (read.model["weight"] - read.state["epoch"]).abs().max() < 0.1
        survived += read.state["epoch"] == 1
        checkpoints.write(run / "checkpoints", _checkpoint(2))  # a resumed run writes the next one
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["epoch-0002"]
        moments += 1
    assert moments > 10
    assert 5 < survived < moments


def test_another_models_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    good = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for wrong in (
        {name: value for name, value in good.items() if name != "0.bias"},
        {**good, "2.weight": torch.zeros(1)},
        {**good, "0.weight": torch.zeros(3, 3)},
    ):
        with pytest.raises(ValueError, match=r"here is a checkpoint of another model: [02]\.(bias|weight)"):
            checkpoints.load_weights(model, wrong, "here")
    assert checkpoints.load_weights(model, good, "here") == []
    fresh = checkpoints.load_weights(model, {**good, "1.weight": torch.zeros(7, 3)}, "here", new_head="1")
    assert fresh == ["1.weight"]
