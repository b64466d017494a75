"""The output and every gradient of every reference file equal those of the authors' released code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from models import released

FILES = sorted((Path(__file__).parent.parent / "data").glob("*_*_a.safetensors"))
RVT = [file for file in FILES if file.stem.startswith("rvt")]


def read(file: Path) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """A reference file's metadata, the released code's state_dict, and the other tensors."""
    with safe_open(file, "pt") as handle:
        meta = json.loads(handle.metadata()["meta"])
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    state = {name.removeprefix("state/"): tensors.pop(name) for name in list(tensors) if name.startswith("state/")}
    return meta, state, tensors


def build(meta: dict, state: dict[str, Tensor]) -> torch.nn.Module:
    return (released.model if "image_size" in meta else released.attention)(meta, state)


def test_all_reference_files_are_here() -> None:
    kinds = {file.stem.removesuffix("_a") for file in FILES}
    layers = {f"attention_{kind}" for kind in ("softmax", "performer", "vars_d", "vars_sd")}
    networks = {f"rvt_{kind}" for kind in ("softmax", "performer", "vars_s", "vars_d", "vars_sd")}
    assert kinds == layers | networks | {"block_vars_s"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_output_and_every_gradient_agree_to_1e_4(file: Path) -> None:
    meta, state, tensors = read(file)
    module = build(meta, state)
    x = tensors["input"].requires_grad_()
    output = module(x)
    (output * tensors["cotangent"]).sum().backward()
    output = output.detach()
    parameters = dict(module.named_parameters())
    ours = {"grad/input": x.grad}
    for name in tensors:
        if name.startswith("grad/") and name != "grad/input":
            ours[name] = parameters.pop(released.renamed(name.removeprefix("grad/"), meta["kind"])).grad
    assert not parameters, "parameters without a reference gradient"
    floor = 1e-6 * max(tensors[name].norm() for name in ours)
    error = {
        name: float((grad - tensors[name]).norm() / max(tensors[name].norm(), floor)) for name, grad in ours.items()
    }
    error["output"] = float((output - tensors["output"]).norm() / tensors["output"].norm())
    assert max(error.values()) < 1e-4, max(error, key=error.get)


def checkpoint(tmp_path: Path, state: dict[str, Tensor], **args: object) -> Path:
    path = tmp_path / "checkpoint.pth"
    content = {"model": state, "epoch": 3, "args": argparse.Namespace(model="rvt_tiny", **args)}
    torch.save(content if args else {"model": state}, path)
    return path


@pytest.mark.parametrize("file", RVT, ids=lambda file: file.stem)
def test_a_checkpoint_loads_with_what_its_weights_and_arguments_say(file: Path, tmp_path: Path) -> None:
    meta, state, tensors = read(file)
    unsaid = {"softmax": {"heads": meta["heads"]}, "vars_s": {"lam": meta["lam"]}}
    path = checkpoint(tmp_path, state, lam=meta["lam"], num_step=meta["num_steps"])
    network = released.load(path, attention=meta["kind"], **unsaid.get(meta["kind"], {}))
    assert not network.training
    torch.testing.assert_close(network(tensors["input"]), tensors["output"], rtol=1e-4, atol=1e-5)


def test_arguments_override_what_a_checkpoint_says(tmp_path: Path) -> None:
    _, state, _ = read(next(file for file in RVT if "vars_d_" in file.name))
    path = checkpoint(tmp_path, state, lam=0.1, num_step=2)
    layer = released.load(path).transformers[0].blocks[0].attn
    assert (layer.lam, layer.num_steps) == (0.1, 2)
    layer = released.load(path, lam=0.3, num_steps=5).transformers[0].blocks[0].attn
    assert (layer.lam, layer.num_steps) == (0.3, 5)
    layer = released.load(checkpoint(tmp_path, state)).transformers[0].blocks[0].attn
    assert (layer.lam, layer.num_steps) == (0.3, 5)


def test_weights_before_the_learned_metric_load_with_the_soft_threshold(tmp_path: Path) -> None:
    _, state, tensors = read(next(file for file in RVT if "vars_d_" in file.name))
    older = {name: value for name, value in state.items() if "learned" not in name}
    network = released.load(checkpoint(tmp_path, older))
    variant = network.transformers[0].blocks[0].attn.variant
    assert (variant.threshold, variant.learned_metric) == ("soft", False)
    assert torch.isfinite(network(tensors["input"])).all()


class Payload:
    def __reduce__(self) -> tuple:
        return print, ("this must not run",)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        released.load(tmp_path / "evil.pth")


def test_bad_input_is_told_in_one_sentence(tmp_path: Path) -> None:
    meta, state, _ = read(next(file for file in RVT if "vars_d_" in file.name))
    with pytest.raises(ValueError, match="kind"):
        released.model({**meta, "kind": "vars_x"}, state)
    with pytest.raises(ValueError, match="holds no RVT weights"):
        released.load(checkpoint(tmp_path, {"weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match="those of 'vars_d'"):
        released.load(checkpoint(tmp_path, state), attention="softmax")
    with pytest.raises(ValueError, match=r"head\.weight"):
        released.model(meta, {name: value for name, value in state.items() if name != "head.weight"})
    _, softmax, _ = read(next(file for file in RVT if "softmax" in file.name))
    with pytest.raises(ValueError, match="heads is None"):
        released.load(checkpoint(tmp_path, softmax))


def test_the_released_networks_take_a_batch_of_one_and_any_image_size() -> None:
    for file in RVT:
        meta, state, tensors = read(file)
        network = released.model(meta, state)
        alone = network(tensors["input"][:1])
        torch.testing.assert_close(alone, tensors["output"][:1], rtol=1e-4, atol=1e-5)
        assert network(torch.zeros(1, 3, 96, 64)).shape == (1, meta["num_classes"])
