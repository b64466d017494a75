"""Configurations, command lines and checkpoints may hold known options of the right types, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import ablate, evaluate, figures, learn_dictionary, overfit, quickstart, series, table2, train
from experiments.evaluation.run import Evaluation
from experiments.evaluation.trained import load
from experiments.options.limits import SIZES, checked_sizes
from experiments.options.plain_data import as_plain, check, read
from experiments.settings import Attention, Data, Model, Ode, Optimization, Settings
from experiments.training.loop import train as train_run

COMMANDS = {
    "train": (train.main, [], ["model", "model.sizes", "model.attention.ode", "data.mean", "epochs", "finetune"]),
    "evaluate": (evaluate.main, ["nothing"], ["validation", "attention", "corruptions.names", "label"]),
    "ablate": (ablate.main, ["nothing"], ["validation", "ode", "lam"]),
    "series": (series.main, [], ["runs", "ablations", "train.model.sizes", "seeds", "report"]),
    "table2": (table2.main, ["--models", "[nothing]"], ["validation", "attacks", "models"]),
    "figures": (figures.main, ["atoms", "--images", "[x]", "--out", "y"], ["gaze", "models"]),
    "overfit": (overfit.main, [], ["data", "modes"]),
    "learn_dictionary": (learn_dictionary.main, [], ["steps"]),
    "quickstart": (quickstart.main, [], ["epochs"]),
}

OURS = ("trap.Trap", "os.system", "subprocess.Popen", "builtins.eval")


def _specs(mark: Path) -> list[Any]:
    """Texts that would make a class or call a function, and so leave `mark` behind."""
    calls = [
        {"class_path": "os.system", "init_args": {"command": f"touch {mark}"}},
        {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(mark)]}},
        {"class_path": "builtins.eval", "init_args": {"source": f"open({str(mark)!r}, 'w')"}},
        {"class_path": "trap.Trap"},
    ]
    return [*calls, *({"depth": each} for each in calls), *([each] for each in calls), {"a": [[calls[1]]]}, *OURS]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_of_any_command_imports_or_calls_what_a_value_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "trap.py").write_text(f"open({str(mark)!r}, 'w')\nclass Trap: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main, arguments, options = COMMANDS[name]
    file = tmp_path / "config.yaml"
    for option in options:
        # One command gets every text that could name code. The others share its parser, and get every fifth.
        for number, spec in enumerate(_specs(mark)[:: 1 if (name, option) == ("train", options[0]) else 5]):
            if spec in OURS and option in ("label", "finetune", "report", "models"):
                continue  # here this text is a valid name
            nested: Any = spec
            for part in reversed(option.split(".")):
                nested = {part: nested}
            file.write_text(yaml.safe_dump(nested))
            text = spec if isinstance(spec, str) else json.dumps(spec)
            tries = [["--config", str(file)], [f"--{option}", text], [f"--{option}={text}"]]
            more = [[f"--{option}.class_path", "trap.Trap"], [f"--{option}.help", "trap.Trap"]]
            for words in [tries[number % 3], *(more if number == 0 else [])]:
                assert main([*arguments, *words]) == 2, words
                assert not mark.exists(), words
                error = capsys.readouterr().err
                assert len(error.splitlines()) == 1, error


def test_the_settings_of_checkpoints_pass_the_same_door(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train_run(settings(epochs=1))
    state = json.loads((path / "state.json").read_text())
    mark = tmp_path / "mark"
    for spec in _specs(mark):
        for place in ("sizes", "attention", "name"):
            state["config"]["model"] = {**as_plain(settings().model), place: spec}
            (path / "state.json").write_text(json.dumps(state))
            with pytest.raises(ValueError, match="wanted"):
                load(path)
            assert not mark.exists()
    assert evaluate.main([str(path), "--on", "clean"]) == 2
    for name, value in {"pretrained": True, "checkpoint_path": "x.pth", "pretrained_cfg": {}, "img_size": 32}.items():
        state["config"]["model"] = {**as_plain(settings().model), "sizes": {name: value}}
        (path / "state.json").write_text(json.dumps(state))
        capsys.readouterr()
        assert evaluate.main([str(path), "--on", "clean"]) == 2
        assert "model.sizes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"pretrained": True}, "has 'pretrained'"),
        ({"checkpoint_path": "/x"}, "has 'checkpoint_path'"),
        ({"norm_layer": "torch.nn.Identity"}, "has 'norm_layer'"),
        ({"depth": "2"}, "model.sizes.depth is '2'; an integer or a list, each an integer, is wanted"),
        ({"depth": [2, True]}, "model.sizes.depth"),
        ({"embed_dim": 10**12}, "at most 16384"),
        ({"embed_dim": -3}, "at least 1"),
        ({"heads": []}, "between 1 and 64"),
        ({"drop_rate": 2.0}, "below 1"),
        ({"mlp_ratio": float("nan")}, "finite"),
        ({"stem": "os.system"}, "one of conv, patch"),
    ],
)
def test_sizes_are_those_that_models_take(sizes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Model(sizes=sizes)
    assert checked_sizes({"depth": [1, 2], "stem": "conv", "qkv_bias": False}) is not None


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nepochs: *b\n",
        "epochs: 1\nepochs: 2\n",
        "data: {mean: " + "[" * 5000 + "]" * 5000 + "}\n",
        "<<: {epochs: 1}\n",
        "epochs: !!python/object/apply:os.system ['touch mark']\n",
        "model.sizes.class_path: os.system\n",
        "- 1\n",
        "\0",
        "epochs: .nan\n",
        "optimization: {lr: .inf}\n",
        "seed: 123456789012345678901234567890\n",
        "out: '" + "[" * 5000 + "'\n",
        "finetune: '" + "[" * 5000 + "'\n",
    ],
)
def test_hostile_yaml_is_refused_at_once(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    began = time.monotonic()
    assert train.main(["--config", str(file), "--out", str(tmp_path / "run")]) == 2
    assert time.monotonic() - began < 5
    assert len(capsys.readouterr().err.splitlines()) == 1
    for option in ("--model.sizes", "--finetune"):
        assert train.main([option, text, "--out", str(tmp_path / "run"), "--data.root", str(tmp_path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimization.batch", "3"], "--optimization.batch"),
        (["--optimization.ema", "2"], "optimization.ema is 2"),
        (["--optimization.drop_path", "2"], "optimization.drop_path is 2"),
        (["--optimization.lr", "-1"], "optimization.lr is -1"),
        (["--optimization.batch_size", "-8"], "optimization.batch_size is -8"),
        (["--epochs", "-1"], "epochs is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--data.std", "[0, 1, 1]"], "data.std"),
        (["--optimization.lr", ".nan"], "optimization.lr is nan"),
        (["--accelerator", "cuda"], "accelerator is 'cuda', which this machine does not have"),
        (["--accelerator", "abacus"], "accelerator is 'abacus'"),
        (["--optimization.optimizer", "none"], "optimization.optimizer is 'none'"),
        (["--optimization.schedule", "none"], "optimization.schedule is 'none'"),
        (["--model.sizes", "{embed_dim: 16384, depth: 16384}"], "million weights"),
        (["--model.sizes", "{stem: patch, embed_dim: 15, num_heads: 2, depth: 1}"], "num_heads"),
        (["--data.image_size", "999999999"], "data.image_size"),
        (["--data.download", "true"], "--data.download does nothing"),
        (["--augmentation.scale", "0.5"], "--augmentation.scale does nothing"),
        (["--augmentation.auto_augment", "nonsense"], "augmentation"),
        (["--epochs"], "epochs has no value"),
    ],
)
def test_numbers_and_names_that_cannot_be_are_refused(
    arguments: list[str], words: str, settings: Callable[..., Settings], tmp_path: Path, capsys: Any
) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(as_plain(settings(epochs=1))))
    assert train.main(["--config", str(file), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "run").exists()


def test_attacks_and_devices_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--attacks.radius", "-1"], "attacks.radius is -1"),
        (["--attacks.step", "-1"], "attacks.step is -1"),
        (["--attacks.steps", "-1"], "attacks.steps is -1"),
        (["--attacks.images", "0"], "attacks.images is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--device", "abacus"], "device is 'abacus'"),
        (["--device", "cuda:99"], "device is 'cuda:99'"),
        (["--corruptions.severities", "[]"], "corruptions.severities is empty"),
        (["--on", "clean", "--attacks.radius", "2"], "attacks.radius does nothing"),
        (["--attention.lam", "0.1"], "no kind"),
        (["--weights", "x.safetensors"], "weights is given"),
    ):
        assert evaluate.main(["nothing", *arguments]) == 2
        assert words in capsys.readouterr().err


numbers = st.floats(0, 1, exclude_max=True)


@given(
    lr=numbers,
    ema=numbers,
    lam=st.none() | numbers,
    depth=st.integers(1, 20) | st.lists(st.integers(1, 20), min_size=1, max_size=4),
    horizon=st.floats(0.1, 100),
    names=st.lists(st.text("abc/-_ ", max_size=8), max_size=3),
)
def test_settings_are_read_as_they_were_written(
    lr: float, ema: float, lam: float | None, depth: Any, horizon: float, names: list[str]
) -> None:
    made = Settings(
        model=Model("x", Attention("vars_d", lam=lam, solver="ode", ode=Ode(horizon=horizon)), {"depth": depth}),
        data=Data(train=names),
        optimization=Optimization(lr=lr, ema=ema),
    )
    assert read(Settings, json.loads(json.dumps(as_plain(made))), "") == made
    assert as_plain(read(Evaluation, as_plain(Evaluation()), "")) == as_plain(Evaluation())


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


@settings(max_examples=60)
@given(value=trees, name=st.sampled_from(["model", "data", "epochs", "stop_after", "out", "optimization"]))
def test_any_value_is_read_or_refused_in_a_sentence(value: Any, name: str) -> None:
    for act in (check, read):
        try:
            act(Settings, {name: value}, "")
        except ValueError as error:
            assert "wanted" in str(error) or "no option" in str(error)  # noqa: PT017


def test_every_size_has_a_type_that_is_plain() -> None:
    assert not {"pretrained", "checkpoint_path", "pretrained_cfg", "attention", "device"} & set(SIZES)
