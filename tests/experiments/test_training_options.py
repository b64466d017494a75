"""Longer runs, steps in parts, what learns first, starts from another attention, and distillation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.settings import Attention, Augmentation, Distillation, Model, Optimization, Settings
from experiments.training import loop
from experiments.training.distilling import Teacher
from experiments.training.finetuning import held_back, stored_network
from experiments.training.logs import read_log
from experiments.training.loop import train

Make = Callable[..., Settings]
SIZES = {"stem": "patch", "embed_dim": 16, "num_heads": 2, "depth": 1}
PLAIN = Augmentation(crop="none", flip=0.0)


def same(first: Path, second: Path) -> bool:
    names = ("model", "optimizer")
    one, two = ([load_file(path / f"{name}.safetensors") for name in names] for path in (first, second))
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, two, strict=True)
    )


def weights(path: Path) -> dict[str, Tensor]:
    return load_file(path / "model.safetensors")


def test_a_finished_run_is_made_longer_and_resumes_bit_for_bit(settings: Make, tmp_path: Path) -> None:
    ends = []
    for name, pauses in (("at once", []), ("in parts", [3])):
        out = str(tmp_path / name)
        train(settings(epochs=2, out=out))
        for pause in pauses:
            train(settings(epochs=4, out=out, resume=True, stop_after=pause))
        ends.append(train(settings(epochs=4, out=out, resume=True)))
    assert ends[0].name == "epoch-0004"
    assert same(*ends)
    assert json.loads((ends[0] / "state.json").read_text())["config"]["epochs"] == 4
    rates = [line["lr"] for line in read_log(tmp_path / "at once") if line["event"] == "epoch"]
    assert rates[2] > rates[1]  # the schedule of the longer run has not come to its end there
    with pytest.raises(ValueError, match=r"epochs is 3, but .* has 4; a run may be made longer, not"):
        train(settings(epochs=3, out=str(tmp_path / "at once"), resume=True))


def test_a_run_of_before_these_options_is_resumed(settings: Make) -> None:
    made = settings(epochs=2, stop_after=1)
    state = train(made) / "state.json"
    held = json.loads(state.read_text())
    del held["config"]["distillation"], held["config"]["optimization"]["layer_decay"]
    state.write_text(json.dumps(held))
    assert train(settings(epochs=2, resume=True)).name == "epoch-0002"


def test_steps_in_parts_are_the_same_steps(settings: Make, tmp_path: Path) -> None:
    ends = []
    for parts in (1, 4):
        options = Optimization(batch_size=8, lr=3e-3, accumulate=parts)
        ends.append(weights(train(settings(epochs=1, out=str(tmp_path / str(parts)), optimization=options))))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=2e-5)
    with pytest.raises(ValueError, match="accumulate is 3; a divisor of batch_size, 8"):
        Optimization(batch_size=8, accumulate=3)


def test_a_step_in_parts_takes_the_memory_of_a_part(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = loop.build_model

    def build(*arguments: object) -> torch.nn.Module:
        model = real(*arguments)
        model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])) if module.training else None)
        return model

    monkeypatch.setattr(loop, "build_model", build)
    train(settings(epochs=1, optimization=Optimization(batch_size=8, accumulate=4)))
    assert set(sizes) == {2}


def test_a_softmax_original_is_fine_tuned_with_another_attention(
    settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = train(settings(epochs=1, out=str(tmp_path / "softmax"), model=_model("softmax")))
    kept = weights(original)
    file = tmp_path / "original.safetensors"
    save_file(kept, file)
    ends = {}
    for source in (str(original), str(file)):
        still = Optimization(batch_size=8, lr=0.0, min_lr=0.0, weight_decay=0.0)
        made = settings(
            epochs=1, out=f"{tmp_path}/{len(ends)}", model=_model("vars_sd"), finetune=source, optimization=still
        )
        ends[source] = weights(train(made))
        assert "new weights: blocks.0.attn" in capsys.readouterr().out
    for found in ends.values():
        assert [n for n, value in kept.items() if "attn.qkv" not in n and not torch.equal(found[n], value)] == []
        q, _, v = kept["blocks.0.attn.qkv.weight"].chunk(3)
        torch.testing.assert_close(found["blocks.0.attn.qkv.weight"], torch.cat([q, v]), rtol=0, atol=0)
    one, two = ends.values()
    assert all(torch.equal(one[name], two[name]) for name in one)


def _model(kind: str) -> Model:
    return Model("vars_deit_micro", Attention(kind), SIZES)


def test_attention_learns_first_and_layers_have_their_own_rates(settings: Make, tmp_path: Path) -> None:
    options = {"batch_size": 8, "lr": 3e-3, "attention_epochs": 1, "layer_decay": 0.5}
    made = {"epochs": 3, "optimization": Optimization(**options), "augmentation": PLAIN, "model": _model("vars_sd")}
    first = train(settings(**made, stop_after=1))
    network, _, _ = stored_network(first)
    torch.manual_seed(0)
    start = loop.build_model(_model("vars_sd"), 6, 16).state_dict()
    held = {id(p) for p in held_back(network)}
    names = {name for name, p in network.named_parameters() if id(p) in held}
    after = weights(first)
    assert {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "norm.weight"} <= names
    assert not names & {"blocks.0.attn.kernel", "head.weight"}
    assert all(torch.equal(after[name], start[name]) == (name in names) for name, _ in network.named_parameters())
    end = train(settings(**made, resume=True))
    assert all(not torch.equal(weights(end)[name], start[name]) for name in names)
    assert same(end, train(settings(**made, out=str(tmp_path / "whole"))))
    rates = json.loads((end / "state.json").read_text())["optimizer"]
    assert "lr_scale" in json.dumps(rates)
    sizes = {"patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 1}
    plain = settings(model=Model("vit_tiny_patch16_224", Attention(), sizes), out=str(tmp_path / "plain"))
    plain.optimization.attention_epochs = 1
    with pytest.raises(ValueError, match="none of this project's attention layers"):
        train(plain)


def test_distillation_is_resumed_bit_for_bit_and_draws_near_the_teacher(settings: Make, tmp_path: Path) -> None:
    teacher = train(settings(epochs=8, out=str(tmp_path / "teacher"), model=_model("softmax"), augmentation=PLAIN))
    options = {
        "epochs": 6,
        "augmentation": PLAIN,
        "optimization": Optimization(batch_size=8, lr=1e-2, weight_decay=0.0),
        "model": _model("vars_d"),
        "distillation": Distillation(teacher=str(teacher), share=1.0, temperature=2.0),
    }
    whole = train(settings(**options, out=str(tmp_path / "whole")))
    parts = {**options, "out": str(tmp_path / "parts")}
    train(settings(**parts, stop_after=2))
    assert same(whole, train(settings(**parts, resume=True)))
    losses = [line["loss"] for line in read_log(tmp_path / "whole") if line["event"] == "epoch"]
    assert losses[-1] < 0.8 * losses[0]  # which is the distance from the teacher alone
    other = settings(**{**options, "out": str(tmp_path / "other")})
    other.data.image_size = 32
    with pytest.raises(ValueError, match=r"whose data\.image_size is 16; 32, as in the run, is wanted"):
        train(other)


def test_the_distilled_loss_is_hintons() -> None:
    logits, goal = torch.randn(2, 5, 4, dtype=torch.float64).unbind(0)
    labels = torch.tensor([0, 1, 2, 3, 0])
    own = torch.nn.functional.cross_entropy(logits, labels)
    teacher = Teacher(torch.nn.Identity(), Distillation(share=0.3, temperature=2.0))
    p, q = (goal / 2).softmax(-1), (logits / 2).softmax(-1)
    expected = 0.7 * own + 0.3 * 4 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(teacher.loss(own, logits, goal).double(), expected, rtol=1e-5, atol=1e-6)
